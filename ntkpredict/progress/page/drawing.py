"""The curve so far and its fan, as paths of an SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ntkpredict.progress.watching import Fan

SIDE = 1000
"""Of the square that is drawn in, whatever its width and height on the screen."""

_TICKS = 5


def drawing(fan: Fan, stop: float) -> dict[str, Any]:
    """Paths and ticks; the band is cut off where it is wider than the curve and its trend.

    Args:
        fan: the curve.
        stop: the step at which training is expected to stop.

    Returns:
        The metric's name, the paths ``values``, ``middle`` and ``band``, ``stop`` as x, ticks as
        (per cent of the width or height, text), and the whole in words.
    """
    everything = np.concatenate([fan.values, fan.middle])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.08 * (high - low) or 1.0
    low, high, end = low - margin, high + margin, float(fan.ahead[-1])

    def points(steps: Float[np.ndarray, " p"], values: Float[np.ndarray, " p"]) -> list[str]:
        x = steps / end * SIDE
        y = np.clip((high - values) / (high - low), 0, 1) * SIDE
        return [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]

    upper, lower = points(fan.ahead, fan.high), points(fan.ahead, fan.low)
    return {
        "metric": fan.metric,
        "values": "".join(f"M{point}h0" for point in points(fan.steps, fan.values)),
        "middle": "M" + "L".join(points(fan.ahead, fan.middle)),
        "band": "M" + "L".join(upper + lower[::-1]) + "Z",
        "stop": min(stop / end, 1.0) * SIDE,
        "x": [(100 * tick / end, f"{tick:,.0f}") for tick in ticks(0.0, end)],
        "y": [(100 * (high - t) / (high - low), f"{t:g}") for t in ticks(low, high)],
        "words": (
            f"{fan.metric} is {fan.values[-1]:.3g} at step {fan.steps[-1]:,.0f} and is "
            f"expected to be {fan.middle[-1]:.3g} at step {end:,.0f}"
        ),
    }


def ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, three to six.

    >>> ticks(0.0, 1170.0), ticks(0.31, 0.44)
    ([0.0, 500.0, 1000.0], [0.35, 0.4])
    """
    rough = (high - low) / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
