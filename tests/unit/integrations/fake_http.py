"""A small HTTP server for stand-ins of outside systems: it answers in JSON or text, and lists what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class FakeServer:
    """Base of a stand-in: `answer` is its API. Used as a context manager it listens on a free port.

    Attributes:
        asked: methods and paths of all requests.
        certificate: a file with a certificate and its key, for TLS.
    """

    def __init__(self) -> None:
        self.certificate: Path | None = None
        self.asked: list[tuple[str, str]] = []
        self._server: ThreadingHTTPServer | None = None

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Any:
        """JSON, or text; raises Refusal."""
        raise NotImplementedError

    def cut(self, content: bytes) -> bytes:
        """What of an answer gets through."""
        return content

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Any:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer no more: connections are refused."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            fake.asked.append((self.command, parts.path))
            try:
                body = json.loads(raw) if raw else None
                told = fake.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body, dict(self.headers))
                self._send(200, told)
            except Refusal as refusal:
                self._send(refusal.status, refusal.body)

        do_GET = do_POST = do_DELETE = do_PATCH = handle_request  # noqa: N815 - http.server's names

        def _send(self, status: int, told: Any) -> None:
            text = told if isinstance(told, str) else json.dumps(told)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(told, str) else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(fake.cut(text.encode()))

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
