"""How loud the noise of minibatches is, and what it remembers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from linearize.types import Params
from sde.problem import Examples, Problem

_FOREVER = 1e30


class BatchNoise(NamedTuple):
    """The weights of the samples in a minibatch step, as increments of a Gaussian process.

    Sample i has the weight 1/N + √(intensity/N)·(x_i − x̄), with x_i the increment of a process X_i
    over the step. Batches drawn afresh make X_i a Brownian motion. A shuffled epoch, in which every
    sample comes up once, makes it a Brownian bridge that returns to 0 after N/B steps, so that what
    one batch had too much of the later ones have too little of.

    Attributes:
        intensity: what multiplies the covariance of the gradients of the samples.
        period: the steps to the end of the bridge, N/B; for ever where batches are independent.
        restart: the whole steps of an epoch, after which a new bridge begins.
    """

    intensity: Float[Array, ""] | float
    period: Float[Array, ""] | float
    restart: Float[Array, ""] | float

    @staticmethod
    def of(problem: Problem) -> BatchNoise:
        """The noise of a problem's minibatches; none for full batches."""
        samples, batch_size = problem.samples, problem.batch_size
        if samples == batch_size:
            return BatchNoise(0.0, 1.0, 1.0)
        # The bridge's own increments have the variance (N − B)/N of the finite population.
        if problem.sampling == "epochs":
            intensity = samples / ((samples - 1) * batch_size)
            return BatchNoise(intensity, samples / batch_size, float(samples // batch_size))
        intensity = (samples - batch_size) / ((samples - 1) * batch_size)
        return BatchNoise(intensity, _FOREVER, 1.0)

    def variance(self) -> Float[Array, ""] | float:
        """Of the weights' noise in one step, times N."""
        return self.intensity * (1 - 1 / self.period)

    def increment(
        self,
        level: Float[Array, " samples"],
        time: Float[Array, ""],
        duration: Float[Array, ""],
        normals: Float[Array, "2 samples"],
    ) -> tuple[Float[Array, " samples"], Float[Array, " samples"]]:
        """The process moves on.

        Args:
            level: X at the start.
            time: at the start, in steps of training.
            duration: in steps of training.
            normals: standard normal numbers.

        Returns:
            X at the end and its increments.
        """
        since = time % self.restart
        left = self.period - since
        before = jnp.minimum(duration, self.restart - since)
        after = duration - before
        whole, rest = jnp.divmod(after, self.restart)

        def bridged(elapsed: Array | float, total: Array | float) -> Array | float:
            return elapsed * (1 - elapsed / total)

        crossing = bridged(before, left) + whole * bridged(self.restart, self.period)
        change = -level * before / left + jnp.sqrt(crossing) * normals[0]
        fresh = jnp.sqrt(bridged(rest, self.period)) * normals[1]
        ends = jnp.isclose(since + duration, self.restart) | (after > 0)
        return jnp.where(ends, fresh, level + change), change + fresh


def noise_scale(problem: Problem) -> float:
    """Tr Σ/|G|² at the initial parameters: how many samples a gradient needs to beat its noise.

    G is the mean gradient and Σ the covariance of the samples' own. Both are estimated without
    bias; infinite where nothing of the gradient stands out.

    Source: McCandlish et al. 2018, arXiv:1812.06162.
    """
    count = problem.samples

    @jax.jit
    def gradients(train: Examples, params: Params) -> tuple[Array, Array]:
        def one(index: Array) -> Array:
            sample = train.take(index[None])
            slope = jax.grad(lambda p: sample.losses(p, problem.objective).mean())(params)
            return ravel_pytree(slope)[0]

        each = jax.lax.map(one, jnp.arange(count))
        mean = each.mean(0)
        return jnp.sum(mean**2), jnp.sum((each - mean) ** 2) / (count - 1)

    square, spread = map(float, gradients(problem.train, problem.train.model.initial()))
    signal = square - spread / count
    return spread / signal if signal > 0 else float("inf")
