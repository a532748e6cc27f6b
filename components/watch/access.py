"""Who may read, and what browsers may do with what they read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "EVERGROW_WATCH_TOKEN"  # noqa: S105 - the name of a variable
OPEN = ("/healthz",)
"""What kubelets ask, who have no token."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
STORED = f"{NOTHING}; style-src 'unsafe-inline'; img-src data:; sandbox"
"""Of stored reports, which draw with style attributes; nothing in them runs or is loaded."""


def policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """The content security policy of a page of ours: just these inline styles and scripts, and requests to here.

    >>> policy([], []).partition("img-src")[2]
    " data:; connect-src 'self'; style-src 'none'; script-src 'none'"
    """
    allowed = {"style-src": [*map(_hash, styles)], "script-src": [*map(_hash, scripts)]}
    listed = "; ".join(f"{kind} {' '.join(hashes) or chr(39) + 'none' + chr(39)}" for kind, hashes in allowed.items())
    return f"{NOTHING}; img-src data:; connect-src 'self'; {listed}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Access:
    """Lets in who may read, and puts security headers on every answer.

    Args:
        app: what answers who is let in.
        token: what they must show, as a bearer token or as the password of any user; empty: nothing.
        hosts: names by which this server may be asked; empty: any. A page of another site that makes its own name
            point here (DNS rebinding) is refused by that.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Iterable[str] = ()) -> None:
        self.app, self.token, self.hosts = app, token, tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Content-Security-Policy": NOTHING}.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope["path"], Headers(scope=scope))
        await (refused or self.app)(scope, receive, sending)

    def _refused(self, path: str, headers: Mapping[str, str]) -> Response | None:
        if self.hosts and _name(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse("this host is not served here\n", 400)
        if not self.token or path in OPEN or is_shown(self.token, headers.get("authorization", "")):
            return None
        asked = {"WWW-Authenticate": 'Basic realm="evergrow watch", charset="UTF-8"'}
        return PlainTextResponse("give the token: as the password of any user, or as a bearer token\n", 401, asked)


def is_shown(token: str, authorization: str) -> bool:
    """Whether a header shows the token, in a time that tells nothing about it.

    >>> is_shown("s3", "Bearer s3"), is_shown("s3", "Basic " + base64.b64encode(b"me:s3").decode()), is_shown("s3", "")
    (True, True, False)
    """
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.rindex("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
