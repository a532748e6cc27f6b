"""Run one of Feast's servers over the environment's stores: python -m components.feast serve, or ui.

`serve` answers with online features over HTTP, for clients that do not go through our model server; `ui` shows what
is registered, and changes nothing. What is registered is what the pipelines apply.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evergrow.environment import Environment
from evergrow.errors import exit_code_of

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: scope, receive, send."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m components.feast", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = p.add_subparsers(dest="server", required=True, metavar="serve | ui")
    serve = servers.add_parser(
        "serve", help="the feature server", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    serve.add_argument("--workers", type=_positive, default=1, help="processes that answer")
    ui = servers.add_parser("ui", help="the user interface", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ui.add_argument("--root-path", default="", help="path that a proxy has it under")
    for server, port in ((serve, 6566), (ui, 8888)):
        server.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a container's
        server.add_argument("--port", type=_positive, default=port, help="port to listen on")
    return p


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, found {text!r}")
    return number


def run(options: argparse.Namespace) -> None:
    """Serve until told to stop.

    Raises:
        FeatureStoreError: the stores' configuration is wrong, or the registry cannot be reached.
    """
    from evergrow.integrations.feast import FeastStore

    store = FeastStore(Environment.read()).feast
    if options.server == "ui":
        serve_pages(store, options)
    else:
        # Feast ends a worker after so many requests, and refuses those that come meanwhile; 0 is never.
        store.serve(host=options.host, port=options.port, workers=options.workers, max_requests=0)


def serve_pages(store: Any, options: argparse.Namespace) -> None:
    """Serve the user interface, read-only: its buttons delete and edit features, and it asks nobody who they are."""
    import uvicorn
    from feast.ui_server import get_app

    pages = read_only(get_app(store, store.config.project, options.root_path))
    uvicorn.run(pages, host=options.host, port=options.port, access_log=False)


def read_only(application: Application) -> Application:
    """Refuse every request that could change something: 405."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = [(b"allow", b"GET, HEAD"), (b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 405, "headers": headers})
            return await send({"type": "http.response.body", "body": b"read-only: the pipelines apply features\n"})
        return await application(scope, receive, send)

    return guarded


def main(arguments: Sequence[str]) -> int:
    """The exit code is 0, or that of the error."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
