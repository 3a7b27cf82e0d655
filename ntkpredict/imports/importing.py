"""Logged runs into the history, each once."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from ntkpredict.history import History, Task
from ntkpredict.imports import huggingface, keras, lightning, tensorboard
from ntkpredict.imports.logged import Logged, UnknownLogError

Format = Literal["keras", "huggingface", "lightning", "tensorboard"]
FORMATS: tuple[Format, ...] = get_args(Format)
_DAMAGED = (KeyError, TypeError, IndexError, ValueError, csv.Error)


def import_runs(
    path: str | Path,
    history: History,
    *,
    format: Format | None = None,
    steps_per_epoch: int | None = None,
) -> list[int]:
    """Keep the runs that another program logged, so that they count like one's own.

    Args:
        path: a Keras `History.history` as JSON, the file of a Keras or Lightning `CSVLogger`, a
            Hugging Face `trainer_state.json`, a TensorBoard event file, or a folder with any number
            of event files: each folder is a run, and train and validation beside each other are
            one.
        history: where they are kept.
        format: one of `FORMATS`; told from the content where None.
        steps_per_epoch: to count steps where only epochs were logged.

    Returns:
        The numbers of the new records; a file that is there already adds none.

    Raises:
        ValueError: nothing that can be read, or another format than the one given.
        OSError: a file that cannot be read or written.
    """
    if format not in (None, *FORMATS):
        msg = f"format: got {format!r}; expected one of {FORMATS}"
        raise ValueError(msg)
    if steps_per_epoch is not None and steps_per_epoch < 1:
        msg = f"steps_per_epoch: got {steps_per_epoch}; expected at least 1"
        raise ValueError(msg)
    source = Path(path)
    numbers = []
    for files in _runs(source):
        try:
            found, logged = _read(files)
        except UnknownLogError:
            raise
        except _DAMAGED as error:
            msg = f"path: {str(files[0])!r} cannot be read ({error!r}); expected {FORMATS}"
            raise ValueError(msg) from error
        if format not in (None, found):
            msg = f"format: got {format!r}, but {str(files[0])!r} looks like {found!r}"
            raise ValueError(msg)
        number = _keep(history, source, files, found, logged.in_steps(steps_per_epoch))
        numbers += [] if number is None else [number]
    return numbers


def _runs(path: Path) -> Iterable[list[Path]]:
    """The files of each run."""
    if not path.is_dir():
        return [[path]]
    runs: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob("*tfevents*")):
        halves = file.parent.name in ("train", "validation")
        runs.setdefault(file.parent.parent if halves else file.parent, []).append(file)
    if not runs:
        msg = f"path: {str(path)!r} has no TensorBoard event files; expected some, or a file"
        raise ValueError(msg)
    return runs.values()


def _read(files: list[Path]) -> tuple[Format, Logged]:
    with files[0].open("rb") as file:
        head = file.read(4096)
    if tensorboard.is_events(head):
        return "tensorboard", tensorboard.read_events(files)
    text = files[0].read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):
        return _read_json(files[0], json.loads(text))
    rows = list(csv.DictReader(text.splitlines()))
    columns = list(rows[0]) if rows else []
    if lightning.is_log(columns):
        return "lightning", lightning.read_log(rows)
    if keras.is_log(columns):
        return "keras", keras.read_log(rows)
    raise _unknown(files[0])


def _read_json(path: Path, content: Any) -> tuple[Format, Logged]:
    if huggingface.is_state(content):
        return "huggingface", huggingface.read_state(content)
    if keras.is_history(content):
        return "keras", keras.read_history(content)
    raise _unknown(path)


def _unknown(path: Path) -> UnknownLogError:
    return UnknownLogError(
        f"path: {str(path)!r} is no log of a run that is known; expected {FORMATS}"
    )


def _keep(
    history: History, source: Path, files: list[Path], found: Format, logged: Logged
) -> int | None:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    told = {"lr": logged.learning_rate, "batch size": logged.batch_size}
    within = files[0].parent.relative_to(source) if source.is_dir() else ""
    place = Path(source.absolute().name, within)
    plan = [f"{name} {value:.4g}" for name, value in told.items() if value is not None]
    task = Task(
        network=f"{found} run",
        network_fingerprint="",
        data=place.as_posix(),
        data_fingerprint="",
        plan=", ".join([*plan, f"{logged.steps} {logged.unit}"]),
        until="",
        machine={},
        versions={},
    )
    fingerprint = digest.hexdigest()
    origin = {"format": found, "path": str(files[0].absolute()), "sha256": fingerprint}
    session = f"import {fingerprint}"
    return history.add_once("run", session, task, {**logged.to_result(), "source": origin})
