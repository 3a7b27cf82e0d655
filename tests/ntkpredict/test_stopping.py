import doctest
import re

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.counter import early_stopping
from ntkpredict.stopping import text

STEPS = np.array([0, 1, 2, 4, 8])


def one(rule, curves, **options):
    steps = rule.steps(curves, **options)
    assert steps.shape == (1,)
    return float(steps[0])


class TestTargetLoss:
    def test_a_loss_on_the_grid_is_met_there(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 2

    def test_between_grid_points_it_is_interpolated(self, trajectory):
        assert one(ntp.TargetLoss(1.5), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 3
        assert one(ntp.TargetLoss(0.75), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 6

    def test_relative_counts_from_each_seeds_own_start(self, trajectory):
        curves = trajectory([0, 10], [[4.0, 0.0], [2.0, 0.0], [8.0, 6.0]])
        steps = ntp.TargetLoss(relative=0.5).steps(curves)
        np.testing.assert_allclose(steps, [5.0, 5.0, np.inf])

    def test_not_reached_is_infinite(self, trajectory):
        assert one(ntp.TargetLoss(0.1), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == np.inf

    def test_the_first_crossing_counts(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory(STEPS, [4.0, 1.0, 5.0, 1.0, 1.0])) == (
            pytest.approx(2 / 3)
        )

    def test_validation_has_its_own_curve(self, trajectory):
        falling, flat = [4.0, 3.0, 2.0, 1.0, 0.5], [3.0] * 5
        curves = trajectory(STEPS, flat, validation=(falling, np.zeros(5)))
        assert one(ntp.TargetLoss(2.0), curves) == np.inf
        assert one(ntp.TargetLoss(2.0, on="validation"), curves) == 2

    def test_validation_without_validation_data_is_refused(self, trajectory, refused):
        with refused("on: got 'validation', but there is no validation data"):
            ntp.TargetLoss(2.0, on="validation").steps(trajectory([0, 1], [3.0, 1.0]))

    @pytest.mark.parametrize("target", [4.0, 5.0])
    def test_met_before_training_is_refused(self, trajectory, refused, target):
        with refused("target: the train loss starts at 4; aim below"):
            ntp.TargetLoss(target).steps(trajectory([0, 1], [4.0, 1.0]))

    def test_met_before_training_by_one_seed_is_refused(self, trajectory, refused):
        with refused("target: the train loss starts at 2"):
            ntp.TargetLoss(3.0).steps(trajectory([0, 1], [[4.0, 1.0], [2.0, 1.0]]))

    @pytest.mark.parametrize(
        "losses", [[4.0, np.nan, 1.0], [4.0, np.inf, 1.0], [4.0, -np.inf, -np.inf]]
    )
    def test_after_a_loss_that_is_not_finite_the_grid_point_counts(self, trajectory, losses):
        expected = 20.0 if losses[2] == 1.0 else 10.0
        assert one(ntp.TargetLoss(2.0), trajectory([0, 10, 20], losses)) == expected

    def test_a_run_of_nan_never_arrives(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory([0, 1, 2], [4.0, np.nan, np.nan])) == np.inf

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "TargetLoss: got value=None, relative=None"),
            ({"value": 1.0, "relative": 0.5}, "TargetLoss: got value=1.0, relative=0.5"),
            ({"value": 0.0}, "value: got 0.0"),
            ({"value": -1.0}, "value: got -1.0"),
            ({"value": np.nan}, "value: got nan"),
            ({"value": np.inf}, "value: got inf"),
            ({"relative": 0.0}, "relative: got 0.0"),
            ({"relative": 1.0}, "relative: got 1.0"),
            ({"relative": np.nan}, "relative: got nan"),
        ],
    )
    def test_bad_arguments(self, refused, arguments, message):
        with refused(message):
            ntp.TargetLoss(**arguments)


class TestTargetAccuracy:
    def test_rises_to_it(self, trajectory):
        curves = trajectory([0, 10, 20], np.ones(3), [0.1, 0.5, 0.9])
        assert one(ntp.TargetAccuracy(0.5), curves) == pytest.approx(10, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.7), curves) == pytest.approx(15, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.95), curves) == np.inf

    def test_on_validation(self, trajectory):
        curves = trajectory([0, 10], np.ones(2), validation=(np.ones(2), np.array([0.0, 1.0])))
        assert one(ntp.TargetAccuracy(0.5, on="validation"), curves) == pytest.approx(5, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.5), curves) == np.inf

    @pytest.mark.parametrize("samples", [3, 7, 10, 30, 1000, 50_000])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_an_exact_share_of_the_samples_counts_in_any_precision(
        self, trajectory, samples, dtype
    ):
        for correct in np.unique(np.linspace(1, samples, 50).astype(int)):
            accuracy = np.array([0, correct / samples, correct / samples], dtype)
            curves = trajectory([0, 1, 2], np.ones(3), accuracy)
            reached = one(ntp.TargetAccuracy(correct / samples), curves)
            assert reached == pytest.approx(1, rel=1e-5)
            above = min((correct + 0.5) / samples, 1.0)
            if correct < samples:
                assert one(ntp.TargetAccuracy(above), curves) == np.inf

    def test_met_before_training_is_refused(self, trajectory, refused):
        with refused("target: the train accuracy starts at 0.5; aim above"):
            ntp.TargetAccuracy(0.4).steps(trajectory([0, 1], np.ones(2), [0.5, 1.0]))

    @pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.nan])
    def test_bad_value(self, refused, value):
        with refused(f"value: got {value}; expected an accuracy in (0, 1]"):
            ntp.TargetAccuracy(value)


