"""Samples in batches of one size, so that a function is compiled once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from linearize.types import Inputs


def sample_count(samples: Inputs) -> int:
    """N, the length of the leading axis."""
    return jax.tree.leaves(samples)[0].shape[0]


def batches(samples: Inputs, size: int) -> Iterator[tuple[Inputs, slice]]:
    """(batch, its place) for all samples; the last batch repeats its last sample to be full.

    The place of the last batch is shorter than the batch where samples are repeated.
    """
    count = sample_count(samples)
    size = min(size, count)
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        place = slice(start, min(start + size, count))
        yield jax.tree.map(lambda leaf, index=index: leaf[index], samples), place


def weighted_batches(samples: Inputs, weights: Any, size: int) -> Iterator[tuple[Inputs, Array]]:
    """(batch, its weights) for all samples; those of samples that are repeated are 0."""
    for (batch, part), place in batches((samples, np.asarray(weights)), size):
        part[place.stop - place.start :] = 0
        yield batch, jnp.asarray(part)


def map_batches(function: Callable[[Inputs], Array], samples: Inputs, size: int) -> Array:
    """A function of a batch, applied to all samples; results lie along the leading axis."""
    parts = [function(batch)[: place.stop - place.start] for batch, place in batches(samples, size)]
    return jnp.concatenate(parts)
