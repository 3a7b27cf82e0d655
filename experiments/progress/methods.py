"""What can be said of the remaining steps: the indicator and what it is held against."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from recorded import PATIENCES, Replay
from scipy import optimize

import ntkpredict as ntp
from ntkpredict.counter import KerasCounter
from ntkpredict.progress import Indicator
from ntkpredict.progress.extra import ExtraPoints
from ntkpredict.progress.mode import half_sample_mode

FUTURES = 400


class Answer(NamedTuple):
    """What a method says; NaN where it says nothing.

    Attributes:
        steps: the step at which training ends.
        low: lower end of the interval.
        high: upper end.
        at_maximum: probability that it runs to the maximum.
    """

    steps: float
    low: float = np.nan
    high: float = np.nan
    at_maximum: float = np.nan


Method = Callable[[Replay, int], Answer]


def ask(replay: Replay, now: int, methods: dict[str, Method]) -> list[dict[str, Any]]:
    """What each method says at a step: a row each."""
    case = {name: getattr(replay, name) for name in ("key", "split", "distance", "patience")}
    case |= {"now": now, "stop": replay.stop, "max_steps": replay.max_steps}
    rows = []
    for name, method in methods.items():
        start = time.perf_counter()
        answer = method(replay, now)._asdict()
        rows.append(case | answer | {"method": name, "seconds": time.perf_counter() - start})
    return rows


def ours(
    replay: Replay, now: int, *, forecast: bool = False, mode: bool = False, extra: int = 0
) -> Answer:
    """The indicator, its median or its half-sample mode; extra values on so many samples."""
    indicator = Indicator(
        ntp.EarlyStopping(replay.patience, replay.every),
        replay.max_steps,
        schedule=replay.schedule,
        forecast=replay.forecast if forecast else None,
        validation_samples=replay.samples,
    )
    random, last = np.random.default_rng(0), 0
    spread = np.sqrt(max(1 / max(extra, 1) - 1 / replay.samples, 0))  # see `Watching`
    for step in range(1, now + 1):
        indicator.step = step
        value = float(replay.value(step))
        if step % replay.every == 0:
            indicator.report({"validation_loss": value})
            last = step
        elif extra and ExtraPoints().due(step, last, float(replay.every)):
            value *= 1 + spread * random.normal()
            indicator.report({"validation_loss": value}, min(extra, replay.samples))
            last = step
    estimate = indicator.estimate()
    low, high = estimate.steps_interval or (np.nan, np.nan)
    at_maximum = np.nan if estimate.at_maximum is None else estimate.at_maximum
    return Answer(estimate.mode if mode else estimate.steps, low, high, at_maximum)


def maximum(replay: Replay, now: int) -> Answer:  # noqa: ARG001
    """What tqdm, Keras and the Trainer show: as if nothing stopped the run."""
    return Answer(float(replay.max_steps))


def composer(replay: Replay, now: int) -> Answer:
    """Composer's RuntimeEstimator: training and evaluations apart, both up to the maximum.

    Source: composer/callbacks/runtime_estimator.py of MosaicML Composer. A step takes a second here
    and a validation pass as long as so many samples take, forward only.
    """
    passes = now // replay.every
    if passes == 0:
        return maximum(replay, now)
    validation = replay.samples / (3 * replay.batch_size)
    elapsed, fraction = now + passes * validation, now / replay.max_steps
    rate = (elapsed - passes * validation) / fraction
    share_of_a_pass = passes * replay.every / replay.max_steps / passes
    remaining = rate * (1 - fraction) + validation * (1 / share_of_a_pass - passes)
    ahead = replay.max_steps // replay.every - passes
    return Answer(now + remaining - validation * ahead)


def luo(replay: Replay, now: int, *, noise: float) -> Answer:
    """Dong and Luo 2020, as their slides have it: one projected trend, noise from history.

    The maximum before a trend can be fitted. White noise, whose variance goes with the learning
    rate; the half-sample mode of the stops.
    """
    seen, ahead, count = past(replay, now)
    trend = fit(seen)
    if trend is None or not len(ahead):
        return maximum(replay, now)
    random = np.random.default_rng(0)
    rate = np.sqrt([replay.schedule(int(i * replay.every)) for i in ahead])
    scatter = noise * seen[0] * rate * random.normal(size=(FUTURES, len(ahead)))
    return stopped(replay, trend(ahead) + scatter, count, half_sample_mode)


def trend_only(replay: Replay, now: int) -> Answer:
    """The rule on the projected trend itself."""
    seen, ahead, count = past(replay, now)
    trend = fit(seen)
    if trend is None or not len(ahead):
        return maximum(replay, now)
    stop = int(KerasCounter(replay.patience).stops(trend(ahead)[None], count)[0])
    return Answer(float(stop * replay.every if stop else replay.max_steps))


def lc_pfn(replay: Replay, now: int) -> Answer:
    """The posterior that LC-PFN learns to approximate (Adriaensen et al. 2023, arXiv:2310.20447).

    Futures drawn from it are stopped by the rule; the point is their median.
    """
    seen, ahead, count = past(replay, now)
    if not len(seen) or not len(ahead) or not np.isfinite(seen).all():
        return maximum(replay, now)
    futures = lc_pfn_futures(seen / seen[0], ahead, np.random.default_rng(0))
    return stopped(replay, seen[0] * futures, count, np.median)


def lc_pfn_futures(seen: np.ndarray, ahead: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Values to come, one row a future.

    Weighted sums of LC-PFN's curves, power law, inverse logarithm and exponential, and a constant,
    with its white noise of standard deviation exp(N(-4, 1)): exact on a grid of the exponents and
    of the noise, with Gaussian weights.
    """
    n = np.concatenate([np.arange(1, len(seen) + 1), ahead])[:, None]
    powers, rates = np.geomspace(0.1, 4, 8), np.geomspace(0.01, 2, 8)
    rows = [
        np.hstack([n**0, n**-b, 1 / np.log(n + 1), np.exp(-k * n)]) for b in powers for k in rates
    ]
    past, future = np.split(np.stack(rows), [len(seen)], axis=1)
    sigma, mean, spread = np.exp(np.linspace(-7, -1, 13)), 0.25, 0.5
    rest = seen - mean * past.sum(axis=2)
    precision = np.einsum("gni,gnj->gij", past, past)[:, None] / sigma[:, None, None] ** 2
    precision = precision + np.eye(4) / spread**2
    right = np.einsum("gni,gn->gi", past, rest)[:, None] / sigma[:, None] ** 2
    center = np.linalg.solve(precision, right[..., None])[..., 0]
    log = 0.5 * (right * center).sum(-1) - 0.5 * np.linalg.slogdet(precision)[1]
    log -= 0.5 * (rest**2).sum(1)[:, None] / sigma**2 + len(seen) * np.log(sigma)
    log -= 0.5 * (np.log(sigma) + 4) ** 2
    weight = np.exp(log - log.max()).ravel()
    drawn = random.choice(weight.size, FUTURES, p=weight / weight.sum())
    shape, noise = np.unravel_index(drawn, log.shape)
    root = np.linalg.cholesky(np.linalg.inv(precision[shape, noise]))
    theta = mean + center[shape, noise]
    theta = theta + np.einsum("fij,fj->fi", root, random.normal(size=theta.shape))
    trends = np.einsum("fni,fi->fn", future[shape], theta)
    return trends + sigma[noise][:, None] * random.normal(size=trends.shape)


