import xml.etree.ElementTree as ET

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.report.figure import Band, Cells, Line, Points, Reference
from ntkpredict.report.forecast_figures import fan

from .. import forecasts


def only(figure, kind):
    return [layer for layer in figure.layers if isinstance(layer, kind)]


class TestFan:
    def test_without_errors_of_the_clock_it_spans_the_seeds(self, trajectory):
        rows = np.arange(40.0)[::-1, None] + np.array([10.0, 5.0, 0.0])
        spread = fan(trajectory([0, 10, 20], rows), np.zeros(1))
        np.testing.assert_allclose(
            spread.train.loss[:, 1], 5 + np.quantile(np.arange(40.0), [0.025, 0.25, 0.75, 0.975])
        )

    def test_a_clock_that_may_be_twice_as_slow(self, trajectory):
        spread = fan(trajectory([0, 10, 20], [4.0, 2.0, 0.0]), np.log([1.0] * 50 + [2.0] * 50))
        np.testing.assert_allclose(spread.train.loss[0], [4.0, 2.0, 0.0])
        np.testing.assert_allclose(spread.train.loss[3], [4.0, 3.0, 2.0])


class TestOfAForecast:
    def test_names(self, forecast):
        splits = ("train", "validation")
        curves = [f"{split}-{metric}" for metric in ("loss", "accuracy") for split in splits]
        assert list(ntp.figures(forecast)) == [*curves, "stopping", "spectrum"]

    def test_targets_and_the_stop_are_marked(self, forecast):
        found = ntp.figures(forecast)
        for name, target in {"train-loss": 0.295, "validation-accuracy": 0.9}.items():
            goal, stop = only(found[name], Reference)
            assert (goal.axis, goal.value) == ("y", pytest.approx(target))
            assert (stop.axis, stop.value) == ("x", forecast.steps)
        assert len(only(found["validation-loss"], Reference)) == 1

    def test_the_bands_are_nested(self, forecast):
        for name in ("train-loss", "validation-loss"):
            outer, inner = only(ntp.figures(forecast)[name], Band)
            rows = [outer.low, inner.low, inner.high, outer.high]
            assert (np.diff(rows, axis=0) >= 0).all()


@pytest.fixture(scope="module")
def found():
    return ntp.figures(forecasts.ranking())


class TestOfARanking:
    def test_names(self, found):
        assert list(found) == ["heat-sgd-momentum-0-9", "pareto", "price", "curves", "batches"]

    def test_the_heat_map_has_each_plan_on_its_best_machine(self, found):
        (cells,) = only(found["heat-sgd-momentum-0-9"], Cells)
        assert (cells.rows, cells.columns) == (("0.01", "0.1"), ("8", "16"))
        assert cells.texts[1][0] == "diverges"
        assert np.isnan(cells.values[1, 0])
        fastest = (1.5 + 0.025 * np.array([150.0, 125.0, 100.0])) / 4
        np.testing.assert_allclose(np.exp(cells.values.ravel()[[0, 1, 3]]), fastest)

    def test_the_front_is_told_by_rank(self, found):
        ranking = forecasts.ranking()
        others, front = only(found["pareto"], Points)
        assert front.marks == tuple(str(i) for i, on in enumerate(ranking.front, 1) if on)
        assert len(front.x) + len(others.x) == 6

    def test_the_fit_of_steps_to_batch_size(self, found):
        (points,) = only(found["batches"], Points)
        (fit,) = only(found["batches"], Line)
        np.testing.assert_allclose(points.y, [150.0, 100.0])
        np.testing.assert_allclose(fit.y[[0, -1]], points.y, rtol=1e-9)


class TestSaving:
    @pytest.mark.parametrize("name", ["heat-sgd-momentum-0-9", "pareto", "curves", "batches"])
    def test_svg(self, tmp_path, name):
        ntp.figures(forecasts.ranking())[name].save(tmp_path / "f.svg")
        assert ET.parse(tmp_path / "f.svg").getroot().tag.endswith("svg")

    def test_png(self, forecast, tmp_path):
        ntp.figures(forecast)["train-loss"].save(str(tmp_path / "f.png"))
        assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")

    def test_another_ending(self, forecast, tmp_path, refused):
        with refused(f"path: got '{tmp_path / 'f.pdf'}'; expected a file that ends in .svg or"):
            ntp.figures(forecast)["stopping"].save(tmp_path / "f.pdf")
