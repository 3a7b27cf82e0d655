"""When curves have told enough, on curves by hand."""

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.interval import horizon, predicted_steps
from ntkpredict.race import Race

TARGET = ntp.TargetLoss(relative=0.5)
STEPS = np.arange(101)


def beyond(stop):
    return 1.5 * stop


def end(race, curves, plan=0):
    """The step at which a race lets these curves go, None where it does not."""
    for count in range(1, len(curves.steps) + 1):
        if race.over(plan, curves.first(count), beyond):
            return int(curves.steps[count - 1])
    return None


@pytest.fixture
def falling(trajectory):
    """Curves that fall to half in so many steps each, and further in proportion."""
    return lambda *halves: trajectory(STEPS, [2.0 ** (-STEPS / half) for half in halves])


class TestRace:
    @pytest.mark.parametrize(
        ("until", "expected"),
        [
            (ntp.TargetLoss(relative=0.05), 65),  # 1.5 times the 43 of the slower one
            (TARGET, 27),  # a tenth of the loss is left in the median
            (TARGET | ntp.MaxSteps(90), 27),
            (TARGET | ntp.EarlyStopping(3, every=20, on="train"), 27),
            (ntp.TargetLoss(relative=0.05, on="validation"), None),
            (TARGET | ntp.EarlyStopping(3, every=20), None),
            (TARGET | ntp.Best(on="train"), None),
            (TARGET | ntp.Converged(0.1), None),
            (ntp.MaxSteps(30), None),
        ],
        ids=str,
    )
    def test_ends_where_nothing_reads_on(self, falling, until, expected):
        assert end(Race(until, 1000, np.inf), falling(6.0, 10.0)) == expected

    def test_ends_beyond_a_limit_and_without_a_number(self, falling, trajectory):
        assert end(Race(TARGET, 20, np.inf), falling(100.0)) == 40
        lost = trajectory([0, 1, 2, 3], [[1.0, 2.0, np.inf, np.nan], [1.0, 2.0, np.nan, np.nan]])
        assert end(Race(TARGET, 20, np.inf), lost) == 2

    def test_gives_up_who_is_far_behind(self, falling):
        race = Race(TARGET, 1000, 10)
        assert end(race, falling(5.0), plan=3) == 17
        assert end(race, falling(90.0), plan=4) == 51
        assert race.given_up == {4}


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_up_to_the_horizon_all_that_an_interval_reads(falling, shift):
    clock = np.linspace(-0.8, 0.6, 41)
    curves, target = falling(4.0, 6.0), ntp.TargetLoss(relative=0.25)
    last = int(np.ceil(horizon(12.0, clock, shift)))
    assert last < 100
    rows = np.where(last >= STEPS, curves.train.loss, np.nan)
    told = ntp.Trajectory(STEPS, type(curves.train)(rows, curves.train.accuracy), None)
    assert predicted_steps(told, target, clock, shift) == predicted_steps(
        curves, target, clock, shift
    )
