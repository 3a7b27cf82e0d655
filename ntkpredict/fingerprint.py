"""By which a run is known again."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from linearize import Network
from ntkpredict.data import Data
from ntkpredict.plan import Plan


def fingerprint(network: Network, data: Data, plan: Plan) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it, as JSON holds it."""
    return {
        "network": network.name,
        "parameters": network.parameter_count,
        "weights": digest((network.params, network.frozen)),
        "data": data.name,
        "samples": data.samples,
        "contents": digest((data.train, data.validation)),
        "plan": plan.description,
        "max_steps": plan.max_steps,
        "loss": str(plan.loss),
        "seed": plan.seed,
    }


def digest(tree: Any) -> str:
    """SHA-256 of the arrays of a tree and their places."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
