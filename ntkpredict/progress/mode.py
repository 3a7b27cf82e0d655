"""The most frequent outcome of a sample."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def half_sample_mode(sample: Float[np.ndarray, " outcomes"]) -> float:
    """The half-sample mode: halve the sample to its densest half until two or three are left.

    It needs no bandwidth and no random numbers.

    Source: Bickel and Frühwirth 2006, doi:10.1016/j.csda.2005.07.011.

    >>> half_sample_mode(np.array([1.0, 5.0, 5.125, 5.5, 9.0, 30.0]))
    5.0625

    Raises:
        ValueError: an empty sample.
    """
    if len(sample) == 0:
        msg = "sample: got no outcomes; expected at least one"
        raise ValueError(msg)
    rest = np.sort(sample)
    while len(rest) > 3:
        half = (len(rest) + 1) // 2
        widths = rest[half - 1 :] - rest[: len(rest) - half + 1]
        narrowest = np.flatnonzero(widths == widths.min())
        start = int(narrowest[(len(narrowest) - 1) // 2])  # of equals the middle one
        rest = rest[start : start + half]
    if len(rest) == 3:
        left, right = np.diff(rest)
        rest = rest[:2] if left < right else rest[1:] if right < left else rest[1:2]
    return float(rest.mean())
