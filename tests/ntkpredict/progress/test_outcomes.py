"""Where training may stop, and what is told of it."""

import numpy as np
import pytest

from ntkpredict.progress.outcomes import Outcomes

STOPS = np.random.default_rng(0).lognormal(5, 0.5, 400)
LIMIT = 250


@pytest.mark.parametrize(
    ("patience", "odds"), [(0, 1), (1, 1), (2, 1.587), (8, 4), (10, 4.642), (50, 4.642)]
)
def test_patience_makes_the_maximum_likelier(patience, odds):
    before, after = (Outcomes.of(STOPS, LIMIT, p).at_limit for p in (0, patience))
    assert after / (1 - after) == pytest.approx(odds * before / (1 - before), rel=0.02)


@pytest.mark.parametrize("limit", [100, 250, 10_000])
def test_the_interval_is_the_shortest_with_95_percent(limit):
    outcomes = Outcomes.of(STOPS, limit, 0)
    low, high = outcomes.interval
    assert np.mean((outcomes.stops >= low) & (outcomes.stops <= high)) >= 0.95
    assert low <= outcomes.median <= high
    for start in np.linspace(0, 0.05, 6):
        ends = np.quantile(outcomes.stops, [start, start + 0.95], method="nearest")
        assert high - low <= np.ptp(ends) + 1e-9


def test_of_equal_intervals_it_is_the_middle_one():
    assert Outcomes.of(np.arange(1.0, 41), 100, 5).interval == (2, 39)


def test_what_has_passed_is_no_longer_there():
    outcomes = Outcomes.of(STOPS, LIMIT, 3)
    np.testing.assert_array_equal(outcomes.after(120).stops, outcomes.stops[outcomes.stops > 120])
    assert outcomes.after(LIMIT).interval == (LIMIT + 1, LIMIT + 1)
