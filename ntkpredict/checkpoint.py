"""Training states on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linearize.errors import first_line
from ntkpredict.record import write

_META = "run"
_STATE = "state"
_CHECKSUMS = "checksums.json"


class Checkpoints:
    """Orbax checkpoints in a folder; written whole or not at all, and read only undamaged.

    Args:
        directory: the folder, made where it is missing.
        fingerprint: what identifies the run; a folder of another run is refused.
        keep: how many of the latest checkpoints stay.

    Raises:
        ValueError: the folder cannot be made or written to.
    """

    def __init__(self, directory: Path, fingerprint: dict[str, Any], *, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._directory = _writable(directory.resolve())
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: Any, curves: dict[str, Any]) -> None:
        """Write a state, a pytree of arrays, and the curves so far."""
        leaves = {f"{i:05d}": _array(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        meta = {"fingerprint": self._fingerprint, "curves": curves}
        saved = self._manager.save(
            step,
            args=self._ocp.args.Composite(
                **{
                    _STATE: self._ocp.args.StandardSave(leaves),
                    _META: self._ocp.args.JsonSave(meta),
                }
            ),
        )
        if saved:
            folder = self._directory / str(step)
            write(folder / _CHECKSUMS, _checksums(folder))

    def latest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, curves) of the latest checkpoint, or None where there is none.

        Args:
            like: a state of the same structure.

        Raises:
            ValueError: the checkpoint cannot be read, or is another run's.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self._directory / str(step)
        leaves, structure = jax.tree.flatten(like)
        template = {f"{i:05d}": _array(leaf) for i, leaf in enumerate(leaves)}
        _verify(folder)
        meta = self._restore(step, folder, **{_META: self._ocp.args.JsonRestore()})[_META]
        if meta["fingerprint"] != self._fingerprint:
            keys = meta["fingerprint"].keys() | self._fingerprint.keys()
            changed = {
                key for key in keys if meta["fingerprint"].get(key) != self._fingerprint.get(key)
            }
            msg = (
                f"checkpoints: {str(self._directory)!r} holds another run ({sorted(changed)} "
                "differ); give another folder"
            )
            raise ValueError(msg)
        restored = self._restore(
            step, folder, **{_STATE: self._ocp.args.StandardRestore(template)}
        )[_STATE]
        arrays = [restored[key] for key in sorted(template)]
        state = jax.tree.unflatten(structure, map(_leaf, arrays, leaves))
        return step, state, meta["curves"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _restore(self, step: int, folder: Path, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:
            # Orbax and tensorstore raise errors of many kinds for a damaged folder.
            raise ValueError(_unreadable(folder, first_line(error))) from error


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a random key, which is no array to NumPy and Orbax."""
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _array(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _leaf(array: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(like))
    return jax.numpy.asarray(array)


def _writable(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"checkpoints: {str(directory)!r} cannot be made ({error.strerror}); give a folder"
        raise ValueError(msg) from error
    if not os.access(directory, os.W_OK):
        msg = f"checkpoints: {str(directory)!r} cannot be written to; give another folder"
        raise ValueError(msg)
    return directory


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _CHECKSUMS:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return digests


def _verify(folder: Path) -> None:
    """Compare a checkpoint with its checksums; a kill may have come before they were written.

    Orbax by itself misses some damage, and prints the stack traces of its threads for the rest.
    """
    path = folder / _CHECKSUMS
    if not path.exists():
        return
    try:
        expected, found = json.loads(path.read_text(encoding="utf-8")), _checksums(folder)
        changed = [name for name, digest in expected.items() if found.get(name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(_unreadable(folder, f"{_CHECKSUMS}: {error}")) from error
    if changed:
        raise ValueError(_unreadable(folder, f"{changed[0]} is damaged or missing"))


def _unreadable(folder: Path, reason: str) -> str:
    return (
        f"checkpoints: {str(folder)!r} cannot be read ({reason}); move that folder away to resume "
        "from the one before it"
    )
