import numpy as np
import pytest

import ntkpredict as ntp
from tests.ntkpredict.stopping.rules import STEPS, one


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
