"""Server-sent events: which model's page has changed (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

TICK = 0.5
"""Seconds between looks; what is looked at is read less often than that."""


class Live:
    """Tells listeners what changes, each of them from the state it finds on.

    Args:
        digests: of what is shown, by model, as it is now.
        ending: whether the server is about to stop.
        most: so many may listen at once.
        heartbeat: seconds of silence after which a sign of life is sent, by which proxies and both ends notice
            that the connection is gone.
    """

    def __init__(
        self,
        digests: Callable[[], Awaitable[Mapping[str, str]]],
        ending: Callable[[], bool],
        most: int = 100,
        heartbeat: float = 15.0,
    ) -> None:
        self.digests, self.ending, self.most, self.heartbeat = digests, ending, most, heartbeat
        self.listeners = 0

    async def answer(self, request: Request) -> Response:
        """Listen; refused if too many do."""
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if self.listeners >= self.most:
            return PlainTextResponse(f"{self.most} listen already\n", 503, {"Retry-After": "30"})
        self.listeners += 1
        return _Stream(self._changes(), self._left)

    def _left(self) -> None:
        self.listeners -= 1

    async def _changes(self) -> AsyncIterator[str]:
        known: Mapping[str, str] = {}
        silent = 0.0
        yield "retry: 3000\n\n"
        while (now := await self._known()) is not None:
            for model in sorted({*now, *known}):
                if now.get(model) != known.get(model):
                    silent = 0.0
                    yield f"event: model\ndata: {json.dumps({'model': model, 'digest': now.get(model, '')})}\n\n"
            known = now
            if silent >= self.heartbeat:
                silent = 0.0
                yield ": alive\n\n"
            await asyncio.sleep(TICK)
            silent += TICK

    async def _known(self) -> Mapping[str, str] | None:
        """The digests, however long they take; None as soon as the server is to end, which waits for no slow read."""
        asked = asyncio.ensure_future(self.digests())
        try:
            while not self.ending():
                done, _ = await asyncio.wait({asked}, timeout=TICK)
                if done:
                    return asked.result()
            return None
        finally:
            asked.cancel()


class _Stream(StreamingResponse):
    """A stream that says when it is over, however it ended, and also if it never began."""

    def __init__(self, content: AsyncIterator[str], over: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.over()
