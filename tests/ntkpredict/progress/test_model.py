"""The trend, its noise and the futures that they allow."""

import time

import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

from ntkpredict.counter import KerasCounter, TargetCounter
from ntkpredict.progress.futures import Model, stopping_steps
from ntkpredict.progress.mode import half_sample_mode
from ntkpredict.progress.observed import Observed, Turn
from ntkpredict.progress.posterior import Evidence, NoisePrior, Prior, draw, posterior
from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.shapes import Expected, PowerLaws

EVERY, HORIZON = 20.0, 2000
EVALUATIONS = np.arange(EVERY, HORIZON + 1, EVERY, dtype=float)


@pytest.fixture
def model():
    """Power laws alone, at a constant rate."""
    time = RateTime.of(None, HORIZON)
    return Model((PowerLaws(time, EVERY),), (1.0,), time, EVERY)


def power_law(noise=0.02, seed=0, shape=-0.5, floor=0.3):
    u = EVALUATIONS / EVERY
    return floor + 2 * u**shape + noise * np.random.default_rng(seed).normal(size=len(u))


def futures(model, values, counter, done, **options):
    """Simulated stops after the first `done` of these values were seen."""
    count = counter.start()
    for value in values[:done]:
        count = counter.update(count, np.array([value]))
    observed = Observed.of(EVALUATIONS[:done], values[:done])
    random = np.random.default_rng(options.pop("seed", 0))
    rest = EVALUATIONS[done:]
    return stopping_steps(model, observed, counter, count, rest, Turn(), random, **options)


class TestHalfSampleMode:
    def test_of_a_large_sample_is_near_the_peak(self):
        sample = np.random.default_rng(0).lognormal(0, 0.6, size=20_000)
        assert half_sample_mode(sample) == pytest.approx(np.exp(-0.36), abs=0.15)

    def test_moves_and_stretches_with_the_sample(self):
        sample = np.random.default_rng(1).normal(size=101)
        mode = half_sample_mode(sample)
        assert half_sample_mode(3 * sample + 7) == pytest.approx(3 * mode + 7)
        assert half_sample_mode(sample[::-1]) == mode

    def test_an_atom_is_the_mode(self):
        assert half_sample_mode(np.array([1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 9.0])) == 5

    @pytest.mark.parametrize(
        ("sample", "mode"), [([3.0], 3), ([1.0, 2.0], 1.5), ([0, 1, 9], 0.5), ([0, 2, 4], 2)]
    )
    def test_small_samples(self, sample, mode):
        assert half_sample_mode(np.array(sample, float)) == mode

    def test_of_nothing(self, refused):
        with refused("sample: got no outcomes"):
            half_sample_mode(np.empty(0))


class TestRateTime:
    def test_at_a_constant_rate_is_the_step(self):
        time = RateTime.of(None, 1000)
        np.testing.assert_allclose(time.time(np.array([0.0, 123.0, 1000.0])), [0, 123, 1000])
        np.testing.assert_array_equal(time.rate(np.array([5.0])), 1)

    @pytest.mark.parametrize(
        "schedule",
        [
            optax.cosine_decay_schedule(0.1, 1000),
            optax.exponential_decay(0.1, 100, 0.7),
            optax.piecewise_constant_schedule(0.1, {300: 0.1, 600: 0.1}),
        ],
        ids=["cosine", "exponential", "steps"],
    )
    def test_is_the_sum_of_the_rates(self, schedule):
        rates = np.array([float(schedule(i)) for i in range(1000)]) / 0.1
        found = RateTime.of(schedule, 1000)
        steps = np.array([100, 400, 1000])
        np.testing.assert_allclose(
            found.time(steps.astype(float)), [rates[:n].sum() for n in steps], rtol=0.01
        )

    @pytest.mark.parametrize("rate", [0.0, -1.0, np.nan])
    def test_bad_schedules(self, refused, rate):
        with refused("schedule: got rates"):
            RateTime.of(lambda _: rate, 10)


