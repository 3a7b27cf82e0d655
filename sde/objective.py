"""What training minimises and what it reports, per sample and from outputs alone."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

Labels = Any
"""Integer labels of shape (samples,), or targets of shape (samples, outputs)."""

Targets = Float[Array, "samples outputs"]


class Objective(abc.ABC):
    """A loss over outputs and targets. The loss of a batch is the mean over its samples.

    Attributes:
        relative: whether adding the same number to all outputs of a sample changes nothing.
    """

    relative: ClassVar[bool] = False

    @abc.abstractmethod
    def targets(self, labels: Labels, outputs: int) -> Targets:
        """Labels as the targets that `loss` reads, shape (samples, outputs).

        Raises:
            ValueError: labels outside of 0..outputs-1, targets of another width or not finite.
        """

    @abc.abstractmethod
    def loss(
        self, outputs: Float[Array, "n c"], targets: Float[Array, "n c"]
    ) -> Float[Array, " n"]:
        """The loss of each sample."""

    def accuracy(
        self, outputs: Float[Array, "n c"], targets: Float[Array, "n c"]
    ) -> Float[Array, ""]:
        """The share of samples whose largest output is at their largest target."""
        return (outputs.argmax(-1) == targets.argmax(-1)).mean()


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Softmax cross-entropy, −Σ_c y_c log softmax(f)_c, in nats.

    Attributes:
        label_smoothing: α of y ← (1 − α)·y + α/C, in [0, 1).
    """

    relative: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            msg = f"label_smoothing: got {self.label_smoothing}; expected 0 <= value < 1"
            raise ValueError(msg)

    def targets(self, labels: Labels, outputs: int) -> Targets:
        """Smoothed class probabilities; soft labels must be non-negative and sum to one."""
        soft = _one_hot_or_dense(labels, outputs)
        if (soft < 0).any() or not np.allclose(soft.sum(1), 1, atol=1e-4):
            msg = "labels: soft labels must be probabilities: non-negative, each row of sum 1"
            raise ValueError(msg)
        return optax.losses.smooth_labels(jnp.asarray(soft), self.label_smoothing)

    def loss(
        self, outputs: Float[Array, "n c"], targets: Float[Array, "n c"]
    ) -> Float[Array, " n"]:
        """Nats per sample."""
        return _cross_entropy(outputs, targets)


_cross_entropy = jax.jit(optax.losses.softmax_cross_entropy)


@dataclass(frozen=True)
class SquaredError(Objective):
    """½ Σ_c (f_c − y_c)², summed over outputs; integer labels become one-hot targets."""

    def targets(self, labels: Labels, outputs: int) -> Targets:
        """One-hot targets, or the targets as they are."""
        return jnp.asarray(_one_hot_or_dense(labels, outputs))

    def loss(
        self, outputs: Float[Array, "n c"], targets: Float[Array, "n c"]
    ) -> Float[Array, " n"]:
        """Half the squared distance per sample."""
        return optax.losses.l2_loss(outputs, targets).sum(-1)


def _one_hot_or_dense(labels: Labels, outputs: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if low < 0 or high >= outputs:
            worst = low if low < 0 else high
            msg = (
                f"labels: got {worst}; expected 0..{outputs - 1}, the network has {outputs} outputs"
            )
            raise ValueError(msg)
        return np.eye(outputs, dtype=jnp.zeros(()).dtype)[array]
    if array.ndim != 2 or array.shape[1] != outputs or not np.issubdtype(array.dtype, np.floating):
        msg = (
            f"labels: got shape {array.shape} of {array.dtype}; expected integers (samples,) "
            f"or floats (samples, {outputs})"
        )
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = "labels: got NaN or infinite targets; remove these samples"
        raise ValueError(msg)
    return array
