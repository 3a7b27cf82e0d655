import dataclasses
import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntkpredict import history
from ntkpredict.history import History, Task

TASK = Task("net", "n1", "digits", "d1", "sgd, lr 0.1", "loss<=0.1x", {"cores": 2}, {"jax": "1"})

WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("history", sys.argv[1])
history = importlib.util.module_from_spec(spec)
sys.modules["history"] = history
spec.loader.exec_module(history)
task = history.Task("net", "n", "data", "d", "plan", "until", {}, {})
store = history.History(sys.argv[2])
for i in range(10**6):
    number = store.add("run", sys.argv[3], task, {"i": i, "padding": list(range(5000))})
    print(number, i, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return History(tmp_path / "state" / "history.sqlite")


class TestRecords:
    def test_what_is_added_is_there(self, store):
        first = store.add("forecast", "s1", TASK, {"steps": 3.5, "curve": [1, None]})
        second = store.add("run", "s1", dataclasses.replace(TASK, until=""), {})
        kept = store.records()
        assert [record.id for record in kept] == [first, second]
        assert kept[0].task == TASK
        assert kept[0].result == {"steps": 3.5, "curve": [1, None]}
        assert (kept[0].kind, kept[1].kind) == ("forecast", "run")
        assert kept[0].session == kept[1].session
        assert kept[0].time.endswith("+00:00")
        assert store.records((second,)) == [kept[1]]
        assert json.loads(json.dumps(kept[0].to_dict()))["task"]["machine"] == {"cores": 2}

    def test_without_a_file_there_are_none(self, store):
        assert store.records() == []
        assert store.forget() == 0
        assert not store.path.exists()

    def test_forgetting(self, store):
        ids = [store.add("run", "s", TASK, {"i": i}) for i in range(4)]
        assert store.forget((ids[1],)) == 1
        assert [record.result["i"] for record in store.records()] == [0, 2, 3]
        assert store.forget() == 3
        assert store.add("run", "s", TASK, {}) > ids[-1]  # numbers are not given twice

    def test_numbers_that_are_not_there(self, store, refused):
        number = store.add("run", "s", TASK, {})
        for act in (store.records, store.forget):
            with refused(f"ids: no records [{number + 7}]"):
                act((number, number + 7))
        assert len(store.records()) == 1
        with refused("ids: no records [1]"):
            History(store.path.with_name("other")).forget((1,))

    def test_what_json_cannot_hold(self, store):
        with pytest.raises(ValueError, match="JSON"):
            store.add("run", "s", TASK, {"loss": float("nan")})
        assert store.records() == []


class TestFile:
    def test_another_kind_of_file(self, store):
        store.path.parent.mkdir()
        store.path.write_text("x" * 5000)
        with pytest.raises(OSError, match="cannot be used"):
            store.add("run", "s", TASK, {})
        assert store.path.read_text() == "x" * 5000

    def test_a_newer_version(self, store):
        store.add("run", "s", TASK, {})
        with sqlite3.connect(store.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(OSError, match="has version 99, this ntkpredict knows up to 1"):
            store.records()

    def test_an_older_version_is_brought_up_to_date(self, store, monkeypatch):
        store.add("run", "s", TASK, {"i": 1})
        added = "ALTER TABLE records ADD COLUMN note TEXT DEFAULT 'none'"
        monkeypatch.setattr(history, "_MIGRATIONS", (*history._MIGRATIONS, added))
        store.add("run", "s", TASK, {"i": 2})
        assert [record.result["i"] for record in store.records()] == [1, 2]
        with sqlite3.connect(store.path) as connection:
            notes = connection.execute("SELECT note FROM records").fetchall()
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        connection.close()
        assert notes == [("none",), ("none",)]

    def test_a_migration_that_fails_changes_nothing(self, store, monkeypatch):
        store.add("run", "s", TASK, {"i": 1})
        broken = (*history._MIGRATIONS, "DELETE FROM records", "SELECT nonsense")
        with monkeypatch.context() as patch:
            patch.setattr(history, "_MIGRATIONS", broken)
            with pytest.raises(OSError, match="nonsense"):
                store.records()
        assert len(store.records()) == 1

    @pytest.mark.parametrize(
        ("platform", "variables", "expected"),
        [
            ("linux", {"XDG_STATE_HOME": "/s"}, "/s/ntkpredict/history.sqlite"),
            ("linux", {}, "/home/me/.local/state/ntkpredict/history.sqlite"),
            ("darwin", {}, "/home/me/Library/Application Support/ntkpredict/history.sqlite"),
            ("win32", {"LOCALAPPDATA": "/l"}, "/l/ntkpredict/history.sqlite"),
        ],
    )
    def test_it_is_where_the_platform_keeps_state(self, monkeypatch, platform, variables, expected):
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert history.default_path() == Path(expected)

    def test_it_is_chosen_by_path_then_by_the_environment(self, monkeypatch):
        assert History.choose("off") is None
        assert History.choose("a.db").path == Path("a.db")
        monkeypatch.setenv("NTKPREDICT_HISTORY", "/h.db")
        assert History.choose().path == Path("/h.db")
        monkeypatch.setenv("NTKPREDICT_HISTORY", "off")
        assert History.choose() is None
        assert History.choose("a.db") is not None
        monkeypatch.delenv("NTKPREDICT_HISTORY")
        assert History.choose().path == history.default_path()


def test_writers_that_are_killed_lose_nothing_and_leave_nothing_half_written(tmp_path):
    path, random_ = tmp_path / "history.sqlite", random.Random(0)
    arguments = [sys.executable, "-c", WRITER, history.__file__, str(path)]
    writers = []
    for i in range(8):
        with (tmp_path / f"{i}.txt").open("w") as told:
            writers.append(subprocess.Popen([*arguments, str(i)], stdout=told))
    deadline = time.monotonic() + 30
    while not all((tmp_path / f"{i}.txt").stat().st_size for i in range(8)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for writer in random_.sample(writers, 8):
        time.sleep(random_.uniform(0, 0.2))
        writer.kill()
    for writer in writers:
        writer.wait()
    kept = {record.id: record for record in History(path).records()}
    told = 0
    for i in range(8):
        for line in (tmp_path / f"{i}.txt").read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                number, value = map(int, line.split())
                assert kept[number].session == str(i)
                assert kept[number].result["i"] == value
                told += 1
    assert told >= 8
    # A killed writer had at most one more, and each counts up without a gap.
    assert told <= len(kept) <= told + 8
    for i in range(8):
        mine = [record.result for record in kept.values() if record.session == str(i)]
        assert [result["i"] for result in mine] == list(range(len(mine)))
        assert all(len(result["padding"]) == 5000 for result in mine)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
