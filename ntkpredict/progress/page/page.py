"""A page on loopback that shows a run, live, and can cancel it."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from typing import Any

import uvicorn

from ntkpredict.progress.cancel import Cancel
from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.page.app import application
from ntkpredict.progress.page.drawing import drawing
from ntkpredict.progress.watching import Fan
from ntkpredict.progress.words import rows

HOST = "127.0.0.1"
_LINGER_SECONDS = 2
"""For browsers to learn that training has ended."""


class Page:
    """A view with a server in a thread of its own, which reads what `show` last left.

    Args:
        title: of the run.
        cancel: what the page's Cancel button asks; it needs the token in the address.
        port: to listen at, on loopback only; any free one where 0.

    Attributes:
        url: with the token after #, which browsers keep to themselves.

    Raises:
        OSError: the port is taken or not allowed.
    """

    interval_seconds = 1.0

    def __init__(self, title: str, cancel: Cancel, port: int = 0) -> None:
        self._title = title
        self._cancel = cancel
        self._state: dict[str, Any] | None = None
        self._ended = False
        token = secrets.token_urlsafe(16)
        app = application(self.message, cancel.ask, token)
        listener = socket.create_server((HOST, port))
        self.url = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=_LINGER_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def show(self, estimate: Estimate, fan: Fan | None) -> None:
        """The state of things now.

        Raises:
            RuntimeError: the server has stopped.
        """
        if not self._thread.is_alive():
            msg = "its server has stopped"
            raise RuntimeError(msg)
        self._state = {
            "rows": rows(estimate),
            "done": estimate.done,
            "curve": None if fan is None or not len(fan.steps) else drawing(fan, estimate.steps),
        }

    def message(self) -> tuple[str, bool]:
        """What a browser is to show, as JSON, and whether it is the last."""
        ended = self._ended
        told = {
            "title": self._title,
            "status": self._cancel.status,
            "cancellable": self._cancel.possible,
            "ended": ended,
            "state": self._state,
        }
        return json.dumps(told), ended

    def close(self) -> None:
        """Tell browsers that training has ended, and stop listening."""
        if not self._cancel.done:
            self._cancel.status = "Training has ended"
        self._ended = True
        self._server.should_exit = True
        self._thread.join(2 * _LINGER_SECONDS)

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            self._server.run(sockets=[listener])
