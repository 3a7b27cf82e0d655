"""What only some want installed."""

from __future__ import annotations

import importlib.util


def require(extra: str, *modules: str) -> None:
    """Whether what an extra brings is there.

    Raises:
        ImportError: it is not.
    """
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        msg = f"{extra}: {' and '.join(missing)} missing; pip install 'ntkpredict[{extra}]'"
        raise ImportError(msg)