class TestConverged:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
    def test_is_the_papers_definition(self, trajectory, seed, eps):
        random = np.random.default_rng(seed)
        loss = 3 * np.exp(-np.arange(80) / 15) + 0.3 * random.normal(size=80)
        first = min(t for t in range(80) if abs(loss[t] - loss[-1]) < eps)
        found = one(ntp.Converged(eps), trajectory(np.arange(80), loss))
        assert np.ceil(found) == first

    def test_a_flat_curve_has_converged_at_once(self, trajectory):
        assert one(ntp.Converged(0.1), trajectory([0, 1, 2], np.ones(3))) == 0

    def test_nothing_is_known_before_the_end(self, trajectory):
        curves = trajectory([0, 1, 2], [3.0, 1.0, 1.0])
        assert one(ntp.Converged(0.1), curves, complete=False) == np.inf
        assert one(ntp.Converged(0.1), curves, complete=True) <= 1

    @pytest.mark.parametrize("eps", [0.0, -1.0, np.nan, np.inf])
    def test_bad_eps(self, refused, eps):
        with refused(f"eps: got {eps}; expected a loss greater than 0"):
            ntp.Converged(eps)


class Keras:
    """What `keras.callbacks.EarlyStopping` keeps and does at the end of each epoch."""

    def __init__(self, patience, min_delta, mode):
        self.patience, self.mode = patience, mode
        self.min_delta = -min_delta if mode == "min" else min_delta
        self.best = None
        self.wait = 0
        self.stop_training = False

    def improves(self, current):
        improved, best = np.float32(current - self.min_delta), np.float32(self.best)
        return bool(improved < best if self.mode == "min" else improved > best)

    def on_epoch_end(self, epoch, current):
        self.wait += 1
        if self.best is None or self.improves(current):
            self.best = current
            self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stop_training = True


def keras_stops(values, patience, min_delta=0.0, mode="min"):
    """How many epochs `fit` runs with these values at their ends; infinite where all of them."""
    callback = Keras(patience, min_delta, mode)
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, value)
        if callback.stop_training:
            return epoch + 1
    return np.inf


