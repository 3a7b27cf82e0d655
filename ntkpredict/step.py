"""One real training step and one real evaluation, compiled once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from linearize import Network
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
    """

    def __init__(
        self, network: Network, data: Data, plan: Plan, *, evaluation_samples: int = 1024
    ) -> None:
        outputs = jax.eval_shape(network.apply, network.params, take(data.train, slice(1))[0])
        self._network = network
        self._optimizer = plan.optimizer
        self._objective = plan.objective
        self._inputs = data.train[0]
        self._targets = np.asarray(self._objective.targets(data.train[1], outputs.shape[1]))
        splits = {"train": data.train, "validation": data.validation}
        self._evaluated = {
            name: _subset(split, self._objective, outputs.shape[1], evaluation_samples)
            for name, split in splits.items()
            if split is not None
        }
        self._step = jax.jit(self._update, donate_argnums=0)
        self._measure = jax.jit(self._sums)

    def initial(self) -> State:
        """The state before the first step."""
        params = jax.tree.map(lambda leaf: leaf.copy(), self._network.params)
        return State(params, self._optimizer.init(params))

    def __call__(self, state: State, index: Int[np.ndarray, " batch"]) -> State:
        """The state after one step on these samples; the old one is given up."""
        inputs = jax.tree.map(lambda leaf: leaf[index], self._inputs)
        return self._step(state, inputs, self._targets[index])

    def evaluate(self, params: Params) -> dict[str, tuple[float, float]]:
        """(loss, accuracy) of each split, on the samples evaluated."""
        results = {}
        for name, (inputs, targets) in self._evaluated.items():
            sums = np.zeros(2)
            for start in range(0, len(targets), _EVALUATION_BATCH):
                batch = slice(start, start + _EVALUATION_BATCH)
                part = jax.tree.map(lambda leaf, batch=batch: leaf[batch], inputs)
                sums += self._measure(params, part, targets[batch])
            results[name] = (sums[0] / len(targets), sums[1] / len(targets))
        return results

    def _update(self, state: State, inputs: Inputs, targets: Array) -> State:
        def loss(params: Params) -> Array:
            return self._objective.loss(self._network.apply(params, inputs), targets).mean()

        updates, optimizer = self._optimizer.update(
            jax.grad(loss)(state.params), state.optimizer, state.params
        )
        return State(optax.apply_updates(state.params, updates), optimizer)

    def _sums(self, params: Params, inputs: Inputs, targets: Array) -> Float[Array, "2"]:
        outputs = self._network.apply(params, inputs)
        correct = self._objective.accuracy(outputs, targets) * len(targets)
        return jnp.stack([self._objective.loss(outputs, targets).sum(), correct])


def _subset(split: Split, objective: Objective, outputs: int, count: int) -> Split:
    inputs, labels = take(split, subset_index(len(split[1]), count))
    return inputs, np.asarray(objective.targets(labels, outputs))
