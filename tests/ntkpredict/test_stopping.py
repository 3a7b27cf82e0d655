import doctest

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict import stopping

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

    @pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, ntp.MaxSteps)], ids=str)
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
        ],
    )
    def test_bad_text(self, refused, text):
        with refused("until: "):
            ntp.parse(text)

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
            ("steps>=5 | loss<=0", "value: got 0.0"),
        ],
    )
    def test_values_outside_of_their_range(self, refused, text, message):
        with refused(message):
            ntp.parse(text)

    def test_doctests(self):
        failed, attempted = doctest.testmod(stopping)
        assert attempted > 0
        assert failed == 0
