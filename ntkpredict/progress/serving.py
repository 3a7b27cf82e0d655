"""Whether a run has a page, and where."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

from ntkpredict.optional import require
from ntkpredict.progress.cancel import Cancel

Serve: TypeAlias = bool | int
"""No page, one at any free port, or one at this port."""


def check_serve(serve: Serve) -> None:
    """Whether what was asked for can be had.

    Raises:
        ValueError: no port.
        ImportError: the extra is not installed.
    """
    if serve is False:
        return
    if not 0 <= serve <= 65_535:
        msg = f"serve: got {serve}; expected True, False or a port, 0 to 65535"
        raise ValueError(msg)
    require("serve", "starlette", "uvicorn")


def open_page(serve: Serve, title: str, cancel: Cancel) -> Any:
    """A `Page` as it was asked for; None, with a warning, where its port cannot be had.

    Raises:
        ValueError: no port.
        ImportError: the extra is not installed.
    """
    check_serve(serve)
    if serve is False:
        return None
    from ntkpredict.progress.page import Page

    try:
        return Page(title, cancel, 0 if serve is True else serve)
    except OSError as error:
        msg = f"there is no page of the progress, training goes on: port {serve}: {error}"
        warnings.warn(msg, RuntimeWarning, stacklevel=3)
        return None
