"""Which libraries made a result."""

from __future__ import annotations

import importlib.metadata


def versions() -> dict[str, str]:
    """Of this package and of those that the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("ntkpredict", "jax", "optax")}
