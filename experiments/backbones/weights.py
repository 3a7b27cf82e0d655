"""The arrays of pretrained networks in the data folder, as variables of Flax modules.

The data folder is `NTKPREDICT_DATA`, or `../shared/data` beside the repository.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

Variables = dict[str, Any]

_LEAF = re.compile(
    r"(?P<layer>.+)[._/](?P<leaf>weight|kernel|bias|gamma|beta|(running|moving)_(mean|var\w*))"
)
_LEAVES = {"gamma": "scale", "beta": "bias", "bias": "bias", "kernel": "kernel"}


@dataclass(frozen=True)
class Weights:
    """A file of arrays, named as their source names them.

    Attributes:
        file: in the folder of weights.
        prefix: of all names in it.
        head: name of its dense layer, or None where it has none.
        dropped: names of layers that belong to neither body nor head.
    """

    file: str
    prefix: str = ""
    head: str | None = None
    dropped: tuple[str, ...] = ()

    def load(self, folder: Path) -> tuple[Variables, dict[str, Array] | None]:
        """Variables of the body, and the own head, if any.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a name in it is not that of a parameter.
        """
        flat, head = {}, {}
        for path, array in read(folder / self.file).items():
            match = _LEAF.fullmatch(path)
            if match is None:
                msg = f"{self.file}: {path!r} is not the name of a parameter"
                raise ValueError(msg)
            layer, leaf = match["layer"].removeprefix(self.prefix), match["leaf"]
            if layer in self.dropped:
                continue
            collection, leaf, value = _leaf(leaf, array)
            if layer == self.head:  # a 1×1 convolution of pooled features is a dense layer
                head[leaf] = value[0, 0] if value.ndim == 4 else value
            else:
                flat[collection, plain(layer), leaf] = value
        return traverse_util.unflatten_dict(flat), head or None

    def require_same(self, layers: Variables, expected: Variables) -> None:
        """That names and shapes are those of the module.

        Raises:
            ValueError: they are not.
        """
        got, wanted = (
            {(path, leaf.shape) for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
            for tree in (layers, expected)
        )
        if got != wanted:
            missing, left = sorted(wanted - got)[:3], sorted(got - wanted)[:3]
            msg = f"{self.file}: does not fit the network; missing {missing}, left over {left}"
            raise ValueError(msg)


def data_folder() -> Path:
    """Where the data lies: `NTKPREDICT_DATA`, or `../shared/data` beside the repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("NTKPREDICT_DATA") or default)


def existing(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    if not path.is_file():
        msg = f"{path} is not there; set NTKPREDICT_DATA to the folder that holds weights/"
        raise FileNotFoundError(msg)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name."""
    with np.load(existing(path), allow_pickle=False) as file:
        return dict(file)


def plain(layer: str) -> str:
    """A layer's name as a module's."""
    return layer.replace(".", "_")


def _leaf(leaf: str, array: np.ndarray) -> tuple[str, str, Array]:
    """Collection, name and array in the layout of Flax; torch and MXNet have outputs first."""
    value = jnp.asarray(array)
    if leaf.startswith(("running_", "moving_")):
        return "batch_stats", "mean" if leaf.endswith("mean") else "var", value
    if leaf != "weight":
        return "params", _LEAVES[leaf], value
    if value.ndim == 1:
        return "params", "scale", value
    return "params", "kernel", value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