class TestEarlyStopping:
    """The start, at step 0, is not an evaluation."""

    @pytest.fixture
    def validation(self, trajectory):
        """A trajectory with these validation losses and accuracies after every step but the 0th."""

        def build(loss, accuracy=None):
            loss = np.insert(np.atleast_2d(np.asarray(loss, float)), 0, 9.0, axis=1)
            accuracy = np.zeros_like(loss) if accuracy is None else np.insert(accuracy, 0, 0.0)
            return trajectory(
                np.arange(loss.shape[1]), np.ones_like(loss), validation=(loss, accuracy)
            )

        return build

    @pytest.mark.parametrize(
        ("patience", "losses", "expected"),
        [
            (2, [3, 2, 2.5, 2.4, 1], 4),  # no better than the best, though better than the last
            (2, [3, 2, 2.5, 1.9, 2, 2], 6),  # an improvement resets the counter
            (2, [3, 2, 2, 2, 1], 4),  # an equal is no improvement
            (1, [3, 2, 1, 2], 4),
            (0, [3, 2, 1, 2], 4),
            (1, [3, 3], 2),
            (3, [3, 3, 3], np.inf),
            (5, [3, 2, 1], np.inf),
            (1, [np.nan, 2, 1, 1], 2),  # the first is the best so far, and nothing beats it
            (1, [np.nan, np.nan, 1], 2),
            (3, [np.nan, np.nan, np.nan, 1], 4),
            (2, [3, np.inf, np.inf, 1], 3),
            (2, [3, np.nan, 2, np.nan, np.nan], 5),
        ],
    )
    def test_counts_as_keras_does(self, validation, patience, losses, expected):
        assert keras_stops(losses, patience) == expected
        assert one(ntp.EarlyStopping(patience, every=1), validation(losses)) == expected

    @pytest.mark.parametrize("seed", range(60))
    def test_is_kerass_algorithm(self, trajectory, seed):
        random = np.random.default_rng(seed)
        seeds, evaluations = 5, int(random.integers(1, 40))
        steps = np.arange(evaluations + 1)
        noise = random.normal(size=(4, seeds, evaluations + 1))
        values = np.round(np.abs(3 * np.exp(-steps / 8) + 0.4 * noise), 1)  # with ties
        values[random.uniform(size=values.shape) < random.choice([0, 0.2])] = np.nan
        curves = trajectory(
            random.integers(1, 30) * steps, values[0], values[1] / 8, (values[2], values[3] / 8)
        )
        every = int(curves.steps[1])
        for on in ("train", "validation"):
            for metric, mode in (("loss", "min"), ("accuracy", "max")):
                patience = int(random.integers(0, 6))
                delta = float(random.choice([0, 0.1, 0.5]))
                rows = getattr(curves.curve(on), metric)[:, 1:]
                expected = [every * keras_stops(row, patience, delta, mode) for row in rows]
                rule = ntp.EarlyStopping(patience, every, delta, on, metric)
                np.testing.assert_array_equal(rule.steps(curves), expected)

    @pytest.mark.parametrize("framework", ["keras", "huggingface", "lightning"])
    def test_counts_as_the_framework_does(self, validation, framework):
        values = np.round(np.random.default_rng(0).uniform(size=(50, 30)), 1)
        stops = early_stopping(framework, 4, 0.1).stops(values)
        expected = np.where(stops > 0, stops, np.inf)
        rule = ntp.EarlyStopping(4, every=1, min_delta=0.1, framework=framework)
        np.testing.assert_array_equal(rule.steps(validation(values)), expected)

    def test_an_improvement_must_be_larger_than_min_delta(self, validation):
        curves = validation([4, 3.5, 3, 2.5, 2])
        assert one(ntp.EarlyStopping(2, 1, min_delta=0.25), curves) == np.inf
        assert one(ntp.EarlyStopping(2, 1, min_delta=0.5), curves) == np.inf  # 3 beats 4
        assert one(ntp.EarlyStopping(2, 1, min_delta=1.0), curves) == 3

    def test_reads_the_multiples_of_every(self, validation):
        losses = [5, 3, 1, 4, 9, 5, 9, 6]
        assert one(ntp.EarlyStopping(2, every=2), validation(losses)) == 6  # 3, 4, 5
        assert one(ntp.EarlyStopping(2, every=3), validation(losses)) == np.inf  # 1, 5

    def test_between_grid_points_it_is_interpolated(self, trajectory):
        loss = np.array([4.0, 2.0, 6.0])
        curves = trajectory([0, 4, 12], np.ones(3), validation=(loss, np.zeros(3)))
        assert one(ntp.EarlyStopping(2, every=2), curves) == 8  # 3, 2, 3, 4
        assert one(ntp.EarlyStopping(3, every=2), curves) == 10

    def test_on_the_grid_a_neighbour_that_is_not_finite_does_not_matter(self, trajectory):
        for bad in (np.nan, np.inf):
            loss = np.array([4.0, 3.0, bad, 2.0, bad])
            curves = trajectory([0, 5, 6, 10, 11], np.ones(5), validation=(loss, np.zeros(5)))
            assert one(ntp.EarlyStopping(1, every=5), curves) == np.inf
            assert one(ntp.EarlyStopping(1, every=3), curves) == 6

    def test_a_curve_so_far_tells_the_same_as_the_whole(self, validation):
        losses = [3, 2, 2.5, 1.9, 2, 2, 1]
        rule = ntp.EarlyStopping(2, every=1)
        for length in range(1, 8):
            found = one(rule, validation(losses[:length]), complete=False)
            assert found == (6 if length >= 6 else np.inf)

    def test_no_evaluation_within_the_budget(self, validation):
        assert one(ntp.EarlyStopping(0, every=4), validation([3, 4, 5])) == np.inf

    def test_before_training_nothing_is_met(self, trajectory):
        start = trajectory([0], [1.0], validation=([1.0], [0.5]))
        assert one(ntp.EarlyStopping(0, 1), start, complete=False) == np.inf

    def test_a_clock_three_times_slower_triples_the_steps(self, validation, trajectory):
        random = np.random.default_rng(0)
        fast = validation(random.uniform(size=(6, 50)))
        held_out = fast.validation
        slow = trajectory(3 * fast.steps, fast.train.loss, None, (held_out.loss, held_out.accuracy))
        expected = 3 * ntp.EarlyStopping(4, every=2).steps(fast)
        assert np.isfinite(expected).any()
        np.testing.assert_array_equal(ntp.EarlyStopping(4, every=6).steps(slow), expected)

    def test_more_patience_takes_at_least_as_long(self, validation):
        curves = validation(np.random.default_rng(0).uniform(size=(6, 50)))
        steps = np.stack([ntp.EarlyStopping(n, every=1).steps(curves) for n in range(12)])
        assert (steps[1:] >= steps[:-1]).all()
        np.testing.assert_array_equal(steps[0], steps[1])

    def test_validation_without_validation_data_is_refused(self, trajectory, refused):
        curves = trajectory([0, 1], [3.0, 1.0])
        with refused("on: got 'validation', but there is no validation data"):
            ntp.EarlyStopping(5, every=1).steps(curves)
        assert one(ntp.EarlyStopping(5, every=1, on="train"), curves) == np.inf

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"patience": -1}, "patience: got -1; expected a whole number, at least 0"),
            ({"every": 0}, "every: got 0; expected a whole number, at least 1"),
            ({"every": -5}, "every: got -5"),
            ({"min_delta": -0.1}, "min_delta: got -0.1; expected a number, at least 0"),
            ({"min_delta": np.nan}, "min_delta: got nan"),
            ({"min_delta": np.inf}, "min_delta: got inf"),
        ],
    )
    def test_bad_arguments(self, refused, arguments, message):
        with refused(message):
            ntp.EarlyStopping(**{"patience": 5, "every": 20, **arguments})


