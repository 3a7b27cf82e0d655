"""One real training step and one real evaluation, compiled once."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from linearize import Network
from linearize.batches import map_batches
from linearize.types import Inputs, Params
from ntkpredict.data import Data, Split, subset_index, take
from ntkpredict.plan import Plan
from sde import Objective

_EVALUATION_BATCH = 256


class State(NamedTuple):
    """What training carries from step to step.

    Attributes:
        params: the trainable parameters.
        optimizer: the optimizer's state.
    """

    params: Params
    optimizer: Any


class TrainingStep:
    """The training step of a plan.

    Args:
        network: the network.
        data: the data.
        plan: the plan.
        evaluation_samples: how many samples of each split an evaluation reads at most, the same
            ones each time.

    Attributes:
        outputs: C, the network's.

    Raises:
        ValueError: a batch larger than the data, labels that do not fit the network.
    """

    def __init__(
        self, network: Network, data: Data, plan: Plan, *, evaluation_samples: int = 1024
    ) -> None:
        if plan.batch_size > data.samples:
            msg = f"batch_size: got {plan.batch_size}; expected 1..{data.samples}, the samples"
            raise ValueError(msg)
        outputs = jax.eval_shape(network.apply, network.params, take(data.train, slice(1))[0])
        self.outputs = outputs.shape[1]
        self._network = network
        self._optimizer = plan.optimizer
        self._objective = plan.objective
        self._inputs = data.train[0]
        self._targets = np.asarray(self._objective.targets(data.train[1], self.outputs))
        splits = {"train": data.train, "validation": data.validation}
        self._evaluated = {
            name: _subset(split, self._objective, self.outputs, evaluation_samples)
            for name, split in splits.items()
            if split is not None
        }
        self._step = jax.jit(self._update, donate_argnums=0)
        self._apply = network.compiled

    def initial(self) -> State:
        """The state before the first step."""
        params = jax.tree.map(lambda leaf: leaf.copy(), self._network.params)
        return State(params, jax.jit(self._optimizer.init)(params))

    def __call__(
        self, state: State, index: Int[np.ndarray, " batch"]
    ) -> tuple[State, Float[Array, ""]]:
        """The state after one step on these samples, and their loss before it.

        The old state is given up.
        """
        inputs = jax.tree.map(lambda leaf: leaf[index], self._inputs)
        return self._step(state, inputs, self._targets[index])

    def evaluate(self, params: Params, split: str) -> tuple[float, float]:
        """(loss, accuracy) of ``"train"`` or ``"validation"``, on the samples evaluated."""
        inputs, targets = self._evaluated[split]
        outputs = map_batches(partial(self._apply, params), inputs, _EVALUATION_BATCH)
        loss, accuracy = _metrics(self._objective, outputs, targets)
        return float(loss), float(accuracy)

    @property
    def evaluated(self) -> dict[str, int]:
        """How many samples of each split an evaluation reads."""
        return {split: len(targets) for split, (_, targets) in self._evaluated.items()}

    def _update(self, state: State, inputs: Inputs, targets: Array) -> tuple[State, Array]:
        def loss(params: Params) -> Array:
            return self._objective.loss(self._network.apply(params, inputs), targets).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer), value


@partial(jax.jit, static_argnums=0)
def _metrics(objective: Objective, outputs: Array, targets: Array) -> tuple[Array, Array]:
    return objective.loss(outputs, targets).mean(), objective.accuracy(outputs, targets)


def _subset(split: Split, objective: Objective, outputs: int, count: int) -> Split:
    inputs, labels = take(split, subset_index(len(split[1]), count))
    return inputs, np.asarray(objective.targets(labels, outputs))
