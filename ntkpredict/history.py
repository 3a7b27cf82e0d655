"""What was forecast and what came of it, kept in one SQLite file.

Any number of processes may write at once and be killed at any time: a record is there whole, or not
at all. Only the standard library is needed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["forecast", "run"]
VARIABLE = "NTKPREDICT_HISTORY"
"""Of the environment: another path, or ``off``; what `History.choose` goes by."""

_PATIENCE_SECONDS = 60.0
"""How long one process waits for the others."""

_MIGRATIONS = (
    """
    CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time TEXT NOT NULL,
        kind TEXT NOT NULL,
        session TEXT NOT NULL,
        network TEXT NOT NULL,
        network_fingerprint TEXT NOT NULL,
        data TEXT NOT NULL,
        data_fingerprint TEXT NOT NULL,
        plan TEXT NOT NULL,
        until TEXT NOT NULL,
        machine TEXT NOT NULL,
        versions TEXT NOT NULL,
        result BLOB NOT NULL
    )
    """,
)
"""From each version of the file to the next; never change one, only add."""

_COLUMNS = (
    "kind, session, network, network_fingerprint, data, data_fingerprint, plan, until, machine, "
    "versions, result"
)


@dataclass(frozen=True)
class Task:
    """What was forecast or trained.

    Attributes:
        network: its name.
        network_fingerprint: of its weights.
        data: its name.
        data_fingerprint: of its samples.
        plan: in one line.
        until: the stopping rule, empty where there was none.
        machine: where, as name and value.
        versions: of the libraries.
    """

    network: str
    network_fingerprint: str
    data: str
    data_fingerprint: str
    plan: str
    until: str
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Record:
    """One forecast or one real run.

    Attributes:
        id: its number in the file, never given twice.
        time: when it was added, in UTC.
        kind: ``"forecast"`` or ``"run"``.
        session: the same for a forecast and the run that it was held against.
        task: what it is of.
        result: as JSON holds it.
    """

    id: int
    time: str
    kind: Kind
    session: str
    task: Task
    result: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class History:
    """The file. It is made when it is first written to.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def choose(cls, path: str | None = None) -> History | None:
        """The history of that path, and none at all where it is ``off``.

        Where None, what the environment variable NTKPREDICT_HISTORY says in the same way, or else
        the file in the user's state directory.
        """
        chosen = path or os.environ.get(VARIABLE) or default_path()
        return None if chosen == "off" else cls(chosen)

    def add(self, kind: Kind, session: str, task: Task, result: dict[str, Any]) -> int:
        """Keep a result, and return its number once it is safe on disk.

        Raises:
            ValueError: an unknown kind, or a result that JSON cannot hold.
            OSError: the file cannot be written, or is none of this version.
        """
        row = _row(kind, session, task, result)
        with self._writing() as connection:
            return _insert(connection, row)

    def add_once(self, kind: Kind, session: str, task: Task, result: dict[str, Any]) -> int | None:
        """As `add`, but nothing, and None, where there is a record of that session."""
        row = _row(kind, session, task, result)
        with self._writing() as connection:
            there = connection.execute("SELECT 1 FROM records WHERE session = ?", (session,))
            return None if there.fetchone() else _insert(connection, row)

    def records(self, ids: tuple[int, ...] = (), *, latest: int | None = None) -> list[Record]:
        """All records, those of some numbers or the latest so many, oldest first.

        Raises:
            ValueError: a number that is not there.
            OSError: the file cannot be read, or is none of this version.
        """
        found = [_record(row) for row in self._rows(latest) if not ids or row[0] in ids]
        _check_ids(ids, {record.id for record in found})
        return found

    def forget(self, ids: tuple[int, ...] = ()) -> int:
        """Delete some records, or all; how many there were.

        Raises:
            ValueError: a number that is not there; nothing is deleted then.
            OSError: as for `records`.
        """
        if not self.path.exists():
            _check_ids(ids, set())
            return 0
        with self._open() as connection:
            there = {row[0] for row in connection.execute("SELECT id FROM records")}
            _check_ids(ids, there)
            chosen = [(number,) for number in ids or there]
            connection.executemany("DELETE FROM records WHERE id = ?", chosen)
            return len(chosen)

    def _rows(self, latest: int | None) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._open() as connection:
            order = f"SELECT id, time, {_COLUMNS} FROM records ORDER BY id DESC LIMIT ?"
            return connection.execute(order, (-1 if latest is None else latest,)).fetchall()[::-1]

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self._open()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it happens, or nothing."""
        try:
            connect = sqlite3.connect(self.path, timeout=_PATIENCE_SECONDS, isolation_level=None)
            with closing(connect) as connection:
                _write_ahead(connection)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    _migrate(connection, self.path)
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            msg = f"history: {str(self.path)!r} cannot be used ({error}); give another, or off"
            raise OSError(msg) from error


def default_path() -> Path:
    """In the user's state directory, where the platform has it."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return folder / "ntkpredict" / "history.sqlite"


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Write-ahead logging; making the switch does not wait for other processes by itself."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        msg = (
            f"history: {str(path)!r} has version {version}, this ntkpredict knows up to "
            f"{len(_MIGRATIONS)}; upgrade it, or give another file"
        )
        raise OSError(msg)
    for statement in _MIGRATIONS[version:]:
        connection.execute(statement)
    if version < len(_MIGRATIONS):
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _row(kind: Kind, session: str, task: Task, result: dict[str, Any]) -> tuple[Any, ...]:
    if kind not in get_args(Kind):
        msg = f"kind: got {kind!r}; expected one of {get_args(Kind)}"
        raise ValueError(msg)
    packed = zlib.compress(json.dumps(result, allow_nan=False).encode())
    told = [
        json.dumps(value) if isinstance(value, dict) else value for value in vars(task).values()
    ]
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return (now, kind, session, *told, packed)


def _insert(connection: sqlite3.Connection, row: tuple[Any, ...]) -> int:
    marks = ", ".join("?" * len(row))
    found = connection.execute(f"INSERT INTO records (time, {_COLUMNS}) VALUES ({marks})", row)
    return int(found.lastrowid or 0)


def _record(row: tuple[Any, ...]) -> Record:
    number, when, kind, session, *told, machine, versions, packed = row
    values = [*told, json.loads(machine), json.loads(versions)]
    task = Task(*values)
    return Record(number, when, kind, session, task, json.loads(zlib.decompress(packed)))


def _check_ids(ids: tuple[int, ...], there: set[int]) -> None:
    missing = sorted(set(ids) - there)
    if missing:
        msg = f"ids: no records {missing}; see `ntkpredict history list`"
        raise ValueError(msg)
