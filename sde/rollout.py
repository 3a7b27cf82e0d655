"""Many simulated runs side by side along a grid of steps, in one compiled scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from linearize.types import Progress

Grid = Int[np.ndarray, " grid"]


def rollout(
    start: Callable[[Any, Any], Any],
    advance: Callable[[Any, Any, Any, Array], Any],
    observe: Callable[[Any], Any],
    plans: Any,
    seeds: Any,
    grid: Grid,
    progress: Progress | None = None,
) -> Any:
    """Run every plan with every seed and observe the runs on a grid; to be traced.

    Args:
        start: (plan, seed) -> the state of a run at step 0.
        advance: (state, plan, seed, (first step, last step)) -> state.
        observe: state -> a pytree of arrays.
        plans: a pytree of arrays, the plans along their leading axis.
        seeds: likewise.
        grid: increasing steps.
        progress: called with (steps done, steps in all).

    Returns:
        What `observe` returns, with three more leading axes (plans, seeds, grid).
    """
    begin = jax.vmap(jax.vmap(start, (None, 0)), (0, None))
    along = jax.vmap(jax.vmap(advance, (0, None, 0, None)), (0, 0, None, None))

    def segment(states: Any, span: Array) -> tuple[Any, Any]:
        states = along(states, plans, seeds, span)
        if progress is not None:
            jax.debug.callback(progress, span[1], grid[-1], ordered=True)
        return states, jax.vmap(jax.vmap(observe))(states)

    spans = jnp.asarray(np.stack([np.concatenate([[0], grid[:-1]]), grid], axis=1))
    observed = jax.lax.scan(segment, begin(plans, seeds), spans)[1]
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), observed)


def part(progress: Progress | None, index: int, parts: int) -> Progress | None:
    """The progress of one of several parts, as progress of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(done + index * total, parts * total)
