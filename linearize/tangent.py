"""The small model that a network is near its pretrained weights."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linearize.types import Outputs, Params

_DEAD = 1e-12
"""No feature is left below; one over it is still a number."""


class TangentModel(abc.ABC):
    """A network near its pretrained weights, as a small model of few parameters.

    Training it from `initial` stands in for training the network; nothing else of the network is
    left. A pytree, so it passes through `jax.jit`.

    Attributes:
        exact: whether the features are exact, projected by the identity.
    """

    exact: bool

    @abc.abstractmethod
    def initial(self) -> Params:
        """The parameters before training."""

    @abc.abstractmethod
    def __call__(self, params: Params) -> Outputs:
        """The outputs of all its samples at the given parameters."""

    @abc.abstractmethod
    def at(self, params: Params) -> TangentModel:
        """The same function with other initial parameters; the Jacobian stays."""

    @abc.abstractmethod
    def take(self, index: Int[Array | np.ndarray, " batch"] | slice) -> TangentModel:
        """The same model on some of its samples."""

    @abc.abstractmethod
    def output_jacobian(self) -> Float[Array, "samples outputs projected"]:
        """The projected Jacobian of the outputs by the body, at the initial parameters."""

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """N."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearTangent(TangentModel):
    """The paper's model, f(x) = f₀(x) + J(x)(θ − θ₀), in projected coordinates.

    Its parameters are ``{"body": Sθ}``: the projected weights themselves, so that weight decay
    pulls where it does in the network.

    Attributes:
        outputs_initial: f₀.
        jacobian: J Sᵀ.
        body_initial: S θ₀.
        exact: whether S is the identity.
    """

    outputs_initial: Float[Array, "samples outputs"]
    jacobian: Float[Array, "samples outputs projected"]
    body_initial: Float[Array, " projected"]
    exact: bool = field(metadata={"static": True})

    def initial(self) -> Params:
        """``{"body": Sθ₀}``."""
        return {"body": self.body_initial}

    def __call__(self, params: Params) -> Outputs:
        """Outputs, shape (samples, outputs)."""
        return self.outputs_initial + self.jacobian @ (params["body"] - self.body_initial)

    def at(self, params: Params) -> LinearTangent:
        """The same function with other initial parameters."""
        return replace(self, outputs_initial=self(params), body_initial=params["body"])

    def take(self, index: Int[Array | np.ndarray, " batch"] | slice) -> LinearTangent:
        """The same model on some of its samples."""
        return replace(
            self,
            outputs_initial=self.outputs_initial[index],
            jacobian=self.jacobian[index],
        )

    def output_jacobian(self) -> Float[Array, "samples outputs projected"]:
        """J Sᵀ."""
        return self.jacobian

    @property
    def samples(self) -> int:
        """N."""
        return self.outputs_initial.shape[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadExactTangent(TangentModel):
    """The head as it is, the body linearised: f(x) = Wᵀ(h₀(x) + L Qᵀ J_h(x)(φ − φ₀)) + b.

    A fresh head is small, so the plain tangent kernel hardly sees the body, whose part grows with
    ‖W‖² while the head grows; here W and b train exactly. The parameters are
    ``{"head": {"kernel": W, "bias": b}, "body": Sφ}``, less what is frozen or absent.

    Features behind a ReLU cannot fall below zero. They shrink as the product of layers that they
    are: the derivative is in proportion to what is left. So where `nonnegative`, a feature that
    the linear model lowers by Δ becomes h₀ exp(−Δ/h₀) instead of h₀ − Δ. Which ones it lowers, the
    directions that the head reads do not tell by themselves, so L says how all features move, from
    how they do along these.

    Attributes:
        features_initial: h₀.
        jacobian: Qᵀ J_h Sᵀ.
        directions: Q, orthonormal columns: directions of feature space.
        lift: L, with QᵀL = 1.
        origin: S φ₀, where the body is linearised.
        body_initial: Sφ before training; `origin` but for `at`.
        kernel_initial: W₀.
        bias_initial: b₀, or zeros.
        bias_trains: whether b is among the parameters.
        nonnegative: whether no feature is ever negative.
        exact: whether S is the identity.
    """

    features_initial: Float[Array, "samples features"]
    jacobian: Float[Array, "samples directions projected"]
    directions: Float[Array, "features directions"]
    lift: Float[Array, "features directions"]
    origin: Float[Array, " projected"]
    body_initial: Float[Array, " projected"]
    kernel_initial: Float[Array, "features outputs"]
    bias_initial: Float[Array, " outputs"]
    bias_trains: bool = field(metadata={"static": True})
    nonnegative: bool = field(metadata={"static": True})
    exact: bool = field(metadata={"static": True})

    def initial(self) -> Params:
        """``{"head": {"kernel": W, "bias": b}, "body": Sφ}`` before training."""
        bias = {"bias": self.bias_initial} if self.bias_trains else {}
        return {"head": {"kernel": self.kernel_initial, **bias}, "body": self.body_initial}

    def __call__(self, params: Params) -> Outputs:
        """Outputs, shape (samples, outputs)."""
        bias = params["head"].get("bias", self.bias_initial)
        return self.features(params) @ params["head"]["kernel"] + bias

    def features(self, params: Params) -> Float[Array, "samples features"]:
        """The features, h."""
        change = self._change(params)
        if not self.nonnegative:
            return self.features_initial + change
        return bent(self.features_initial, change)

    def features_along(self, params: Params) -> Float[Array, "samples directions"]:
        """The features along the directions, Qᵀ h."""
        return self.features(params) @ self.directions

    def sensitivity(self, params: Params) -> Float[Array, "samples features"]:
        """By how much the features move, over how much the linear model's would."""
        if not self.nonnegative:
            return jnp.ones_like(self.features_initial)
        return left(self.features_initial, self._change(params))

    def _change(self, params: Params) -> Float[Array, "samples features"]:
        return (self.jacobian @ (params["body"] - self.origin)) @ self.lift.T

    def at(self, params: Params) -> HeadExactTangent:
        """The same function with other initial parameters."""
        return replace(
            self,
            body_initial=params["body"],
            kernel_initial=params["head"]["kernel"],
            bias_initial=params["head"].get("bias", self.bias_initial),
        )

    def take(self, index: Int[Array | np.ndarray, " batch"] | slice) -> HeadExactTangent:
        """The same model on some of its samples."""
        return replace(
            self,
            features_initial=self.features_initial[index],
            jacobian=self.jacobian[index],
        )

    def output_jacobian(self) -> Float[Array, "samples outputs projected"]:
        """Wᵀ diag(sensitivity) L Qᵀ J_h Sᵀ."""
        mixing = jnp.einsum(
            "nd,dq,dc->nqc",
            self.sensitivity(self.initial()),
            self.lift,
            self.kernel_initial,
        )
        return jnp.einsum("nqk,nqc->nck", self.jacobian, mixing)

    @property
    def samples(self) -> int:
        """N."""
        return self.features_initial.shape[0]


def bent(features: Array, change: Array) -> Array:
    """Features that are never negative, after what the linear model changes them by."""
    return jnp.where(change < 0, features * left(features, change), features + change)


def left(features: Array, change: Array) -> Array:
    """The share of features that is left where the linear model lowers them; 1 elsewhere."""
    alive = features > _DEAD
    shrunk = jnp.exp(jnp.minimum(change, 0) / jnp.where(alive, features, 1))
    return jnp.where(alive, shrunk, change >= 0)
