import numpy as np
import pytest

import ntkpredict as ntp
from tests.ntkpredict.stopping.rules import RULES, STEPS, one


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
