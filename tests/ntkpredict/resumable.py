"""A training run that a test can kill: ``python resumable.py FOLDER STEPS EVERY``."""

import sys

import jax.numpy as jnp
import numpy as np

import ntkpredict as ntp


def run(folder, steps, every, progress=None):
    """Train a small network, with checkpoints where a folder is given."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 50).astype(np.int32)
    points = (random.normal(size=(50, 4)) + labels[:, None]).astype(np.float32)
    params = {
        "body": random.normal(size=(4, 6)).astype(np.float32),
        "head": random.normal(size=(6, 3)).astype(np.float32),
    }
    network = ntp.Network.from_function(
        lambda params, x: jnp.tanh(x @ params["body"]) @ params["head"], params
    )
    data = ntp.Data((points, labels), (points[::2], labels[::2]))
    plan = ntp.Plan.adamw(0.01, schedule="cosine", batch_size=8, max_steps=steps)
    return ntp.train(
        network, data, plan, checkpoints=folder, checkpoint_every=every, progress=progress
    )


if __name__ == "__main__":
    run(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        lambda done, _: print(done, flush=True),
    )
