import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from ntkpredict.record import to_plain, write


@dataclasses.dataclass(frozen=True)
class Thing:
    value: Any
    more: Any = None


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1, 0.1),
        ("text", "text"),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array(2.0), 2.0),
        (np.nan, None),
        (np.inf, None),
        (-np.inf, None),
        (np.float32(np.nan), None),
        ((1, (2.0, np.inf)), [1, [2.0, None]]),
        (np.array([[1.0, np.nan], [-np.inf, 2.0]]), [[1.0, None], [None, 2.0]]),
        (np.array([1, 2]), [1, 2]),
        ({"a": {"b": (np.float64(1),)}}, {"a": {"b": [1.0]}}),
        (Thing(Thing(np.arange(2)), (Thing("x"),)), None),
    ],
)
def test_to_plain(value, plain):
    if isinstance(value, Thing):
        plain = {"value": {"value": [0, 1], "more": None}, "more": [{"value": "x", "more": None}]}
    result = to_plain(value)
    assert result == plain
    assert type(result) is type(plain)
    assert json.loads(json.dumps(result, allow_nan=False)) == plain


class TestWrite:
    def test_reads_back(self, tmp_path):
        write(tmp_path / "a.json", {"x": [1, 2.5, None], "ü": "é"})
        assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {
            "x": [1, 2.5, None],
            "ü": "é",
        }
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_replaces_what_was_there(self, tmp_path):
        write(tmp_path / "a.json", {"x": list(range(1000))})
        write(str(tmp_path / "a.json"), {"x": 1})
        assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}

    @pytest.mark.parametrize("content", [{"x": float("nan")}, {"x": object()}])
    def test_what_json_cannot_hold_leaves_the_old_file(self, tmp_path, content):
        write(tmp_path / "a.json", {"x": 1})
        with pytest.raises((ValueError, TypeError)):
            write(tmp_path / "a.json", content)
        assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}

    @pytest.mark.parametrize("broken", ["pathlib.Path.write_text", "pathlib.Path.replace"])
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path, monkeypatch, broken
    ):
        write(tmp_path / "a.json", {"x": 1})

        def fail(path, *_, **__):
            with path.open("w") as file:
                file.write('{"x": 2, "y"')
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(broken, fail)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "a.json", {"x": 2, "y": 3})
        monkeypatch.undo()
        assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
