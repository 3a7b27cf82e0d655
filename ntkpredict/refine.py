"""Follow the real weights along the predicted path and see how the kernel grows.

One linearisation freezes the kernel, and training moves it. Here the tangent model predicts how
training goes on until the loss has fallen a little. The weights are moved there by one backward
pass: the residuals along the way, pulled back through the network as it is now. A few real steps
settle them, as a long step leaves the valley that training follows. The gradients there tell how
much faster the body learns than the frozen kernel has it, and the tangent model goes on from the
real outputs. How fast a kernel grows with the features, `sde.Growth` has as one number for all
networks; what is seen here makes it this network's own.

It is an exponential integrator in function space with the inner steps of a projective integrator in
weight space (Gear and Kevrekidis 2003, doi:10.1137/S1064827501388157).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize_scalar

from linearize import Head, HeadExactTangent, Network
from linearize.batches import batches, map_batches
from linearize.network import merge, with_head
from linearize.types import Inputs, Params, Progress
from sde import Examples, Growth, Problem, as_gradient_descent, is_coordinate_wise
from sde.growth import RATE, change
from sde.training import gradient_step

_FALL = 0.9
"""The factor by which the loss falls in a stretch."""

_LONGEST = 1.3
"""A stretch leads to at most this many times the steps so far."""

_FIRST = 10
"""Steps of the first stretch, at most."""

_PULLED = 128
"""Samples whose residuals move the weights."""

_MEASURED = 128
"""Samples whose gradients measure the growth."""

_SETTLING = 10
"""Real training steps after a stretch."""

_SPREAD = 0.3
"""Of log c from task to task, and"""

_NOISE = 0.35
"""of the logarithm of a measured γ: what one measurement weighs against `sde.growth.RATE`."""

_CHUNK = 64
"""Samples in one pass through the network."""


@dataclass(frozen=True)
class WeightPath:
    """What was seen of the real weights along the predicted path.

    Attributes:
        steps: where they were looked at, from 0 on.
        growth: γ, the factor on the body's part of the kernel there.
        kept: how much of the pretrained features is left there, see `sde.Growth`.
        formed: how much of others has formed.
        predicted: the loss that the tangent model expected there, on the samples looked at.
        real: the loss of the network.
        rate: c, how the growth follows from the features, as measured on the path.
        forward_passes: what it cost, in forward passes of one sample.
    """

    steps: Int[np.ndarray, " marks"]
    growth: Float[np.ndarray, " marks"]
    kept: Float[np.ndarray, " marks"]
    formed: Float[np.ndarray, " marks"]
    predicted: Float[np.ndarray, " marks"]
    real: Float[np.ndarray, " marks"]
    rate: float
    forward_passes: float

    @property
    def gap(self) -> float | None:
        """How far the real losses are from the expected ones: the median of |real/predicted - 1|.

        A stretch begins at the real loss, so this is what the tangent model misses in one stretch.
        None where the budget paid for none.
        """
        ratios = self.real[1:] / self.predicted[1:]
        return float(np.median(np.abs(ratios - 1))) if len(ratios) else None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> WeightPath:
        """From what JSON holds of it."""
        return cls(
            steps=np.array(content["steps"], int),
            rate=float(content["rate"]),
            forward_passes=float(content["forward_passes"]),
            **{
                name: np.array(content[name], float)
                for name in ("growth", "kept", "formed", "predicted", "real")
            },
        )


def follow(
    network: Network,
    problem: Problem,
    inputs: Inputs,
    max_steps: int,
    budget: float,
    *,
    progress: Progress | None = None,
) -> WeightPath:
    """Follow the predicted path through weight space, stretch by stretch.

    Args:
        network: the network, at its pretrained weights.
        problem: the training of its `HeadExactTangent` on some samples, with a kernel that grows.
        inputs: these samples.
        max_steps: where the path ends.
        budget: forward passes to spend, at most. A stretch costs one for each sample, eight for
            each of at most 128 (the first one eleven), and ten training steps; there are about ten
            to fifteen.
        progress: called with (steps done, steps in all).

    Returns:
        The path; it ends before its time where the budget does, or where the network diverges, and
        does not begin where nothing but the head trains.
    """
    walk = _Walk(network, problem, inputs, max_steps)
    if not jax.tree.leaves(network.body(network.params)):
        return walk.path()
    while walk.step < max_steps and walk.cost + walk.stretch_cost <= budget and walk.stretch():
        if progress is not None:
            progress(walk.step, max_steps)
    return walk.path()


def measured(problem: Problem, path: WeightPath) -> Problem:
    """The same training with the growth that a path has shown."""
    return replace(problem, growth=replace(_growing(problem), rate=path.rate))


class _Training(NamedTuple):
    """The tangent model on its way."""

    model: HeadExactTangent
    params: Params
    optimizer: Any


class _Walk:
    """The tangent model's training and the real weights, side by side."""

    def __init__(self, network: Network, problem: Problem, inputs: Inputs, max_steps: int) -> None:
        self._network = network
        self._inputs = inputs
        self._targets = problem.train.targets
        self._batch_size = problem.batch_size
        self._order = problem.orders(max_steps)[0]
        self._max_steps = max_steps
        self._random = np.random.default_rng(problem.seeds[0])
        self._scaled = is_coordinate_wise(problem.optimizer)
        model = _head_exact(problem)
        params = model.initial()
        self._tangent = _Training(model, params, problem.optimizer.init(params))
        self._passes = _Passes(network, problem, self._order, max_steps)
        self._weights = network.params
        self._settler = self._passes.settler.init(network.params)
        self._growth, self._unit = _growing(problem), 1.0
        self._squares: tuple[Params, Array] | None = None
        self.step, self.cost = 0, 0.0
        loss = self._loss()
        self._marks = [(0, 1.0, 1.0, 0.0, loss, loss)]

    @property
    def stretch_cost(self) -> float:
        """Of a stretch, in forward passes of one sample."""
        count = len(self._targets)
        measuring = 3 * min(_MEASURED, count) * (1 if self.step else 2)  # at the start, too
        settling = 3.0 * self._batch_size * _SETTLING
        return 5 * min(_PULLED, count) + measuring + count + settling

    def path(self) -> WeightPath:
        """What was seen so far."""
        names = ("steps", "growth", "kept", "formed", "predicted", "real")
        marks = dict(zip(names, map(np.array, zip(*self._marks, strict=True)), strict=True))
        return WeightPath(**marks, rate=float(self._growth.rate), forward_passes=self.cost)

    def stretch(self) -> bool:
        """One stretch; false where it does not lead to finite losses and gradients."""
        self.cost += self.stretch_cost
        before = self._tangent.params["body"]
        residuals = self._predict()
        if not self._squares:  # γ is 1 at the pretrained weights, but for the projection
            self._unit, self._squares = self._measure(), None
        self._pull(residuals, self._tangent.params["body"] - before)
        settled = min(self.step + _SETTLING, self._max_steps)
        predicted = float(self._passes.loss(self._tangent.model, self._advance(settled).params))
        self._settle(settled)
        self._anchor()
        growth, real = self._measure() / self._unit, self._loss()
        if not (np.isfinite([predicted, real, growth]).all() and growth > 0):
            return False
        features = self._tangent.model.features_along(self._tangent.params)
        kept, formed = map(float, change(self._growth.origin, features))
        self._marks.append((self.step, growth, kept, formed, predicted, real))
        self._growth = replace(self._growth, rate=self._rate())
        return True

    def _rate(self) -> float:
        """c, as likely as the measurements and what is known from other tasks make it."""
        steps, growth, kept, formed, *_ = (
            np.array(each) for each in zip(*self._marks, strict=True)
        )

        def surprise(log_rate: float) -> float:
            law = replace(self._growth, rate=np.exp(log_rate)).squared(kept, formed)
            law = np.minimum(
                law, self._growth.bound[np.minimum(steps, len(self._growth.bound) - 1)]
            )
            if self._scaled:  # an update over the root of the mean square since the start
                law = law / np.sqrt(np.cumsum(law * np.diff(steps, prepend=-1)) / (steps + 1))
            errors = np.log(law[1:] / growth[1:]) / _NOISE
            return ((log_rate - np.log(RATE)) / _SPREAD) ** 2 + (errors**2).sum()

        return float(np.exp(minimize_scalar(surprise, bounds=(-3, 3), method="bounded").x))

    def _predict(self) -> Array:
        """Train the tangent model on; the sum of its residuals on the way."""
        model, params, optimizer = self._tangent
        self._tangent = _Training(model, params, _at_step(optimizer, self.step))
        end = min(max(int(_LONGEST * self.step), _FIRST), self._max_steps)
        start = loss = self._marks[-1][-1]
        residuals = jnp.zeros(model.jacobian.shape[:2])
        while self.step < end and loss > _FALL * start:
            until = min(self.step + max(2, self.step // 10), end)
            residuals += (until - self.step) * self._passes.residuals(model, self._tangent.params)
            self._tangent, self.step = self._advance(until), until
            loss = self._loss()
        return residuals

    def _advance(self, until: int) -> _Training:
        """The tangent model after more steps."""
        model, params, optimizer = self._tangent
        params, optimizer = self._passes.advance(
            model, self._growth, params, optimizer, self.step, until
        )
        return _Training(model, params, optimizer)

    def _pull(self, residuals: Array, moved: Array) -> None:
        """Move the body as the residuals pull, as far as the tangent model's features moved."""
        pick = self._pick(_PULLED)
        gradient, square = self._gradient(pick, residuals)
        direction = self._direction(gradient, square)
        push = partial(self._passes.push, self._weights, direction=direction)
        real = map_batches(push, _take(self._inputs, pick), _CHUNK)
        wanted = self._tangent.model.jacobian[pick] @ moved
        size = jnp.linalg.norm(wanted) / jnp.maximum(jnp.linalg.norm(real), 1e-30)
        body = self._network.body(self._weights)
        body = jax.tree.map(lambda weight, way: weight - size * way, body, direction)
        weights, head = merge(body, self._weights), self._tangent.params["head"]
        place = cast("Head", self._network.head)
        self._weights = with_head(weights, place, head["kernel"], head.get("bias"))

    def _settle(self, end: int) -> None:
        """Real training steps, part of the run's own."""
        self._settler = _at_step(self._settler, self.step)
        for index in self._order[self.step : end]:
            self._weights, self._settler = self._passes.train(
                self._weights, self._settler, _take(self._inputs, index), self._targets[index]
            )
        self.step = end

    def _anchor(self) -> None:
        """Let the tangent model go on from the real features and head."""
        network, (model, params, optimizer) = self._network, self._tangent
        features = map_batches(partial(self._passes.features, self._weights), self._inputs, _CHUNK)
        head = {
            "kernel": network.head_kernel(self._weights),
            "bias": network.head_bias(self._weights),
        }
        params = {**params, "head": {name: head[name] for name in params["head"]}}
        model = replace(
            model, features_initial=features, origin=params["body"], body_initial=params["body"]
        )
        self._tangent = _Training(model, params, optimizer)

    def _measure(self) -> float:
        """How fast the real body lowers the loss, over how fast the frozen kernel does."""
        pick = self._pick(_MEASURED)
        model, params, _ = self._tangent
        residuals = self._passes.residuals(model, params)
        real, square = self._gradient(pick, residuals)
        parts = [
            jnp.einsum("nq,nqk->k", part, rows) / len(part)
            for (part, rows), _ in batches(
                (residuals[pick], model.jacobian[pick]), self._batch_size
            )
        ]
        frozen, frozen_square = _moments(parts)
        new = (square, frozen_square)
        if self._squares is None:
            self._squares = new
        else:  # their mean since the start, as Adam keeps it
            weight = 1 - self._marks[-1][0] / self.step
            self._squares = jax.tree.map(lambda a, b: a + weight * (b - a), self._squares, new)
        fast, slow = (
            optax.tree_utils.tree_vdot(gradient, self._direction(gradient, square))
            for gradient, square in zip((real, frozen), self._squares, strict=True)
        )
        return float(fast / slow)

    def _direction(self, gradient: Params, square: Params) -> Params:
        """Where the optimizer goes: along the gradient, or over the root of its mean square."""
        if not self._scaled:
            return gradient
        return jax.tree.map(lambda g, v: g / jnp.sqrt(v + 1e-30), gradient, square)

    def _gradient(self, pick: np.ndarray, residuals: Array) -> tuple[Params, Params]:
        """Mean and mean square of the minibatches' gradients of the body, at the real weights."""
        samples = (_take(self._inputs, pick), residuals[pick])
        parts = [
            self._passes.pullback(self._weights, inputs, part)
            for (inputs, part), _ in batches(samples, self._batch_size)
        ]
        return _moments(parts)

    def _pick(self, count: int) -> Int[np.ndarray, " picked"]:
        return self._random.permutation(len(self._targets))[:count]

    def _loss(self) -> float:
        return float(self._passes.loss(self._tangent.model, self._tangent.params))


class _Passes:
    """What is compiled: passes through the network, and steps of the tangent model.

    Attributes:
        settler: the optimizer of real training steps: gradient descent at its effective rate, as
            few steps gather no momentum, others as they are.
    """

    def __init__(
        self, network: Network, problem: Problem, order: np.ndarray, max_steps: int
    ) -> None:
        objective, targets = problem.objective, problem.train.targets
        directions = _head_exact(problem).directions
        basis, batches = jnp.eye(len(directions)), jnp.asarray(order)
        self.settler = settler = _without_momentum(problem.optimizer, max_steps)

        def read(body: Params, weights: Params, inputs: Inputs) -> Array:
            return network.features(merge(body, weights), inputs, directions)

        def advance(
            model: HeadExactTangent,
            growth: Growth,
            params: Params,
            state: Any,
            start: Array,
            end: Array,
        ) -> tuple[Params, Any]:
            """Training steps of the tangent model."""
            training = replace(
                problem, train=Examples(model, targets), validation=None, growth=growth
            )

            def step(i: Array, carry: Any) -> Any:
                return gradient_step(training, problem.optimizer, carry, batches[i], i)

            return jax.lax.fori_loop(start, end, step, (params, state))

        def residuals(model: HeadExactTangent, params: Params) -> Array:
            """The gradient of each sample's loss by its features, along the directions."""
            slope = jax.grad(lambda f: objective.loss(f, targets).sum())(model(params))
            return slope @ (directions.T @ params["head"]["kernel"]).T

        def pullback(weights: Params, inputs: Inputs, residuals: Array) -> Params:
            """The gradient of the body that the mean of these residuals makes."""
            pull = jax.vjp(lambda body: read(body, weights, inputs), network.body(weights))[1]
            return pull(residuals / len(residuals))[0]

        def push(weights: Params, inputs: Inputs, direction: Params) -> Array:
            """How features move, to first order, where the body does."""
            at = network.body(weights)
            return jax.jvp(lambda body: read(body, weights, inputs), (at,), (direction,))[1]

        def train(weights: Params, state: Any, inputs: Inputs, targets: Array) -> Any:
            """A real training step."""

            def loss(weights: Params) -> Array:
                return objective.loss(network.apply(weights, inputs), targets).mean()

            updates, state = settler.update(jax.grad(loss)(weights), state, weights)
            return optax.apply_updates(weights, updates), state

        self.advance, self.residuals = jax.jit(advance), jax.jit(residuals)
        self.pullback, self.push, self.train = jax.jit(pullback), jax.jit(push), jax.jit(train)
        self.features = jax.jit(lambda weights, inputs: network.features(weights, inputs, basis))
        self.loss = jax.jit(lambda model, params: objective.loss(model(params), targets).mean())


def _growing(problem: Problem) -> Growth:
    if problem.growth is None:
        msg = "problem: got a frozen kernel; expected one that grows, see Simulation.growing"
        raise ValueError(msg)
    return problem.growth


def _head_exact(problem: Problem) -> HeadExactTangent:
    if not isinstance(problem.train.model, HeadExactTangent):
        msg = "problem: got a model with a frozen head; expected mode='head_exact'"
        raise ValueError(msg)  # noqa: TRY004 (it is its mode that is wrong)
    return problem.train.model


def _without_momentum(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    descent = as_gradient_descent(optimizer, steps)
    if descent is None:
        return optimizer
    rates = jnp.asarray(descent.at_effective_rate().learning_rate, jnp.float32)
    return optax.chain(
        optax.add_decayed_weights(float(descent.weight_decay)),
        optax.scale_by_schedule(lambda count: -rates[count]),
    )


def _at_step(state: Any, step: int) -> Any:
    """An optimizer's state with its schedules, injected ones too, at another step."""
    kinds = (optax.ScaleByScheduleState, optax.InjectStatefulHyperparamsState)

    def at(counts: Any) -> Any:
        return jax.tree.map(lambda count: jnp.full_like(count, step), counts)

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, optax.InjectStatefulHyperparamsState):
            return leaf._replace(hyperparams_states=at(leaf.hyperparams_states))
        return at(leaf) if isinstance(leaf, kinds) else leaf

    return jax.tree.map(moved, state, is_leaf=lambda leaf: isinstance(leaf, kinds))


def _moments(parts: list[Params]) -> tuple[Params, Params]:
    """Mean and mean square of several trees."""
    count = len(parts)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / count, *parts)
    square = jax.tree.map(lambda *leaves: sum(leaf**2 for leaf in leaves) / count, *parts)
    return mean, square


def _take(inputs: Inputs, index: Any) -> Inputs:
    return jax.tree.map(lambda leaf: leaf[index], inputs)
