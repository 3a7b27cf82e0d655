import jax
import numpy as np
import pytest

import ntkpredict as ntp

COST = ntp.CostModel(
    compile_seconds=10.0, batch_seconds=(1.0, 2.0, 4.0), validation_seconds=0.5, batches=7
)


class Clock:
    """Goes on by the same amount at every look."""

    def __init__(self, tick):
        self.now, self.tick, self.looks = 100.0, tick, 0

    def __call__(self):
        self.looks += 1
        self.now += self.tick
        return self.now


class TestSeconds:
    @pytest.mark.parametrize(("quantile", "batch"), [(0, 1.0), (1, 2.0), (2, 4.0)])
    def test_is_compiling_and_steps_and_validation_passes(self, quantile, batch):
        assert COST.seconds(100.0, 30, quantile=quantile) == 10 + 100 * batch + 3 * 0.5

    def test_nothing_to_do_is_compiling(self):
        assert COST.seconds(0.0, 30) == 10

    def test_the_median_is_the_default(self):
        assert COST.seconds(5.0, 2) == COST.seconds(5.0, 2, quantile=1)

    @pytest.mark.parametrize(("steps", "passes"), [(9.9, 0), (10.0, 1), (19.0, 1), (20.0, 2)])
    def test_validation_comes_at_the_end_of_an_epoch(self, steps, passes):
        assert COST.seconds(steps, 10) == pytest.approx(10 + 2 * steps + 0.5 * passes)

    def test_more_steps_and_slower_batches_take_longer(self):
        seconds = [[COST.seconds(n, 7, quantile=q) for q in (0, 1, 2)] for n in (1.0, 6.5, 7.0)]
        assert (np.diff(seconds, axis=0) > 0).all()
        assert (np.diff(seconds, axis=1) > 0).all()


class TestMeasure:
    def test_seconds_are_those_of_the_clock(self, mlp, data, plan):
        slow = ntp.measure_cost(mlp, data, plan, batches=4, clock=Clock(0.25))
        fast = ntp.measure_cost(mlp, data, plan, batches=4, clock=Clock(0.125))
        assert slow.batches == fast.batches == 4
        assert slow.batch_seconds == (0.25, 0.25, 0.25)
        np.testing.assert_allclose(slow.batch_seconds, 2 * np.array(fast.batch_seconds))
        np.testing.assert_allclose(slow.validation_seconds, 2 * fast.validation_seconds)
        np.testing.assert_allclose(slow.compile_seconds, 2 * fast.compile_seconds)
        assert slow.compile_seconds >= 0
        assert slow.validation_seconds > 0

    @pytest.mark.parametrize(
        ("tick", "batches", "measured"), [(0.01, 5, 5), (10.0, 20, 3), (1.0, 20, 6)]
    )
    def test_stops_after_so_many_batches_or_seconds(
        self, linear, data, plan, tick, batches, measured
    ):
        cost = ntp.measure_cost(linear, data, plan, batches=batches, seconds=6.0, clock=Clock(tick))
        assert cost.batches == measured

    def test_the_first_step_is_compiling(self, linear, data, plan):
        """A clock that runs slower and slower: only the very first difference is long."""

        class Warming(Clock):
            def __call__(self):
                self.tick = 50.0 if self.looks == 1 else 0.5
                return super().__call__()

        cost = ntp.measure_cost(linear, data, plan, batches=4, clock=Warming(0.5))
        assert cost.compile_seconds == pytest.approx(49.5)
        assert cost.batch_seconds == (0.5, 0.5, 0.5)

    def test_quantiles_are_ordered_on_the_real_clock(self, mlp, data, plan):
        cost = ntp.measure_cost(mlp, data, plan, batches=10)
        low, middle, high = cost.batch_seconds
        assert 0 < low <= middle <= high
        assert cost.compile_seconds > middle
        assert cost.validation_seconds > 0

    def test_the_network_is_not_changed(self, mlp, data, plan):
        before = jax.tree.map(np.array, mlp.params)
        ntp.measure_cost(mlp, data, plan, batches=3)
        jax.tree.map(np.testing.assert_array_equal, mlp.params, before)

    def test_more_batches_than_an_epoch_has(self, linear, data):
        plan = ntp.Plan.sgd(0.1, batch_size=data.samples)
        assert ntp.measure_cost(linear, data, plan, batches=5).batches == 5

    def test_without_validation(self, linear, training_data, plan):
        assert ntp.measure_cost(linear, training_data, plan, batches=3).validation_seconds == 0

    def test_a_validation_pass_reads_all_validation_samples(self, linear, data):
        """Only some are measured; the rest is in proportion."""
        random = np.random.default_rng(0)
        points = random.normal(size=(4096, 5)).astype(np.float32)
        labels = random.integers(0, 3, 4096)
        plan = ntp.Plan.sgd(0.1, batch_size=8)
        few, many = (
            ntp.measure_cost(
                linear, ntp.Data(data.train, (points[:n], labels[:n])), plan, clock=Clock(1.0)
            ).validation_seconds
            for n in (64, 4096)
        )
        assert few == 1
        assert many == 4096 / 1024

    def test_progress(self, linear, data, plan):
        seen = []
        ntp.measure_cost(
            linear, data, plan, batches=4, progress=lambda *done: seen.append(done), clock=Clock(0)
        )
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