class TestPosterior:
    @pytest.fixture
    def case(self):
        random = np.random.default_rng(0)
        design = random.normal(size=(4, 7, 3))
        values = design[1] @ [0.5, 0.2, -0.3] + 0.1 * random.normal(size=7)
        gaps = np.array([1.0, 1, 1, 0.5, 0.5, 1, 2])
        evidence = Evidence(design, values, random.uniform(0.5, 2, size=7), gaps)
        mean, spread = random.normal(size=(4, 3)), random.uniform(0.5, 1, size=(4, 3))
        weight, one_family = np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4, int)
        return Prior(weight, one_family, mean, spread), evidence

    def test_is_that_of_dense_gaussians(self, case):
        prior, evidence = case
        noise = NoisePrior(0.2, 3.0)
        found = posterior(prior, evidence, noise)
        places = np.cumsum(evidence.gaps)
        expected = np.empty_like(found.probability)
        for k, p, s in np.ndindex(*expected.shape):
            phi, sigma = found.correlations[p], found.noises[s]
            apart = np.abs(np.subtract.outer(places, places))
            scale = sigma * np.sqrt(evidence.variance)
            noise_covariance = np.outer(scale, scale) * phi**apart
            design, spread = evidence.design[k], np.diag(prior.spread[k] ** 2)
            covariance = noise_covariance + design @ spread @ design.T
            likelihood = multivariate_normal(design @ prior.mean[k], covariance)
            inverse_gamma = sigma**-3.0 * np.exp(-1.5 * (0.2 / sigma) ** 2)
            weight = prior.weight[k] * noise.weights[p] * inverse_gamma
            expected[k, p, s] = weight * likelihood.pdf(evidence.values)
            gain = spread @ design.T @ np.linalg.inv(covariance)
            mean = prior.mean[k] + gain @ (evidence.values - design @ prior.mean[k])
            np.testing.assert_allclose(found.mean[k, p, s], mean, atol=1e-8)
            root = found.root[k, p, s]
            np.testing.assert_allclose(root @ root.T, spread - gain @ design @ spread, atol=1e-8)
        np.testing.assert_allclose(found.probability, expected / expected.sum(), atol=1e-9)

    def test_without_values_is_the_prior(self, case):
        prior, evidence = case
        nothing = np.empty(0)
        none = Evidence(evidence.design[:, :0], nothing, nothing, nothing)
        found = posterior(prior, none, NoisePrior())
        np.testing.assert_allclose(found.probability.sum(axis=(1, 2)), prior.weight)
        np.testing.assert_allclose(found.mean[:, 0, 0], prior.mean)

    def test_between_families_the_fourth_root_of_the_evidence_counts(self, case):
        prior, evidence = case
        one = posterior(prior, evidence, NoisePrior()).probability
        family = np.array([0, 1, 1, 0])
        two = posterior(prior._replace(family=family), evidence, NoisePrior()).probability
        odds = []
        for found in (one, two):
            first, second = (found[family == f] for f in (0, 1))
            odds.append(first.sum() / second.sum())
            np.testing.assert_allclose(first / first.sum(), one[[0, 3]] / one[[0, 3]].sum())
            np.testing.assert_allclose(second / second.sum(), one[[1, 2]] / one[[1, 2]].sum())
        assert odds[1] == pytest.approx(odds[0] ** 0.25)  # both weigh 0.5 before

    def test_draws_have_its_moments(self, case):
        found = posterior(*case, NoisePrior(0.2))
        drawn = draw(found, 20_000, np.random.default_rng(0))
        mean = np.einsum("kps,kpsi->i", found.probability, found.mean)
        np.testing.assert_allclose(drawn.theta.mean(axis=0), mean, atol=0.02)
        share = np.bincount(drawn.shape, minlength=4) / 20_000
        np.testing.assert_allclose(share, found.probability.sum(axis=(1, 2)), atol=0.02)


class TestTurn:
    @pytest.mark.parametrize(
        ("mode", "values", "expected"),
        [("min", [2.0, 1.0], [2, 1]), ("max", [0.2, 0.9], [0.8, 0.1]), ("max", [20, 90], [80, 10])],
    )
    def test_values_fall_towards_zero(self, mode, values, expected):
        values = np.array(values, float)
        turn = Turn.of(mode, values)
        np.testing.assert_allclose(turn.of_values(values), expected)
        np.testing.assert_allclose(turn.back(turn.of_values(values)), values)

    @pytest.mark.parametrize("mode", ["min", "max"])
    @pytest.mark.parametrize("values", [[-3.0, -1.0, 2.0], [500.0, 900.0], [np.nan]])
    def test_any_metric_is_turned_to_what_is_not_negative(self, mode, values):
        values = np.array(values)
        turned = Turn.of(mode, values).of_values(values)
        assert not (turned < 0).any()


class TestObserved:
    def test_is_in_order_and_finite(self):
        steps, values = np.array([0.0, 40, 20, 60, 80]), np.array([9.0, 2, 4, np.nan, 1])
        observed = Observed.of(steps, values)
        np.testing.assert_array_equal(observed.steps, [20, 40, 80])
        np.testing.assert_array_equal(observed.values, [4, 2, 1])
        assert observed.scale == 4
        np.testing.assert_array_equal(observed.level, [1, 0.5, 0.25])

    def test_many_values_are_thinned_out(self):
        steps = np.arange(1.0, 10_001)
        observed = Observed.of(steps, 1 / steps)
        assert len(observed.steps) <= 300
        assert observed.steps[-1] == 10_000


