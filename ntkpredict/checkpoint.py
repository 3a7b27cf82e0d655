"""Training states on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

_META = "run"
_STATE = "state"


class Checkpoints:
    """Orbax checkpoints in a folder; written whole or not at all.

    Args:
        directory: the folder, made where it is missing.
        fingerprint: what identifies the run; a folder of another run is refused.
        keep: how many of the latest checkpoints stay.

    Raises:
        ValueError: the folder holds checkpoints of another run.
    """

    def __init__(self, directory: Path, fingerprint: dict[str, Any], *, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._directory = directory.resolve()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: Any, curves: dict[str, Any]) -> None:
        """Write a state, a pytree of arrays, and the curves so far."""
        leaves = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        meta = {"fingerprint": self._fingerprint, "curves": curves}
        self._manager.save(
            step,
            args=self._ocp.args.Composite(
                **{
                    _STATE: self._ocp.args.StandardSave(leaves),
                    _META: self._ocp.args.JsonSave(meta),
                }
            ),
        )

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
        template = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
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
        arrays = [jax.numpy.asarray(restored[key]) for key in sorted(template)]
        return step, jax.tree.unflatten(structure, arrays), meta["curves"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _restore(self, step: int, folder: Path, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:
            # Orbax and tensorstore raise errors of many kinds for a damaged folder.
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            msg = (
                f"checkpoints: {str(folder)!r} cannot be read ({reason}); move that folder away to "
                "resume from the one before it"
            )
            raise ValueError(msg) from error
