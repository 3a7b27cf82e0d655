"""One of two processes that train together: ``python several.py ADDRESS INDEX``."""

import sys

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

import ntkpredict as ntp


def agree(flag):
    return bool(process_allgather(np.array(flag)).any())


def last_step(index, **options):
    """At which the loop of this process ends; the second one's page is asked to cancel at 7."""
    progress = ntp.track(20, quiet=True, **options)
    for step in progress:
        if (index, step) == (1, 7):
            progress.cancel.ask()
    return step


if __name__ == "__main__":
    address, index = sys.argv[1], int(sys.argv[2])
    jax.distributed.initialize(address, 2, index)
    print(last_step(index), last_step(index, agree=agree))
