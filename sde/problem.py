"""The training of a tangent model, stated; the solvers solve it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from linearize import TangentModel
from linearize.types import Params
from sde.growth import Growth
from sde.minibatch import Sampling, independent_order, minibatch_order
from sde.objective import Objective, Targets


class Examples(NamedTuple):
    """A tangent model on some samples and their targets (from `Objective.targets`)."""

    model: TangentModel
    targets: Targets

    def take(self, index: Any) -> Examples:
        """Some of the examples."""
        return Examples(self.model.take(index), self.targets[index])

    def losses(self, params: Params, objective: Objective) -> Float[Array, " samples"]:
        """The loss of each sample."""
        return objective.loss(self.model(params), self.targets)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["train", "validation", "growth"],
    meta_fields=["objective", "optimizer", "batch_size", "seeds", "sampling"],
)
@dataclass(frozen=True)
class Problem:
    """What is trained, on what and how. A pytree, so it passes through `jax.jit`.

    Attributes:
        train: the training samples.
        objective: the loss.
        optimizer: an optax transformation that commutes with rotations of parameter space, or
            treats coordinates one by one and the model is projected accordingly (`ScaledSketch`).
        batch_size: B, samples per step, at most those of `train`.
        seeds: of the minibatch orders or of the noise; one curve each.
        validation: the validation samples, with the same projection and directions.
        sampling: ``"epochs"``, every sample once an epoch, as training does; or
            ``"independent"``, each batch drawn afresh from all samples, as the SDE of the paper
            has it.
        growth: how the body's part of the kernel grows; None where it is frozen.
    """

    train: Examples
    objective: Objective
    optimizer: optax.GradientTransformation
    batch_size: int
    seeds: tuple[int, ...] = (0,)
    validation: Examples | None = None
    sampling: Sampling = "epochs"
    growth: Growth | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.samples:
            msg = f"batch_size: got {self.batch_size}; expected 1..{self.samples}, the samples"
            raise ValueError(msg)
        if not self.seeds:
            msg = "seeds: got none; expected at least one"
            raise ValueError(msg)
        if self.sampling not in get_args(Sampling):
            msg = f"sampling: got {self.sampling!r}; expected one of {get_args(Sampling)}"
            raise ValueError(msg)

    @property
    def samples(self) -> int:
        """N."""
        return self.train.model.samples

    @property
    def sets(self) -> list[Examples]:
        """The samples that curves are of: training, then validation if there is any."""
        return [self.train] if self.validation is None else [self.train, self.validation]

    def at(self, params: Params) -> Problem:
        """The same training, begun from other parameters."""
        return replace(self, train=self.train._replace(model=self.train.model.at(params)))

    def orders(self, steps: int) -> Int[np.ndarray, "seeds steps batch"]:
        """The samples of each minibatch, for each seed."""
        draw = minibatch_order if self.sampling == "epochs" else independent_order
        return np.stack([draw(self.samples, self.batch_size, steps, seed) for seed in self.seeds])

    def take(self, index: Int[Array | np.ndarray, " subset"] | slice) -> Problem:
        """The same training on some of the training samples."""
        growth = None if self.growth is None else self.growth.take(index)
        return replace(self, train=self.train.take(index), growth=growth)
