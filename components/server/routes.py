"""The HTTP routes of predictions, answered before KServe's application sees them.

KServe's own routes cost several times what a prediction costs (routing, two log lines, pydantic models, an executor)
and answer some bad requests with 500, or echo request headers. Health, metadata, metrics and gRPC stay KServe's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from components.server import metrics
from components.server.model import PredictionModel
from components.server.recording import TRACEPARENT, asked_by
from components.server.refusal import Refusal
from components.server.unanswered import log_fault, log_refusal
from evergrow.headers import DRAWN, PROPENSITY, REQUEST_ID, ROUTE
from evergrow.prediction_log.records import Asked

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Answer = Callable[[Any, Asked], Awaitable[dict[str, Any]]]
"""From a parsed body, and what else is known of the request, to what is sent back."""

# A body may be this large, or larger where the model takes many rows at once.
MIN_BODY_LIMIT = 1 << 20
BYTES_PER_ROW = 1024
# What is too large is still read this far, so that the caller reads the answer rather than a reset connection.
DISCARD_FACTOR = 64
# For a body that comes in pieces, in all.
BODY_SECONDS = 5.0

_PREDICTION = re.compile(r"/v1/models/([^/]+):(?:predict|explain)|/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
_SAYING = frozenset(name.encode() for name in (REQUEST_ID, ROUTE, PROPENSITY, DRAWN, TRACEPARENT))
_LONGEST = 128
"""Of a header that says more of a request."""


class _GoneError(Exception):
    """The caller hung up."""


class Routes:
    """An ASGI application around KServe's."""

    def __init__(self, app: App, model: PredictionModel) -> None:
        self._app = app
        self._model = model
        self.body_limit = max(MIN_BODY_LIMIT, BYTES_PER_ROW * model.schema.max_batch)
        v1, v2 = f"/v1/models/{model.name}", f"/v2/models/{model.name}"
        self._handlers: dict[str, tuple[str, Answer]] = {
            f"{v1}:predict": ("v1", model.answer_v1),
            f"{v1}:explain": ("explain", model.answer_explain),
            f"{v2}/infer": ("v2", model.answer_v2),
            f"{v2}/versions/{model.version}/infer": ("v2", model.answer_v2),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a prediction; hand everything else to KServe."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        handler = self._handlers.get(scope["path"])
        if handler is not None and scope["method"] == "POST":
            await self._answer(*handler, scope, receive, send)
        else:
            await self._elsewhere(scope, receive, send)

    async def _answer(self, protocol: str, answer: Answer, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer a prediction; the status, or 0 for a caller who hung up."""
        started, body, asked = time.perf_counter(), None, None
        try:
            body, said = await self._request(scope["headers"], receive)
            asked = asked_by(protocol, said, self._model.version)
            status, content = 200, orjson.dumps(await answer(body, asked))
            metrics.TOTAL_SECONDS.observe(time.perf_counter() - started)
        except _GoneError:
            return 0
        except Exception as error:
            status, content = _unanswered(error, protocol, _request_id(asked, body, scope["headers"]))
        metrics.count_request(protocol, status)
        await self._send(send, status, content)
        return status

    async def _send(self, send: Send, status: int, content: bytes) -> None:
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        if self._model.draining or status == 413:
            headers.append(_CLOSE)
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    # -- the request --

    async def _request(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> tuple[Any, dict[str, str]]:
        """The parsed body, and the headers that say more of the request."""
        length, kind, said = -1, b"application/json", dict[str, str]()
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-length" and value.isdigit():
                length = int(value)
            elif name in _SAYING and len(value) <= _LONGEST:
                said[name.decode()] = value.decode("latin-1")
            elif name == b"content-encoding" and value != b"identity":
                raise Refusal(415, f"content-encoding: must be absent, found {value.decode('latin-1')!r}", "type")
        body = await self._body(length, receive)
        if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
            found = kind[:80].decode("latin-1")
            raise Refusal(415, f"content-type: must be application/json, found {found!r}; send JSON", "type")
        return _parse(body), said

    async def _body(self, length: int, receive: Receive) -> bytes:
        if length > self.body_limit:
            await self._discard(receive)
            self._too_large(length)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        if not message.get("more_body"):
            body: bytes = message["body"]
            return body
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._rest(message["body"], receive)
        except TimeoutError as error:
            raise Refusal(408, f"body: must arrive within {BODY_SECONDS:g} s", "slow") from error

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        parts, size, more = [first], len(first), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.body_limit:
                await self._discard(receive, more)
                self._too_large(size)
        return b"".join(parts)

    async def _discard(self, receive: Receive, more: bool = True) -> None:
        left = DISCARD_FACTOR * self.body_limit
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            pass

    def _too_large(self, size: int) -> None:
        message = f"body: must be at most {self.body_limit:,} bytes, found {size:,} or more"
        raise Refusal(413, f"{message}; send fewer rows per request", "too-large")

    # -- all other requests --

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._no_such(scope["path"], scope["method"])
        if refusal is not None:
            await self._discard(receive)
            await self._send(send, refusal.status, _error(refusal.message))
        else:
            await self._app(scope, receive, self._closing(send) if self._model.draining else send)

    def _no_such(self, path: str, method: str) -> Refusal | None:
        """Why KServe is not asked: another model's prediction, or what a caller must not do."""
        if path.startswith("/v2/repository/"):
            return Refusal(403, "models are loaded and unloaded by deploying them, not through the server")
        match = _PREDICTION.fullmatch(path)
        if not match:
            return None
        name, version = match[1] or match[2], match[3]
        if name != self._model.name:
            return Refusal(404, f"model {name[:80]!r} is not served here; this server answers for {self._model.name!r}")
        if version is not None and version != self._model.version:
            return Refusal(404, f"version {version[:80]!r} is not served here; it is {self._model.version!r}")
        return Refusal(405, f"method must be POST, found {method}")

    def _closing(self, send: Send) -> Send:
        """Ask the caller to connect again, elsewhere."""

        async def closing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), _CLOSE]
            await send(message)

        return closing


def _parse(body: bytes) -> Any:
    if not body:
        raise Refusal(400, "body: must be JSON, found nothing", "json")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "" if b"NaN" not in body and b"Infinity" not in body else "; JSON has no NaN or Infinity, send null"
        raise Refusal(400, f"body: must be JSON: {error}{hint}", "json") from error


def _unanswered(error: Exception, protocol: str, request_id: str) -> tuple[int, bytes]:
    """Status and content for a request without an answer; the caller is told the whole fault, the log less."""
    if isinstance(error, Refusal):
        log_refusal(protocol, error, request_id)
        return error.status, _error(error.message, request_id)
    log_fault(protocol, error, request_id)
    return 500, _error(f"{type(error).__name__}: a fault of the server's, logged there", request_id)


def _request_id(asked: Asked | None, body: Any, headers: list[tuple[bytes, bytes]]) -> str:
    """The name of a request that was not answered: of a V2 body, of its headers, or ours."""
    named = body.get("id") if body.__class__ is dict else None
    if isinstance(named, str) and named:
        return named[:_LONGEST]
    if asked is None:
        said = {name.decode(): value.decode("latin-1") for name, value in headers if name in _SAYING}
        asked = asked_by("", {name: value for name, value in said.items() if len(value) <= _LONGEST}, "")
    return asked.request_id


def _error(message: str, request_id: str = "") -> bytes:
    return orjson.dumps({"error": message, "id": request_id} if request_id else {"error": message})
