"""The small model that a network is near its pretrained weights."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linearize.batches import map_batches
from linearize.guards import check
from linearize.jacobian import Jacobian, projected_jacobian
from linearize.network import Network
from linearize.projection import CountSketch, Identity, Projection
from linearize.types import Inputs, Outputs, Params, Progress

Mode = Literal["head_exact", "linear"]

_DEAD = 1e-12
"""No feature is left below; one over it is still a number."""

_RIDGE = 1e-3
"""Of the mean square of movements along a direction."""


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
        shrunk = self.features_initial * _left(self.features_initial, change)
        return jnp.where(change < 0, shrunk, self.features_initial + change)

    def features_along(self, params: Params) -> Float[Array, "samples directions"]:
        """The features along the directions, Qᵀ h."""
        return self.features(params) @ self.directions

    def sensitivity(self, params: Params) -> Float[Array, "samples features"]:
        """By how much the features move, over how much the linear model's would."""
        if not self.nonnegative:
            return jnp.ones_like(self.features_initial)
        return _left(self.features_initial, self._change(params))

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


def _left(features: Array, change: Array) -> Array:
    """The share of features that is left where the linear model lowers them; 1 elsewhere."""
    alive = features > _DEAD
    shrunk = jnp.exp(jnp.minimum(change, 0) / jnp.where(alive, features, 1))
    return jnp.where(alive, shrunk, change >= 0)


Directions = (
    Float[Array | np.ndarray, "features directions"]
    | Callable[[HeadExactTangent], Float[Array, "features directions"]]
)
Movements = (
    Float[Array | np.ndarray, "moves features"]
    | Callable[[HeadExactTangent], Float[Array, "moves features"]]
)
_Project = Callable[[HeadExactTangent | None], Projection]


def linearize(
    network: Network,
    samples: Inputs,
    projection: Projection | _Project | None = None,
    *,
    mode: Mode | None = None,
    directions: Directions | None = None,
    movements: Movements | None = None,
    memory_bytes: int = 2**29,
    checked: bool = False,
    progress: Progress | None = None,
) -> HeadExactTangent | LinearTangent:
    """Linearise a network around its weights on some samples.

    Args:
        network: the network; its trainable parameters are what training will move.
        samples: inputs, samples on the leading axis.
        projection: of parameter space; by default `CountSketch()`, and `Identity()` for networks
            with no more parameters than it has columns. Or a function that makes it from the model
            in which only the head moves (None where the mode is ``"linear"``).
        mode: ``"head_exact"`` (default where the network has a trainable head) or ``"linear"``,
            the plain tangent model of the paper.
        directions: Q for ``"head_exact"``, or a function that finds it from the model in which only
            the head moves; all of feature space by default. Only its span matters.
        movements: how features move as the body trains (see `feature_movement`), or a function that
            finds it after the directions; by default only along the directions.
        memory_bytes: bound on the raw Jacobians held at once (at least one sample's). The result
            itself takes samples × directions × k numbers, or samples × outputs × k.
        checked: the network has passed `check` already; it is not checked again.
        progress: called with (samples done, samples in all).

    Returns:
        The tangent model on these samples. One sample costs one forward and one backward pass per
        direction (or output).

    Raises:
        ValueError: the network fails a guard (see `check`), an unknown mode, ``"head_exact"``
            without a trainable head, directions of another feature space.
    """
    if not checked:
        check(network, samples)
    exact_head = network.head is not None and network.is_trainable(network.head.kernel)
    if mode is None:
        mode = "head_exact" if exact_head else "linear"
    differentiate = partial(
        projected_jacobian, samples=samples, memory_bytes=memory_bytes, progress=progress
    )
    if mode == "linear":
        return _linear_tangent(network, differentiate, _chosen(projection, network, None))
    if mode != "head_exact":
        msg = f"mode: got {mode!r}; expected 'head_exact' or 'linear'"
        raise ValueError(msg)
    if not exact_head:
        msg = f"mode: 'head_exact' needs a trainable head in {network.name}; use mode='linear'"
        raise ValueError(msg)
    still = _still_body(network, body_features(network, samples))
    if not jax.tree.leaves(network.body(network.params)):
        return still
    if callable(directions):
        directions = directions(still)
    orthonormal = _orthonormal(still, directions)
    if callable(movements):
        movements = movements(still)
    return _moving_body(
        network,
        still,
        orthonormal,
        _lift(orthonormal, movements),
        differentiate,
        _chosen(projection, network, still),
    )


