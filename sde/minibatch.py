"""The order in which training visits its samples; the simulation and real runs share it."""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int

Sampling: TypeAlias = Literal["epochs", "independent"]


def epoch_order(
    samples: int, batch_size: int, epoch: int, seed: int
) -> Int[np.ndarray, "batches batch"]:
    """One epoch: a fresh permutation, cut into whole batches; what is left over is dropped.

    Args:
        samples: N, at least `batch_size`.
        batch_size: B.
        epoch: from 0 on.
        seed: of the run; any epoch can be drawn without those before it.

    Raises:
        ValueError: a batch larger than the data.
    """
    if not 1 <= batch_size <= samples:
        msg = f"batch_size: got {batch_size}; expected 1..{samples}, the number of samples"
        raise ValueError(msg)
    batches = samples // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(samples)
    return order[: batches * batch_size].reshape(batches, batch_size).astype(np.int32)


def minibatch_order(
    samples: int, batch_size: int, steps: int, seed: int
) -> Int[np.ndarray, "steps batch"]:
    """The samples of each of the first `steps` minibatches; see `epoch_order`."""
    first = epoch_order(samples, batch_size, 0, seed)
    epochs = -(-steps // len(first))
    later = [epoch_order(samples, batch_size, epoch, seed) for epoch in range(1, epochs)]
    return np.concatenate([first, *later])[:steps]


def independent_order(
    samples: int, batch_size: int, steps: int, seed: int
) -> Int[np.ndarray, "steps batch"]:
    """Minibatches each drawn afresh from all samples, without replacement within a batch."""
    random = np.random.default_rng((seed, samples))
    batches = [random.choice(samples, batch_size, replace=False) for _ in range(steps)]
    return np.stack(batches).astype(np.int32)