class TestBest:
    @pytest.fixture
    def curves(self, trajectory):
        """The best values are at different steps."""
        return trajectory(
            STEPS,
            [4.0, 3.0, 2.0, 1.0, 0.5],
            [0.1, 0.9, 0.2, 0.9, 0.3],
            ([4.0, 3.0, 1.0, 2.0, 1.0], [0.0, 0.1, 0.2, 0.8, 0.3]),
        )

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (ntp.Best(), 2),
            (ntp.Best(metric="accuracy"), 4),
            (ntp.Best(on="train"), 8),
            (ntp.Best(on="train", metric="accuracy"), 1),
        ],
        ids=str,
    )
    def test_is_the_first_best_step_of_the_grid(self, curves, rule, expected):
        assert one(rule, curves) == expected

    def test_each_seed_has_its_own(self, trajectory):
        loss = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
        curves = trajectory([0, 10, 20], np.ones((3, 3)), validation=(loss, np.zeros((3, 3))))
        np.testing.assert_array_equal(ntp.Best().steps(curves), [20.0, 10.0, 0.0])

    def test_nothing_is_known_before_the_end(self, curves):
        assert one(ntp.Best(), curves, complete=False) == np.inf

    @pytest.mark.parametrize(
        ("losses", "expected"),
        [
            ([3.0, np.nan, 2.0, np.inf], 20),
            ([3.0, np.nan, np.nan, np.nan], 0),
            ([np.nan, np.nan, np.nan, 3.0], 30),
            ([np.nan] * 4, np.inf),
        ],
    )
    def test_what_is_not_finite_is_passed_over(self, trajectory, losses, expected):
        curves = trajectory([0, 10, 20, 30], losses, losses)
        assert one(ntp.Best(on="train"), curves) == expected
        if expected == np.inf:
            assert one(ntp.Best(on="train", metric="accuracy"), curves) == expected

    def test_validation_without_validation_data_is_refused(self, trajectory, refused):
        for complete in (False, True):
            with refused("on: got 'validation', but there is no validation data"):
                ntp.Best().steps(trajectory([0, 1], [3.0, 1.0]), complete=complete)


