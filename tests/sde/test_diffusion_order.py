"""Euler-Maruyama against the same equation, written out and solved finely by diffrax.

Both are driven by the same Brownian paths. Drift and diffusion are spelled out here: explicit
gradients of the samples, and the matrix (1/√N)(g_i − ḡ)·√(ρ/B) in front of N Brownian motions.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from linearize import LinearTangent
from sde import CrossEntropy, Examples, GradientDescent, Problem, SquaredError
from sde.diffusion import move, start
from sde.noise import BatchNoise

SAMPLES, COLUMNS, TIME = 8, 3, 4.0
FINE = 1 / 128
STRONG = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16])
WEAK = np.array([1.0, 1 / 2, 1 / 4])
OBJECTIVES = {"squared error": (SquaredError(), 1, 0.25), "cross-entropy": (CrossEntropy(), 2, 1.0)}
BATCH = {"squared error": 2, "cross-entropy": 1}


class Case(NamedTuple):
    """The data as plain arrays."""

    jacobian: np.ndarray
    initial: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    rate: float
    batch: int
    softmax: bool


def case(name: str) -> Case:
    _, outputs, rate = OBJECTIVES[name]
    random = np.random.default_rng(4)
    jacobian = random.normal(size=(SAMPLES, outputs, COLUMNS)) * np.array([1.2, 0.9, 0.6])
    initial = random.normal(size=(SAMPLES, outputs))
    targets = random.normal(size=(SAMPLES, outputs))
    if name == "cross-entropy":
        targets = np.eye(outputs)[random.integers(0, outputs, SAMPLES)]
    weights = random.normal(size=COLUMNS)
    soft = name == "cross-entropy"
    return Case(jacobian, initial, weights, targets, rate, BATCH[name], soft)


def problem(name: str, batch_size: int | None = None) -> Problem:
    given = case(name)
    model = LinearTangent(
        *(jnp.asarray(values) for values in (given.initial, given.jacobian, given.weights)),
        exact=True,
    )
    examples = Examples(model, jnp.asarray(given.targets))
    chosen = given.batch if batch_size is None else batch_size
    optimizer = optax.sgd(given.rate)
    return Problem(examples, OBJECTIVES[name][0], optimizer, chosen, sampling="independent")


# The equation, written out


def gradients(given: Case, theta: jax.Array) -> jax.Array:
    """Of the loss of each sample, (samples, columns)."""
    outputs = given.initial + given.jacobian @ (theta - given.weights)
    guess = jnp.exp(outputs) if given.softmax else outputs
    guess = guess / guess.sum(1, keepdims=True) if given.softmax else guess
    return jnp.einsum("nck,nc->nk", given.jacobian, guess - given.targets)


def mean_loss(given: Case, theta: jax.Array) -> jax.Array:
    outputs = given.initial + given.jacobian @ (theta - given.weights)
    if given.softmax:
        chosen = (outputs * given.targets).sum(1)
        return (jnp.log(jnp.exp(outputs).sum(1)) - chosen).mean()
    return ((outputs - given.targets) ** 2).sum(1).mean() / 2


def terms(given: Case, momentum: float, paths: Path) -> Any:
    """dθ = −η(α v + β G) dt and dv = (κ v + γ G) dt, with G dt = ∇L dt + the noise."""
    alpha, beta, kappa, gamma = 0.0, 1.0, 0.0, 0.0
    if momentum:
        kappa = np.log(momentum)
        gamma = -kappa / (1 - momentum)
        alpha, beta = momentum * gamma, (1 - momentum * gamma) / (1 - momentum)
    without_return = (SAMPLES - given.batch) / (SAMPLES - 1)
    loudness = np.sqrt(without_return / given.batch / SAMPLES)

    def drift(t: Any, state: Any, args: Any) -> jax.Array:
        theta, velocity = state
        pull = gradients(given, theta).mean(0)
        return jnp.stack(
            [-given.rate * (alpha * velocity + beta * pull), kappa * velocity + gamma * pull]
        )

    def diffusion(t: Any, state: Any, args: Any) -> jax.Array:
        each = gradients(given, state[0])
        matrix = loudness * (each - each.mean(0)).T  # (columns, samples)
        return jnp.stack([-given.rate * beta * matrix, gamma * matrix])

    return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, paths))


class Path(diffrax.AbstractPath):
    """A Brownian path from its values at multiples of the fine step."""

    values: jax.Array
    t0: float = 0.0
    t1: float = TIME

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> jax.Array:
        return self._at(t1) - self._at(t0)

    def _at(self, time: Any) -> jax.Array:
        return self.values[jnp.round(time / FINE).astype(int)]


def brownian(key: jax.Array) -> Path:
    increments = FINE**0.5 * jax.random.normal(key, (round(TIME / FINE), SAMPLES))
    return Path(jnp.concatenate([jnp.zeros((1, SAMPLES)), increments.cumsum(0)]))


def reference(given: Case, momentum: float, keys: jax.Array) -> jax.Array:
    """θ at the end of every path."""

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> jax.Array:
        found = diffrax.diffeqsolve(
            terms(given, momentum, brownian(key)),
            diffrax.Euler(),
            t0=0.0,
            t1=TIME,
            dt0=FINE,
            y0=jnp.stack([jnp.asarray(given.weights), jnp.zeros(COLUMNS)]),
            max_steps=int(TIME / FINE) + 1,
            adjoint=diffrax.ForwardMode(),
        )
        return found.ys[-1, 0]

    return run(keys)


def ours(name: str, momentum: float, keys: jax.Array, strides: np.ndarray) -> list[jax.Array]:
    """θ at the end of every path by `move`, given the same increments, for each stride."""
    given = problem(name)
    noise = BatchNoise.of(given)
    descent = GradientDescent(
        np.array([case(name).rate]), np.array(momentum), np.zeros(()), np.zeros(())
    )

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None))
    def run(key: jax.Array, stride: jax.Array, steps: int) -> jax.Array:
        tree = brownian(key)

        def step(i: jax.Array, state: Any) -> Any:
            increments = tree.evaluate(i * stride, (i + 1) * stride)
            # Nothing is left over for a second epoch: the other half of the numbers is not read.
            normals = jnp.stack([increments / jnp.sqrt(stride), jnp.full(SAMPLES, 1e9)])
            rate = jnp.asarray(descent.learning_rate[0])
            return move(given, state, descent, rate, noise, i * stride, stride, normals)

        return jax.lax.fori_loop(0, steps, step, start(given)).params["body"]

    return [run(keys, jnp.asarray(stride), round(TIME / stride)) for stride in strides]


@cache
def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


# Orders of convergence


@pytest.mark.parametrize("name", OBJECTIVES)
def test_strong_order_is_one_half(x64: None, optimized: None, name: str) -> None:
    paths = keys(300)
    exact = reference(case(name), 0.0, paths)
    errors = [
        float(jnp.sqrt(jnp.square(found - exact).sum(1).mean()))
        for found in ours(name, 0.0, paths, STRONG)
    ]
    fit = stats.linregress(np.log(STRONG), np.log(errors))
    assert 0.4 < fit.slope < 0.7, errors
    assert np.all(np.diff(errors) < 0)


@pytest.mark.parametrize(
    ("name", "momentum"), [("squared error", 0.0), ("squared error", 0.5), ("cross-entropy", 0.0)]
)
def test_weak_order_is_one(x64: None, optimized: None, name: str, momentum: float) -> None:
    """In the mean loss; the same paths, so that their differences are all that is left."""
    paths = keys(3000)
    given = case(name)
    losses = jax.vmap(lambda theta: mean_loss(given, theta))
    exact = losses(reference(given, momentum, paths))
    off, error = [], []
    for found in ours(name, momentum, paths, WEAK):
        difference = np.asarray(losses(found) - exact)
        off.append(abs(difference.mean()))
        error.append(difference.std() / len(paths) ** 0.5)
    assert (np.array(off) > 4 * np.array(error)).all()  # the noise of the estimate is not seen
    assert 0.8 < stats.linregress(np.log(WEAK), np.log(off)).slope < 1.35, off


# Without noise


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_at_stride_one_the_map_is_the_optimizer(
    x64: None, name: str, nesterov: bool, momentum: float
) -> None:
    given, rate = problem(name, batch_size=SAMPLES), case(name).rate
    optimizer = optax.sgd(rate, momentum=momentum, nesterov=nesterov)
    descent = GradientDescent(
        np.array([rate]), np.array(momentum), np.array(float(nesterov)), np.zeros(())
    )
    noise, one = BatchNoise.of(given), jnp.ones(())
    normals = jnp.ones((2, SAMPLES))

    @jax.jit
    def step(state: Any, params: Any, optimizer_state: Any, time: Any) -> Any:
        state = move(given, state, descent, jnp.asarray(rate), noise, time, one, normals)
        pull = {"body": gradients(case(name), params["body"]).mean(0)}
        updates, optimizer_state = optimizer.update(pull, optimizer_state)
        return state, optax.apply_updates(params, updates), optimizer_state

    state = start(given)
    params, optimizer_state = state.params, optimizer.init(state.params)
    for time in range(12):
        state, params, optimizer_state = step(state, params, optimizer_state, float(time) * one)
        np.testing.assert_allclose(state.params["body"], params["body"], rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_two_half_steps_on_a_lasting_gradient_are_a_whole_one(x64: None, momentum: float) -> None:
    """The map is exact for a gradient that stays: heavy ball's velocity is a geometric sum."""
    given = problem("squared error", batch_size=SAMPLES)
    model = given.train.model
    assert isinstance(model, LinearTangent)
    # Nearly nothing is curved on this scale, so that the gradient stays what it is.
    rate = 1e-9
    descent = GradientDescent(np.array([rate]), np.array(momentum), np.zeros(()), np.zeros(()))
    noise, normals = BatchNoise.of(given), jnp.zeros((2, SAMPLES))
    ends = []
    for stride in (1.0, 0.5, 0.3, 2.0):
        state, length = start(given), jnp.asarray(stride)
        for i in range(round(6 / stride)):
            time = i * length
            state = move(given, state, descent, jnp.asarray(rate), noise, time, length, normals)
        moved = (state.params["body"] - model.body_initial) / rate
        ends.append(np.concatenate([moved, state.velocity["body"]]))
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-6)
