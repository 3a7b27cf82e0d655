"""Per-sample Jacobians, projected as they are made, so that no more than a few exist at once."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import batches, sample_count
from linearize.projection import Project, Projection
from linearize.threads import cores, in_threads
from linearize.types import Inputs, Outputs, Params, Progress


class Jacobian(NamedTuple):
    """A function of parameters and samples, expanded around its parameters.

    Attributes:
        values: the function's values.
        rows: J Sᵀ, the projected Jacobian.
        origin: Sθ, the projected parameters.
    """

    values: Float[Array, "samples outputs"]
    rows: Float[Array, "samples outputs projected"]
    origin: Float[Array, " projected"]


_Function = Callable[[Params, Inputs], Outputs]
_Step = Callable[[Inputs], tuple[Array, Array]]


def projected_jacobian(
    function: _Function,
    params: Params,
    samples: Inputs,
    projection: Projection,
    *,
    memory_bytes: int,
    progress: Progress | None = None,
) -> Jacobian:
    """Differentiate a function by its parameters, sample by sample.

    Args:
        function: (params, samples) -> values, each row of its own sample only.
        params: pytree of arrays.
        samples: inputs, samples on the leading axis.
        projection: of the parameters.
        memory_bytes: bound on the raw Jacobians held at once (at least one sample's).
        progress: called with (samples done, samples in all).
    """
    params = jax.tree.map(jnp.asarray, params)
    project = projection.bind(params)
    traced = jax.make_jaxpr(function)(params, jax.tree.map(lambda leaf: leaf[:1], samples))
    on_cpu = jax.default_backend() == "cpu"
    slow = on_cpu and _has_grouped_convolutions(traced.jaxpr)
    (_, rows), dtype = traced.out_avals[0].shape, traced.out_avals[0].dtype
    width = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    fit = max(1, memory_bytes // (2 * width * (1 if slow else rows)))
    # XLA's CPU convolutions are fastest one sample at a time, each on its own core, and outside of
    # compiled loops; accelerators want wide batches.
    size, workers = (1, min(fit, cores())) if on_cpu else (fit, 1)
    parts = ((jax.tree.map(jnp.asarray, batch), place) for batch, place in batches(samples, size))
    first = jax.tree.map(jnp.asarray, next(batches(samples, size))[0])
    step = (_row_by_row if slow else _all_rows)(function, params, project, first)

    def differentiate(part: tuple[Inputs, slice]) -> tuple[np.ndarray, np.ndarray, slice]:
        values, projected = step(part[0])
        return np.asarray(values), np.asarray(projected), part[1]

    count = sample_count(samples)
    values = np.empty((count, rows), dtype)
    jacobian = np.empty((count, rows, projection.dimension(params)), dtype)
    for some, projected, place in in_threads(differentiate, parts, workers):
        real = place.stop - place.start
        values[place], jacobian[place] = some[:real], projected[:real]
        if progress is not None:
            progress(place.stop, count)
    origin = jax.jit(projection.point)(params)
    return Jacobian(jnp.asarray(values), jnp.asarray(jacobian), origin)


def _all_rows(function: _Function, params: Params, project: Project, batch: Inputs) -> _Step:
    """Values and projected Jacobians of batches like this one.

    Compiled here, as threads would each compile it, and by their own settings.
    """

    def per_sample(params: Params, project: Project, sample: Inputs) -> tuple[Array, Array]:
        single = jax.tree.map(lambda leaf: leaf[None], sample)
        values, pullback = jax.vjp(lambda p: function(p, single)[0], params)
        gradients = jax.vmap(lambda unit: pullback(unit)[0])(
            jnp.eye(values.size, dtype=values.dtype)
        )
        return values, project(gradients)

    step = jax.jit(jax.vmap(per_sample, in_axes=(None, None, 0)))
    return partial(step.lower(params, project, batch).compile(), params, project)


def _row_by_row(function: _Function, params: Params, project: Project, sample: Inputs) -> _Step:
    """The same for single samples, a row of the Jacobian at a time.

    XLA's CPU convolutions of groups, as in MobileNet, are much slower under vmap.
    """

    @jax.jit
    def forth(params: Params, sample: Inputs) -> tuple[Array, Any]:
        return jax.vjp(lambda p: function(p, sample), params)

    @jax.jit
    def back(pullback: Any, project: Project, unit: Array) -> Array:
        return project(jax.tree.map(lambda leaf: leaf[None], pullback(unit)[0]))

    forth_compiled = forth.lower(params, sample).compile()
    values, pullback = forth_compiled(params, sample)
    units = [unit[None] for unit in np.eye(values.size, dtype=values.dtype)]
    back_compiled = back.lower(pullback, project, units[0]).compile()

    def step(sample: Inputs) -> tuple[Any, Any]:
        values, pullback = forth_compiled(params, sample)
        rows = [back_compiled(pullback, project, unit) for unit in units]
        return values, np.concatenate(rows)[None]

    return step


def _has_grouped_convolutions(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.params.get("feature_group_count", 1) > 1:
            return True
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and _has_grouped_convolutions(inner):
                return True
    return False