class TestEvaluations:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (ntp.EarlyStopping(5, every=20), [20, 40, 60, 80, 100]),
            (ntp.EarlyStopping(5, every=30), [30, 60, 90]),
            (ntp.EarlyStopping(5, every=100), [100]),
            (ntp.EarlyStopping(5, every=101), []),
            (ntp.TargetLoss(0.1), []),
            (ntp.Best(), []),
            (ntp.TargetLoss(0.1) | ntp.Converged(0.1), []),
            (ntp.TargetLoss(0.1) | ntp.EarlyStopping(1, every=50), [50, 100]),
            (ntp.EarlyStopping(1, 30) | ntp.EarlyStopping(2, 45), [30, 45, 60, 90]),
        ],
        ids=str,
    )
    def test_within_a_budget_of_100(self, rule, expected):
        found = rule.evaluations(100)
        assert np.issubdtype(found.dtype, np.integer)
        np.testing.assert_array_equal(found, expected)


class TestMaxSteps:
    @pytest.mark.parametrize("value", [1, 3, 8])
    def test_is_that_number(self, trajectory, value):
        assert one(ntp.MaxSteps(value), trajectory(STEPS, np.ones(5))) == value

    def test_beyond_the_curves_is_not_reached(self, trajectory):
        assert one(ntp.MaxSteps(9), trajectory(STEPS, np.ones(5))) == np.inf

    @pytest.mark.parametrize("value", [0, -3])
    def test_bad_value(self, refused, value):
        with refused(f"value: got {value}; expected a whole number of steps, at least 1"):
            ntp.MaxSteps(value)


class TestAnyOf:
    def test_the_first_to_be_met_counts_for_each_seed(self, trajectory):
        curves = trajectory([0, 10], [[4.0, 0.0], [4.0, 3.9]])
        rule = ntp.TargetLoss(2.0) | ntp.MaxSteps(7)
        np.testing.assert_allclose(rule.steps(curves), [5.0, 7.0])

    def test_passes_on_whether_the_curves_are_complete(self, trajectory):
        curves = trajectory([0, 10], [4.0, 3.9])
        rule = ntp.Converged(0.5) | ntp.TargetLoss(1.0)
        assert one(rule, curves, complete=False) == np.inf
        assert one(rule, curves) == 0

    def test_nesting_is_flattened(self):
        first, second, third = ntp.TargetLoss(1.0), ntp.MaxSteps(3), ntp.Converged(0.1)
        flat = ntp.AnyOf((first, second, third))
        assert (first | second) | third == flat
        assert first | (second | third) == flat

    def test_no_rule_at_all(self, refused):
        with refused("rules: got none; expected at least one"):
            ntp.AnyOf(())


def test_arguments_of_the_wrong_type(unchecked_messages):
    cases = {
        "ntp.TargetLoss(0.5, on='test')": "on: got 'test'; expected 'train' or 'validation'",
        "ntp.TargetAccuracy(0.5, on='test')": "on: got 'test'; expected 'train' or 'validation'",
        "ntp.EarlyStopping(5, 20, on='test')": "on: got 'test'; expected 'train' or 'validation'",
        "ntp.EarlyStopping(5, 20, metric='f1')": "metric: got 'f1'; expected 'loss' or 'accuracy'",
        "ntp.EarlyStopping(1.5, 20)": "patience: got 1.5; expected a whole number, at least 0",
        "ntp.EarlyStopping(5, 2.5)": "every: got 2.5; expected a whole number, at least 1",
        "ntp.Best(on='test')": "on: got 'test'; expected 'train' or 'validation'",
        "ntp.Best(metric='f1')": "metric: got 'f1'; expected 'loss' or 'accuracy'",
        "ntp.MaxSteps(1.5)": "value: got 1.5; expected a whole number of steps, at least 1",
    }
    assert unchecked_messages(cases) == [f"ValueError: {text}" for text in cases.values()]


