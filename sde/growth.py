"""A kernel that grows while features form.

One linearisation freezes the kernel, and training moves it: the body's part of it first shrinks,
then grows up to a hundredfold. What grows is the Jacobian, and it does so with the features
themselves, as in a product of layers the derivative by one is the product of the others. So scale
the frozen Jacobian by ρ(t), with

    ρ² = (a² + b²)^(1 - 1/L),

where a is how much of the pretrained features is left and b how much of others has formed, both
relative to the pretrained ones, about their mean over samples and along the directions that the
head reads, and L is the number of layers that train: one alone is linear and its Jacobian stays.
The tangent model has these features, so ρ costs nothing and needs no look at the network.
`experiments/growth` holds this against the growth at the weights of real runs. Behind a ReLU the
tangent model's Jacobian shrinks by itself where features do (`HeadExactTangent.sensitivity`); ρ is
what is missing to the law.

Growth stops at the edge of stability: where a larger kernel would be unstable at the learning rate,
training keeps it from growing on (Cohen et al. 2021, arXiv:2103.00065).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize import HeadExactTangent, TangentModel
from linearize.types import Params
from sde.descent import as_gradient_descent

_LEAST = 0.01
"""Of γ by itself; below, there are no features left to tell from."""


@partial(jax.tree_util.register_dataclass, data_fields=["origin", "bound"], meta_fields=["depth"])
@dataclass(frozen=True)
class Growth:
    """How the body's part of a kernel grows with the features. A pytree.

    Attributes:
        origin: the pretrained features of the training samples along the model's directions.
        bound: the largest γ = ρ² at each step; its last value holds from then on.
        depth: L.
    """

    origin: Float[Array, "samples directions"]
    bound: Float[Array | np.ndarray, " steps"]
    depth: int

    def take(self, index: Any) -> Growth:
        """Of some of the samples."""
        return replace(self, origin=self.origin[index])

    def scale(self, model: TangentModel, params: Params, step: Array | int) -> Float[Array, ""]:
        """ρ, the factor on the body's Jacobian.

        Args:
            model: the samples of this growth, two at least.
            params: of the model.
            step: of training.
        """
        assert isinstance(model, HeadExactTangent)
        factor = self.squared(*change(self.origin, model.features_along(params)))
        bounded = jnp.minimum(factor, jnp.asarray(self.bound)[step])
        own = own_growth(model.sensitivity(params), model.directions)
        return jnp.sqrt(jnp.where(jnp.isfinite(bounded), bounded / own, 1))

    def squared(self, kept: Any, formed: Any) -> Any:
        """ρ² of a and b, without the bound."""
        return (kept**2 + formed**2) ** (1 - 1 / self.depth)


def change(
    origin: Float[Array, "samples directions"], features: Float[Array, "samples directions"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How much of the features is left, and how much of others has formed: a and b.

    Not a number where the original ones do not differ between samples.
    """
    before, after = (values - values.mean(0) for values in (origin, features))
    size = (before**2).sum()
    kept = (before * after).sum() / size
    # Not |after|² − a²|before|², which rounds to something below 0.
    formed = jnp.sqrt(((after - kept * before) ** 2).sum() / size)
    return kept, formed


def own_growth(
    sensitivity: Float[Array, "samples features"], directions: Float[Array, "features directions"]
) -> Float[Array, ""]:
    """γ of a model alone, whose features are less and less sensitive while they shrink."""
    weights = jnp.square(directions).sum(1)
    shares = jnp.square(sensitivity).mean(0)
    return jnp.maximum((shares @ weights) / weights.sum(), _LEAST)


def stable_growth(
    optimizer: Any, critical_rate: float | None, steps: int
) -> Float[np.ndarray, " steps"]:
    """The largest γ at each step: what keeps the kernel within the edge of stability.

    Args:
        optimizer: an optax transformation.
        critical_rate: the largest learning rate at which the frozen kernel is stable; None where
            it is not known.
        steps: of training.

    Returns:
        At least 1; infinite where no bound is known.
    """
    descent = as_gradient_descent(optimizer, steps)
    if descent is None or critical_rate is None:
        return np.full(1, np.inf, np.float32)
    return growth_bound(np.asarray(descent.learning_rate), critical_rate)


def growth_bound(
    rates: Float[np.ndarray, " steps"], critical_rate: float
) -> Float[np.ndarray, " steps"]:
    """`stable_growth` at known learning rates."""
    return np.maximum(critical_rate / np.maximum(rates, 1e-30), 1).astype(np.float32)
