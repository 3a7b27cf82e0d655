"""Per-sample Jacobians, projected as they are made, so that no more than a few exist at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import batches, sample_count
from linearize.projection import Project, Projection
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


def projected_jacobian(
    function: Callable[[Params, Inputs], Outputs],
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

    def per_sample(params: Params, project: Project, sample: Inputs) -> tuple[Array, Array]:
        single = jax.tree.map(lambda leaf: leaf[None], sample)
        values, pullback = jax.vjp(lambda p: function(p, single)[0], params)
        gradients = jax.vmap(lambda unit: pullback(unit)[0])(
            jnp.eye(values.size, dtype=values.dtype)
        )
        return values, project(gradients)

    project = projection.bind(params)
    first = jax.tree.map(lambda leaf: leaf[:1], samples)
    traced = jax.make_jaxpr(function)(params, first)
    (_, rows) = traced.out_avals[0].shape
    if jax.default_backend() == "cpu" and _has_grouped_convolutions(traced.jaxpr):
        step = _row_by_row(function)
    else:
        step = jax.jit(jax.vmap(per_sample, in_axes=(None, None, 0)))
    width = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    count = sample_count(samples)
    values: list[np.ndarray] = []
    jacobian: np.ndarray | None = None
    for batch, place in batches(samples, _samples_at_once(rows * width, memory_bytes)):
        out, projected = step(params, project, batch)
        real = place.stop - place.start
        values.append(np.asarray(out[:real]))
        if jacobian is None:
            jacobian = np.empty((count, *projected.shape[1:]), projected.dtype)
        jacobian[place] = projected[:real]
        if progress is not None:
            progress(place.stop, count)
    origin = jax.jit(projection.point)(params)
    return Jacobian(jnp.asarray(np.concatenate(values)), jnp.asarray(jacobian), origin)


_Step = Callable[[Params, Project, Inputs], tuple[Array, Array]]


def _row_by_row(function: Callable[[Params, Inputs], Outputs]) -> _Step:
    """The same for one sample, a row of its Jacobian at a time.

    XLA's CPU convolutions of groups, as in MobileNet, take five times as long under vmap.
    """

    @jax.jit
    def forth(params: Params, sample: Inputs) -> tuple[Array, Any]:
        return jax.vjp(lambda p: function(p, sample), params)

    @jax.jit
    def back(pullback: Any, project: Project, unit: Array) -> Array:
        return project(jax.tree.map(lambda leaf: leaf[None], pullback(unit)[0]))

    def step(params: Params, project: Project, sample: Inputs) -> tuple[Array, Array]:
        values, pullback = forth(params, sample)
        units = jnp.eye(values.size, dtype=values.dtype)
        rows = [back(pullback, project, unit[None]) for unit in units]
        return values, jnp.concatenate(rows)[None]

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


def _samples_at_once(bytes_per_sample: int, memory_bytes: int) -> int:
    # XLA's CPU convolutions are faster one sample at a time than under vmap, and much faster
    # outside of a compiled loop; accelerators want wide batches.
    if jax.default_backend() == "cpu":
        return 1
    return max(1, memory_bytes // (2 * bytes_per_sample))