RULES = [
    ntp.TargetLoss(0.1),
    ntp.TargetLoss(relative=0.1),
    ntp.TargetLoss(1e-5, on="validation"),
    ntp.TargetLoss(relative=0.05, on="validation"),
    ntp.TargetAccuracy(0.95),
    ntp.TargetAccuracy(1.0, on="validation"),
    ntp.Converged(0.01),
    ntp.EarlyStopping(5, every=20),
    ntp.EarlyStopping(0, every=1, min_delta=1e-5, on="train"),
    ntp.EarlyStopping(3, every=7, min_delta=0.01, metric="accuracy"),
    ntp.EarlyStopping(2, every=9, min_delta=0.01, framework="huggingface"),
    ntp.EarlyStopping(2, every=9, on="train", framework="lightning"),
    ntp.Best(),
    ntp.Best(on="train", metric="accuracy"),
    ntp.MaxSteps(500),
    ntp.MaxSteps(123_456_789),
]


class TestInvariants:
    """On random curves, whatever the rule."""

    @pytest.fixture
    def curves(self, trajectory):
        random = np.random.default_rng(0)
        steps = np.unique(np.geomspace(1, 500, 30).astype(int))
        steps = np.concatenate([[0], steps])
        loss = 3 * np.exp(-steps / 90) + 0.05 * random.uniform(size=(6, len(steps)))
        loss[:, 0] = 3.2
        accuracy = 1 - loss / 3.5
        return trajectory(steps, loss, accuracy, (loss + 0.1, accuracy))

    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_permuting_the_seeds_permutes_the_steps(self, curves, trajectory, rule):
        order = np.array([3, 0, 5, 1, 4, 2])
        train, held_out = curves.train, curves.validation
        permuted = trajectory(
            curves.steps,
            train.loss[order],
            train.accuracy[order],
            (held_out.loss[order], held_out.accuracy[order]),
        )
        np.testing.assert_array_equal(rule.steps(permuted), rule.steps(curves)[order])

    @pytest.mark.parametrize(
        "rule",
        [r for r in RULES if not isinstance(r, (ntp.MaxSteps, ntp.EarlyStopping))],
        ids=str,
    )
    def test_a_clock_three_times_slower_triples_the_steps(self, curves, trajectory, rule):
        train, held_out = curves.train, curves.validation
        slow = trajectory(
            3 * curves.steps,
            train.loss,
            train.accuracy,
            (held_out.loss, held_out.accuracy),
        )
        np.testing.assert_allclose(rule.steps(slow), 3 * rule.steps(curves))

    @pytest.mark.parametrize(
        "family",
        [
            [ntp.TargetLoss(v) for v in (3.0, 2.0, 1.0, 0.5, 0.2, 0.01)],
            [ntp.TargetLoss(relative=v) for v in (0.9, 0.5, 0.2, 0.1, 0.001)],
            [ntp.TargetAccuracy(v) for v in (0.2, 0.5, 0.8, 0.95, 1.0)],
            [ntp.Converged(v) for v in (3.0, 1.0, 0.3, 0.1, 0.01)],
        ],
        ids=["value", "relative", "accuracy", "converged"],
    )
    def test_harder_targets_take_at_least_as_long(self, curves, family):
        steps = np.stack([rule.steps(curves) for rule in family])
        assert (steps[1:] >= steps[:-1]).all()
        assert np.isfinite(steps[0]).all()

    @pytest.mark.parametrize("other", RULES, ids=str)
    def test_or_is_the_smaller_one(self, curves, other):
        rule = ntp.TargetLoss(relative=0.5)
        smaller = np.minimum(rule.steps(curves), other.steps(curves))
        np.testing.assert_array_equal((rule | other).steps(curves), smaller)
        np.testing.assert_array_equal((other | rule).steps(curves), smaller)


