"""What the server answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

_POLL_SECONDS = 0.2


def application(
    message: Callable[[], tuple[str, bool]], cancel: Callable[[], None], token: str
) -> Starlette:
    """The page, its events and its Cancel.

    Args:
        message: what a browser is to show, and whether it is the last.
        cancel: asks to cancel the run.
        token: without which nobody can.
    """

    async def events(_: Request) -> Response:
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(_stream(message), media_type="text/event-stream", headers=headers)

    async def post_cancel(request: Request) -> Response:
        given = request.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return PlainTextResponse("the token is missing or wrong", 403)
        cancel()
        return PlainTextResponse("", 202)

    return Starlette(
        routes=[
            Route("/events", events),
            Route("/cancel", post_cancel, methods=["POST"]),
            Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True)),
        ],
        # names of other hosts that resolve to loopback are refused
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


async def _stream(message: Callable[[], tuple[str, bool]]) -> AsyncIterator[str]:
    """Server-sent events: each message that differs from the one before."""
    sent, last = "", False
    while not last:
        text, last = message()
        if text != sent:
            yield f"data: {text}\n\n"
            sent = text
        await asyncio.sleep(0 if last else _POLL_SECONDS)