class TestStoppingSteps:
    def test_a_target_is_met_where_the_curve_meets_it(self, model):
        values = power_law(noise=1e-3, shape=-0.8, floor=0.0)
        target = 0.15
        real = EVALUATIONS[(values <= target).argmax()]
        stops = np.minimum(futures(model, values, TargetCounter(target), 15), HORIZON)
        assert np.median(stops) == pytest.approx(real, rel=0.2)
        low, high = np.quantile(stops, [0.025, 0.975])
        assert low <= real <= high

    def test_goes_on_from_the_counter(self, model):
        values = power_law(seed=3)
        counter = KerasCounter(6)
        observed = Observed.of(EVALUATIONS[:20], values[:20])
        fresh = counter.start()
        for value in values[:20]:
            fresh = counter.update(fresh, np.array([value]))
        rest = EVALUATIONS[20:]
        found = [
            stopping_steps(
                model,
                observed,
                counter,
                fresh._replace(waited=np.array([waited])),
                rest,
                Turn(),
                np.random.default_rng(0),
            )
            for waited in (0, 5)
        ]
        assert np.median(found[1]) < np.median(found[0])
        assert found[1].min() == rest[0]

    def test_the_same_seed_gives_the_same_futures(self, model):
        runs = [futures(model, power_law(), KerasCounter(5), 10, seed=s) for s in (1, 1, 2)]
        np.testing.assert_array_equal(runs[0], runs[1])
        assert (runs[0] != runs[2]).any()

    def test_a_rising_metric_is_turned(self, model):
        values = 1 - power_law(floor=0.05) / 3
        observed = Observed.of(EVALUATIONS[:20], 1 - values[:20])
        counter = KerasCounter(5, mode="max")
        count = counter.start()
        for value in values[:20]:
            count = counter.update(count, np.array([value]))
        mirrored = stopping_steps(
            model, observed, counter, count, EVALUATIONS[20:], Turn(-1.0, 1.0),
            np.random.default_rng(0),
        )  # fmt: skip
        falling = futures(model, 1 - values, KerasCounter(5), 20)
        np.testing.assert_array_equal(mirrored, falling)

    def test_intervals_hold_curves_that_are_as_the_model_thinks(self, model):
        held, random = [], np.random.default_rng(0)
        u = EVALUATIONS / EVERY
        for seed in range(60):
            b, floor = random.uniform(0.4, 1.5), random.uniform(0.1, 0.4)
            values = 2 * (floor + (1 - floor) * ((u + 4) / 5) ** -b)
            values *= 1 + 0.03 * random.normal(size=len(u))
            stop = int(KerasCounter(5).stops(values[None])[0]) or len(u)
            done = stop // 3
            stops = futures(model, values, KerasCounter(5), max(done, 2), seed=seed)
            low, high = np.quantile(np.minimum(stops, HORIZON), [0.025, 0.975])
            held.append(low <= EVALUATIONS[stop - 1] <= high)
        assert np.mean(held) > 0.88

    def test_a_decaying_rate_slows_the_trend_down(self, model):
        time = RateTime.of(optax.exponential_decay(0.1, 100, 0.5), HORIZON)
        slowing = Model((PowerLaws(time, EVERY),), (1.0,), time, EVERY)
        values, target = power_law(noise=1e-3), TargetCounter(0.6)
        decayed = futures(slowing, values, target, 8)
        assert np.isinf(decayed).mean() > np.isinf(futures(model, values, target, 8)).mean()

    def test_takes_less_than_50_ms(self, model):
        values, counter = power_law(), KerasCounter(100)

        def seconds():
            start = time.perf_counter()
            futures(model, values, counter, 50)
            return time.perf_counter() - start

        assert min(seconds() for _ in range(5)) < 0.05


@pytest.mark.parametrize("family", ["laws", "told"])
def test_every_family_has_a_weight_for_each_trend(family):
    time = RateTime.of(None, HORIZON)
    told = Expected(np.arange(3.0), np.ones((4, 3)), np.zeros(5))
    shapes = {"laws": PowerLaws(time, EVERY), "told": told}[family]
    assert shapes.design(np.ones(2)).shape == (len(shapes.weight), 2, 3)
    assert shapes.weight.sum() == pytest.approx(1)


class TestExpected:
    @pytest.fixture
    def expected(self):
        steps = np.arange(0, HORIZON + 1, 10, dtype=float)
        curves = 0.2 + 0.9 * np.exp(-steps / 300)[None] * np.array([[1.0], [1.05]])
        return Expected(steps, curves, np.linspace(-0.7, 0.7, 41))

    def test_values_vote_for_the_clock_that_they_follow(self, expected):
        time = RateTime.of(None, HORIZON)
        model = Model((expected,), (1.0,), time, EVERY)
        slow = np.interp(EVALUATIONS / 1.5, expected.steps, expected.curves[0])
        stop = EVALUATIONS[(slow <= 0.3).argmax()]
        before, after = (
            np.minimum(futures(model, slow, TargetCounter(0.3), seen), HORIZON) for seen in (0, 20)
        )
        assert abs(np.median(after) - stop) < abs(np.median(before) - stop)
        assert np.std(after) < np.std(before)
        assert np.median(after) == pytest.approx(stop, rel=0.1)

    def test_a_forecast_that_is_wrong_is_outvoted(self, expected):
        time = RateTime.of(None, HORIZON)
        model = Model((PowerLaws(time, EVERY), expected), (0.5, 0.5), time, EVERY)
        values = 2 * (0.6 + 0.4 * (EVALUATIONS / EVERY) ** -0.3)
        observed = Observed.of(EVALUATIONS[:60], values[:60])
        drawn = model.draws(observed, 500, np.random.default_rng(0))
        laws = len(model.shapes[0].weight)
        assert (drawn.shape < laws).mean() > 0.95