class TestParse:
    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_reads_what_str_writes(self, rule):
        assert ntp.parse(str(rule)) == rule

    @pytest.mark.parametrize("seed", range(20))
    def test_any_number_survives(self, seed):
        value = float(10 ** np.random.default_rng(seed).uniform(-12, 12))
        share = float(np.random.default_rng(seed).uniform(0.001, 0.999))
        for rule in (
            ntp.TargetLoss(value),
            ntp.TargetLoss(relative=share, on="validation"),
            ntp.TargetAccuracy(share),
            ntp.Converged(value),
            ntp.EarlyStopping(5, every=20, min_delta=value),
        ):
            assert ntp.parse(str(rule)) == rule

    def test_all_of_them_joined(self):
        rule = ntp.AnyOf(tuple(RULES))
        assert ntp.parse(str(rule)) == rule

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("loss<=0.1", ntp.TargetLoss(0.1)),
            ("loss < 0.1", ntp.TargetLoss(0.1)),
            ("  train_loss<=1e-1  ", ntp.TargetLoss(0.1)),
            ("val_loss<=.1x", ntp.TargetLoss(relative=0.1, on="validation")),
            ("validation_accuracy >= 0.9", ntp.TargetAccuracy(0.9, on="validation")),
            ("accuracy>0.9", ntp.TargetAccuracy(0.9)),
            ("converged<=0.01", ntp.Converged(0.01)),
            ("steps>=1e3", ntp.MaxSteps(1000)),
            ("patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("patience > 5 @ 20 > 1e-2", ntp.EarlyStopping(5, 20, 0.01)),
            ("loss_patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("val_patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("train_patience>=5@20", ntp.EarlyStopping(5, 20, on="train")),
            ("accuracy_patience>=5@20", ntp.EarlyStopping(5, 20, metric="accuracy")),
            ("val_accuracy_patience>=5@20", ntp.EarlyStopping(5, 20, metric="accuracy")),
            ("best_val_loss", ntp.Best()),
            ("best_loss", ntp.Best()),
            ("best_validation_accuracy", ntp.Best(metric="accuracy")),
            ("best_train_loss", ntp.Best(on="train")),
            ("patience>=5@20|steps>=9", ntp.EarlyStopping(5, 20) | ntp.MaxSteps(9)),
            ("steps>=5|loss<=1", ntp.MaxSteps(5) | ntp.TargetLoss(1.0)),
        ],
    )
    def test_spellings(self, text, rule):
        assert ntp.parse(text) == rule

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "loss",
            "loss<=",
            "loss>=0.1",
            "accuracy<=0.9",
            "steps<=5",
            "converged>0.1",
            "f1>=0.9",
            "loss<=0.1 | ",
            "loss<=0.1 or steps>=5",
            "loss<=-",
            "loss<=1e",
            "loss<=1-2",
            "loss<=0.1xx",
            "test_loss<=0.1",
            "accuracy>=0.9x",
            "converged<0.1x",
            "steps>=500x",
            "val_steps>=500",
            "train_converged<0.1",
            "steps>=1.5",
            "steps>=1e999",
            "patience>=5",
            "patience>=5@",
            "patience<=5@20",
            "patience>=1.5@20",
            "patience>=-5@20",
            "patience>=5@20>",
            "patience>=5@20>1e",
            "patience>=5@20>=0.1",
            "patience>=5@20x",
            "patience>=5@" + 9999 * "9",
            "patience_loss>=5@20",
            "test_patience>=5@20",
            "best",
            "best_val",
            "best_f1",
            "val_best_loss",
            "best_val_loss<=0.1",
        ],
    )
    def test_bad_text(self, refused, text):
        with refused("until: "):
            ntp.parse(text)

    @pytest.mark.parametrize(
        "form",
        [
            "loss<=0.1",
            "loss<=0.1x",
            "accuracy>=0.9",
            "converged<0.01",
            "steps>=500",
            "patience>=5@20",
            "best_val_loss",
        ],
    )
    def test_the_message_shows_every_form(self, form):
        assert ntp.parse(form)
        with pytest.raises(ValueError, match=re.escape(form)):
            ntp.parse("soon")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("loss<=0", "value: got 0.0"),
            ("loss<=-1", "value: got -1.0"),
            ("loss<=1e999", "value: got inf"),
            ("loss<=2x", "relative: got 2.0"),
            ("accuracy>=90", "value: got 90.0"),
            ("converged<0", "eps: got 0.0"),
            ("steps>=0", "value: got 0"),
            ("patience>=5@0", "every: got 0"),
            ("patience>=5@20>-1", "min_delta: got -1.0"),
            ("patience>=5@20>1e999", "min_delta: got inf"),
            ("steps>=5 | loss<=0", "value: got 0.0"),
        ],
    )
    def test_values_outside_of_their_range(self, refused, text, message):
        with refused(message):
            ntp.parse(text)

    def test_doctests(self):
        failed, attempted = doctest.testmod(text)
        assert attempted > 0
        assert failed == 0
