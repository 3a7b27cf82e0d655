import dataclasses
import json

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.forecast import FORMAT
from ntkpredict.record import to_plain
from sde import Curve

from .forecasts import STABILITY, VALIDITY


def not_reached(forecast):
    return dataclasses.replace(
        forecast,
        steps=None,
        steps_interval=None,
        stopping_times=np.full(4, np.inf),
        seconds=None,
        seconds_interval=None,
        reason="not reached",
        trajectory=dataclasses.replace(forecast.trajectory, validation=None),
    )


def without_stability(forecast):
    return dataclasses.replace(forecast, stability=None, solver="sde")


def open_ended(forecast):
    return dataclasses.replace(
        forecast,
        steps_interval=(10.0, None),
        stopping_times=np.array([9.5, np.inf, 12.5, np.inf]),
        seconds_interval=(1.0, None),
    )


def with_known_steps(forecast):
    return dataclasses.replace(
        forecast, trajectory=dataclasses.replace(forecast.trajectory, known=3)
    )


def diverging(forecast):
    rows = [[3.0, np.inf, np.nan], [2.9, -np.inf, 1e30]]
    trajectory = dataclasses.replace(
        forecast.trajectory, train=Curve(np.array(rows), np.ones((2, 3)))
    )
    return dataclasses.replace(not_reached(forecast), trajectory=trajectory)


def assert_same(found, expected):
    """Equal in every field; what is not finite comes back as NaN, stopping times as infinite."""
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            pair = getattr(found, field.name), getattr(expected, field.name)
            if field.name == "stopping_times":
                np.testing.assert_array_equal(*pair)
            else:
                assert_same(*pair)
    elif isinstance(expected, np.ndarray):
        assert found.dtype.kind == expected.dtype.kind
        if expected.dtype.kind == "f":
            expected = np.where(np.isfinite(expected), expected, np.nan)
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


class TestRoundTrip:
    @pytest.mark.parametrize(
        "change",
        [
            lambda forecast: forecast,
            not_reached,
            without_stability,
            open_ended,
            diverging,
            with_known_steps,
        ],
        ids=[
            *("reached", "not_reached", "without_stability", "open_ended", "diverging"),
            "with_known_steps",
        ],
    )
    def test_load_returns_what_was_saved(self, forecast, tmp_path, change):
        saved = change(forecast)
        saved.save(tmp_path / "f.json")
        loaded = ntp.Forecast.load(tmp_path / "f.json")
        assert_same(loaded, saved)
        assert loaded.to_dict() == saved.to_dict()

    def test_paths_may_be_text(self, forecast, tmp_path):
        forecast.save(str(tmp_path / "f.json"))
        assert_same(ntp.Forecast.load(str(tmp_path / "f.json")), forecast)

    def test_the_file_is_strict_json(self, forecast, tmp_path):
        def fail(name):
            pytest.fail(f"{name} is not JSON")

        diverging(forecast).save(tmp_path / "f.json")
        content = json.loads((tmp_path / "f.json").read_text("utf-8"), parse_constant=fail)
        assert content["format"] == FORMAT
        assert content["trajectory"]["train"]["loss"][0] == [3.0, None, None]
        assert content["stopping_times"] == [None] * 4

    def test_stability_and_solver_are_in_the_file(self, forecast, tmp_path):
        forecast.save(tmp_path / "f.json")
        content = json.loads((tmp_path / "f.json").read_text("utf-8"))
        assert content["format"] == FORMAT
        assert content["solver"] == "replay"
        assert content["stability"] == dataclasses.asdict(STABILITY)
        assert ntp.Forecast.load(tmp_path / "f.json").stability.margin == 2.5

    def test_what_was_read_answers_as_before(self, forecast, tmp_path):
        saved = with_known_steps(open_ended(forecast))
        saved.save(tmp_path / "f.json")
        loaded = ntp.Forecast.load(tmp_path / "f.json")
        assert loaded.trajectory.known == 3
        for steps in (5, 9.5, 20):
            assert loaded.probability(steps) == saved.probability(steps)

    def test_the_stopping_rule_can_be_read_back(self, forecast):
        assert str(ntp.parse(forecast.until)) == forecast.until


