"""What the indicator costs, without the run-time type checks of the tests.

The clock of the loop is this script's: 10 ms a step and the time that the indicator takes. There
is an evaluation every 20 steps, and the panel is renewed as often as it wants. Prints JSON: the
share of the time by console, and the frameworks that were imported.
"""

import io
import json
import sys
import time

import numpy as np
from rich.console import Console

import ntkpredict as ntp

STEPS, STEP_SECONDS = 4000, 0.01


def share(*, terminal):
    waited = [0.0]

    def clock():
        return time.perf_counter() + waited[0]

    values = 0.5 + 1.8 * np.exp(-np.arange(1, STEPS) / 12)
    values *= 1 + 0.03 * np.random.default_rng(0).normal(size=len(values))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    progress = ntp.track(STEPS, "val_loss_patience>=999@20", console=console, clock=clock)
    spent = 0.0
    for step in range(1, STEPS + 1):
        waited[0] += STEP_SECONDS
        start = time.perf_counter()
        progress.advance()
        if step % 20 == 0:
            progress.report(validation_loss=values[step // 20])
        spent += time.perf_counter() - start
    progress.close()
    return spent / (STEPS * STEP_SECONDS)


if __name__ == "__main__":
    shares = {str(terminal): share(terminal=terminal) for terminal in (True, False)}
    frameworks = [n for n in ("keras", "torch", "transformers", "lightning") if n in sys.modules]
    print(json.dumps({"shares": shares, "frameworks": frameworks}))