def stopped(
    replay: Replay, futures: np.ndarray, count: Any, point: Callable[[np.ndarray], Any]
) -> Answer:
    """Where the rule stops futures, and 95 % of them."""
    stops = KerasCounter(replay.patience).stops(futures, count.repeat(len(futures)))
    steps = np.where(stops > 0, stops * replay.every, replay.max_steps).astype(float)
    low, high = np.quantile(steps, [0.025, 0.975], method="nearest")
    return Answer(float(point(steps)), float(low), float(high), float(np.mean(stops == 0)))


def past(replay: Replay, now: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values seen, the numbers of the evaluations to come, and where the counter is."""
    counter, done = KerasCounter(replay.patience), now // replay.every
    count = counter.start()
    for value in replay.values[:done]:
        count = counter.update(count, np.array([value]))
    return replay.values[:done], np.arange(done + 1, len(replay.values) + 1), count


def fit(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Least squares of c + a·n^-b, a, b and c at least 0; None for fewer than four values."""
    if len(values) < 4 or not np.isfinite(values).all():
        return None
    n = np.arange(1, len(values) + 1)

    def curve(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return c + a * n**-b

    start = (max(values[0] - values.min(), 1e-6), 0.5, 0.9 * values.min())
    try:
        found, _ = optimize.curve_fit(curve, n, values, start, bounds=(0, [np.inf, 10, np.inf]))
    except RuntimeError:  # no convergence
        return None
    return lambda ahead: curve(ahead.astype(float), *found)


def history(replays: list[Replay]) -> float:
    """Median over development runs of the scatter about their trend, over their first value."""
    scatter = []
    for replay in replays[:: len(PATIENCES)]:
        trend = fit(replay.values)
        if trend is not None:
            rest = replay.values - trend(np.arange(1, len(replay.values) + 1))
            scatter.append(float(np.std(rest) / replay.values[0]))
    return float(np.median(scatter))