class TestProbability:
    def test_is_the_share_of_the_outcomes_until_then(self, forecast):
        pairs = {0: 0, 9: 0, 9.5: 0.25, 12: 0.5, 12.49: 0.5, 16: 0.75, 17: 1, 1e9: 1}
        assert {steps: forecast.probability(steps) for steps in pairs} == pairs

    def test_of_outcomes_beyond_the_budget_is_missing(self, forecast):
        assert open_ended(forecast).probability(1e9) == 0.5
        assert not_reached(forecast).probability(1e9) == 0


class TestBadFiles:
    @pytest.fixture
    def path(self, forecast, tmp_path):
        forecast.save(tmp_path / "f.json")
        return tmp_path / "f.json"

    def test_newer_format(self, path, refused):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "format": FORMAT + 1, "unheard": "of"}))
        with refused(f"path: '{path}' has format {FORMAT + 1}, this version reads {FORMAT}; upgr"):
            ntp.Forecast.load(path)

    def test_older_format(self, path, refused):
        content = json.loads(path.read_text())
        del content["stopping_times"]
        for older in (1, 2):
            path.write_text(json.dumps({**content, "format": older}))
            with refused(f"path: '{path}' has format {older}, this version reads {FORMAT}; make"):
                ntp.Forecast.load(path)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, path, refused, share):
        text = path.read_text()
        path.write_text(text[: int(share * len(text))])
        with refused(f"path: '{path}' is not a forecast ("):
            ntp.Forecast.load(path)

    @pytest.mark.parametrize("content", [b"[]", b"3", b'"text"', b"{}", b"null", b"\xff\xfe{}"])
    def test_not_a_forecast(self, path, refused, content):
        path.write_bytes(content)
        with refused(f"path: '{path}' is not a forecast ("):
            ntp.Forecast.load(path)

    def test_missing(self, tmp_path, refused):
        with refused(f"path: '{tmp_path / 'none.json'}' is not a forecast ("):
            ntp.Forecast.load(tmp_path / "none.json")
        with refused(f"path: '{tmp_path}' is not a forecast ("):
            ntp.Forecast.load(tmp_path)

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ntp.Forecast)])
    def test_a_field_is_missing(self, path, refused, field):
        content = json.loads(path.read_text())
        del content[field]
        path.write_text(json.dumps(content))
        with refused(f"path: '{path}' is damaged ("):
            ntp.Forecast.load(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("trajectory", None),
            ("trajectory", {"steps": [0], "train": None, "validation": None}),
            ("trajectory", []),
            ("cost", None),
            ("cost", {"batch_seconds": [1, 2, 3]}),
            ("cost", "cheap"),
            ("stability", {}),
            ("stability", {**dataclasses.asdict(STABILITY), "surprise": 1}),
            ("stability", [1, 2, 3, 4, 5]),
            ("stability", "stable"),
            ("validity", None),
            ("validity", {**to_plain(VALIDITY), "signals": {}}),
            ("validity", {**to_plain(VALIDITY), "clock": ["late"]}),
            ("steps_interval", 3),
            ("stopping_times", ["soon"]),
            ("notes", None),
            ("surprise", 1),
        ],
    )
    def test_a_field_of_another_kind(self, path, refused, field, value):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, field: value}))
        with refused(f"path: '{path}' is damaged ("):
            ntp.Forecast.load(path)

    def test_curves_that_are_no_numbers(self, path, refused):
        content = json.loads(path.read_text())
        content["trajectory"]["train"]["loss"] = [["a", "b", "c"]]
        path.write_text(json.dumps(content))
        with refused(f"path: '{path}' is damaged ("):
            ntp.Forecast.load(path)


def test_a_failed_write_leaves_the_old_file(forecast, tmp_path, monkeypatch):
    forecast.save(tmp_path / "f.json")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        not_reached(forecast).save(tmp_path / "f.json")
    assert_same(ntp.Forecast.load(tmp_path / "f.json"), forecast)
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]
