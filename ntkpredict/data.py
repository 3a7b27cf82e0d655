"""The samples that fine-tuning will see."""

from __future__ import annotations

import contextlib
import logging
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linearize.errors import first_line
from linearize.types import Inputs

Labels = np.ndarray
Split = tuple[Inputs, Labels]


@dataclass(frozen=True)
class Data:
    """Training and validation samples, in memory.

    Attributes:
        train: (inputs, labels), samples on the leading axis. Labels are integers (samples,) or
            targets (samples, outputs).
        validation: the same, or None.
        name: what messages and records call it.
    """

    train: Split
    validation: Split | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        _check("train", self.train)
        if self.validation is not None:
            _check("validation", self.validation)
            _check_alike(self.train[0], self.validation[0])

    @property
    def samples(self) -> int:
        """The number of training samples."""
        return len(self.train[1])


def take(split: Split, index: Any) -> Split:
    """Some samples of a split."""
    inputs, labels = split
    return jax.tree.map(lambda leaf: leaf[index], inputs), labels[index]


def subset_index(samples: int, count: int) -> np.ndarray:
    """At most `count` of the samples, always the same random ones, in their own order."""
    return np.sort(np.random.default_rng(0).permutation(samples)[:count])


def load_data(source: str, *, data_dir: str | Path | None = None) -> Data:
    """Data by name.

    Args:
        source: ``"digits"``, the embedded default; ``"tfds:NAME"``, any supervised TFDS data set
            with integer labels, its ``train`` split and ``validation`` or else ``test``; or
            ``"npz:PATH"``, a NumPy archive with ``x_train``, ``y_train`` and, optionally,
            ``x_validation`` and ``y_validation``. Images of type uint8 are scaled to 0..1.
        data_dir: where TFDS keeps its files; its own default where None.

    Raises:
        ValueError: an unknown source, or one that cannot be read, with the cause.
    """
    kind, _, rest = source.partition(":")
    if source == "digits":
        import ntkpredict.embedded  # noqa: F401 (registers the builder)

        return _load_tfds(source, data_dir)
    if kind == "tfds" and rest:
        return _load_tfds(rest, data_dir)
    if kind == "npz" and rest:
        return _load_npz(Path(rest))
    msg = f"data: got {source!r}; expected 'digits', 'tfds:NAME' or 'npz:PATH'"
    raise ValueError(msg)


def _load_tfds(name: str, data_dir: str | Path | None) -> Data:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints; stdout is for results
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            builder.download_and_prepare()
    except Exception as error:
        # TFDS raises errors of many kinds for an unknown name, no network or a missing dependency.
        msg = f"data: 'tfds:{name}' cannot be prepared: {first_line(error)}"
        raise ValueError(msg) from error
    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2:
        msg = f"data: 'tfds:{name}' has supervised_keys {keys}; expected (input, label)"
        raise ValueError(msg)
    if "train" not in builder.info.splits:
        msg = f"data: 'tfds:{name}' has splits {sorted(builder.info.splits)}; expected 'train'"
        raise ValueError(msg)
    held_out = next(
        (split for split in ("validation", "test") if split in builder.info.splits), None
    )
    validation = None if held_out is None else _read(builder, held_out, keys)
    return Data(_read(builder, "train", keys), validation, name=name)


def _read(builder: Any, split: str, keys: tuple[str, str]) -> Split:
    with _without_opencv_advice():
        records = [(record[keys[0]], record[keys[1]]) for record in builder.as_data_source(split)]
    inputs, labels = (
        _stacked(column, f"'tfds:{builder.name}', {key!r}")
        for column, key in zip(zip(*records, strict=True), keys, strict=True)
    )
    if not np.issubdtype(labels.dtype, np.integer):
        msg = f"data: 'tfds:{builder.name}' has labels of {labels.dtype}; expected integers"
        raise ValueError(msg)
    return _scaled(inputs), labels.astype(np.int32)


def _stacked(column: Sequence[Any], name: str) -> np.ndarray:
    shapes = {np.shape(value) for value in column}
    if len(shapes) > 1:
        msg = f"data: {name} comes in {len(shapes)} shapes, such as {min(shapes)}; expected one"
        raise ValueError(msg)
    stacked = np.stack(column)
    if not (np.issubdtype(stacked.dtype, np.number) or stacked.dtype == np.bool_):
        msg = f"data: {name} holds {stacked.dtype}; expected numbers"
        raise ValueError(msg)
    return stacked


@contextlib.contextmanager
def _without_opencv_advice() -> Iterator[None]:
    """TFDS advises to install OpenCV; Pillow reads the same pixels."""

    def keep(record: logging.LogRecord) -> bool:
        return "OpenCV" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _load_npz(path: Path) -> Data:
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"data: {str(path)!r} cannot be read as a NumPy archive: {first_line(error)}"
        raise ValueError(msg) from error
    held_out = {"x_validation", "y_validation"}
    wanted = {"x_train", "y_train"} | (held_out if held_out & arrays.keys() else set())
    missing = wanted - arrays.keys()
    if missing:
        msg = f"data: {str(path)!r} lacks {sorted(missing)}; it holds {sorted(arrays)}"
        raise ValueError(msg)
    validation = None
    if held_out <= arrays.keys():
        validation = _scaled(arrays["x_validation"]), arrays["y_validation"]
    return Data((_scaled(arrays["x_train"]), arrays["y_train"]), validation, name=path.stem)


def _scaled(inputs: np.ndarray) -> np.ndarray:
    return inputs.astype(np.float32) / 255 if inputs.dtype == np.uint8 else inputs


def _check(name: str, split: Split) -> None:
    inputs, labels = split
    leaves = jax.tree.leaves(inputs)
    if not leaves or any(getattr(leaf, "ndim", 0) < 1 for leaf in (*leaves, labels)):
        msg = f"{name}: expected (inputs, labels), arrays with the samples on the leading axis"
        raise ValueError(msg)
    lengths = {len(leaf) for leaf in (*leaves, labels)}
    if len(lengths) != 1:
        msg = f"{name}: inputs and labels have lengths {sorted(lengths)}; expected equal ones"
        raise ValueError(msg)
    if len(labels) < 2:
        msg = f"{name}: got {len(labels)} samples; expected at least 2"
        raise ValueError(msg)
    for leaf in leaves:
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            bad = np.flatnonzero(~np.isfinite(np.reshape(leaf, (len(leaf), -1))).all(1))
            msg = (
                f"{name}: NaN or infinite inputs in {len(bad)} samples, the first is number "
                f"{bad[0]}; remove or repair them"
            )
            raise ValueError(msg)


def _check_alike(train: Inputs, validation: Inputs) -> None:
    expected, got = (
        [(jax.tree_util.keystr(path), leaf.shape[1:]) for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (train, validation))
    )
    if expected != got:
        msg = f"validation: got samples of shape {_shapes(got)}; expected {_shapes(expected)}"
        raise ValueError(msg)


def _shapes(leaves: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{path} {shape}".strip() for path, shape in leaves)
