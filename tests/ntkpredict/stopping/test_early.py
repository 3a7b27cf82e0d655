import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.counter import early_stopping
from tests.ntkpredict.stopping.rules import one


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