def body_features(
    network: Network, samples: Inputs, *, batch: int = 256
) -> Float[Array, "samples features"]:
    """h(x), the inputs of the head, by forward passes over batches of samples."""
    basis = jnp.eye(network.head_kernel(network.params).shape[0])
    forward = jax.jit(lambda params, inputs: network.features(params, inputs, basis))
    return map_batches(partial(forward, network.params), samples, batch)


_Differentiate = Callable[..., Jacobian]


def _chosen(
    projection: Projection | _Project | None, network: Network, still: HeadExactTangent | None
) -> Projection:
    if projection is None:
        small = network.parameter_count <= CountSketch.columns
        return Identity() if small else CountSketch()
    return projection if isinstance(projection, Projection) else projection(still)


def _linear_tangent(
    network: Network, differentiate: _Differentiate, projection: Projection
) -> LinearTangent:
    at = differentiate(network.apply, network.params, projection=projection)
    return LinearTangent(at.values, at.rows, at.origin, exact=isinstance(projection, Identity))


def _still_body(network: Network, features: Array) -> HeadExactTangent:
    """The model in which only the head moves."""
    kernel, bias = network.head_kernel(network.params), network.head_bias(network.params)
    head = network.head
    return HeadExactTangent(
        features_initial=features,
        jacobian=jnp.zeros((features.shape[0], 0, 0), features.dtype),
        directions=jnp.zeros((features.shape[1], 0), features.dtype),
        lift=jnp.zeros((features.shape[1], 0), features.dtype),
        origin=jnp.zeros(0, features.dtype),
        body_initial=jnp.zeros(0, features.dtype),
        kernel_initial=kernel,
        bias_initial=jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias,
        bias_trains=head is not None and head.bias is not None and network.is_trainable(head.bias),
        nonnegative=bool((features >= 0).all()),
        exact=True,
    )


def _moving_body(
    network: Network,
    still: HeadExactTangent,
    directions: Array,
    lift: Array,
    differentiate: _Differentiate,
    projection: Projection,
) -> HeadExactTangent:
    body = network.body(network.params)
    at = differentiate(network.features_by_body(directions), body, projection=projection)
    return replace(
        still,
        jacobian=at.rows,
        directions=directions,
        lift=lift,
        origin=at.origin,
        body_initial=at.origin,
        exact=isinstance(projection, Identity),
    )


def _orthonormal(still: HeadExactTangent, directions: Any) -> Array:
    features = still.features_initial.shape[1]
    if directions is None:
        return jnp.eye(features, dtype=still.features_initial.dtype)
    if directions.ndim != 2 or directions.shape[0] != features or directions.shape[1] < 1:
        msg = f"directions: got shape {directions.shape}; expected ({features}, q), q at least 1"
        raise ValueError(msg)
    return jnp.linalg.qr(jnp.asarray(directions))[0]


def _lift(directions: Array, movements: Any) -> Array:
    """L: by least squares over the movements, where they lie off the directions."""
    if movements is None:
        return directions
    if movements.ndim != 2 or movements.shape[1] != len(directions):
        msg = f"movements: got shape {movements.shape}; expected (moves, {len(directions)})"
        raise ValueError(msg)
    moves = jnp.asarray(movements)
    along = moves @ directions
    moment, count = along.T @ along, along.shape[1]
    ridge = _RIDGE * jnp.trace(moment) / count + np.finfo(np.float32).tiny
    lift = jnp.linalg.solve(moment + ridge * jnp.eye(count), along.T @ moves).T
    return directions + lift - directions @ (directions.T @ lift)
