"""Show the timelines of an environment's models: python -m components.watch --host 127.0.0.1 --port 8088.

The environment is read as everywhere: EVERGROW_HOME, EVERGROW_STORE, MLFLOW_TRACKING_URI. If EVERGROW_WATCH_TOKEN is
set, whoever reads has to give it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence

import uvicorn

from components.watch.access import LOCAL, TOKEN
from components.watch.app import Pages, application
from evergrow import logs
from evergrow.environment import Environment
from evergrow.errors import ServingError
from evergrow.integrations.seen import Reader
from evergrow.journal import exit_code_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A registry that does not answer is told of on the page, instead of being asked again for minutes.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m components.watch", description=__doc__)
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    p.add_argument("--port", type=int, default=8088, help="0: any that is free (default: 8088)")
    p.add_argument("--model", default="", help="show the address of this model's page")
    p.add_argument("--open", action="store_true", help="open it in a browser")
    return p


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ServingError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServingError(
            f"--port: {host}:{port} cannot be listened on: {error.strerror}", hint="--port 0 takes one that is free"
        ) from error


def warning(host: str, token: str) -> str:
    """What to know before others can reach it; empty if they cannot."""
    if host in LOOPBACK:
        return ""
    if token:
        return f"warning: --host {host}: the token and all that is shown travel unencrypted"
    return f"warning: --host {host}: whoever reaches this address can read all of it; {TOKEN} sets a token"


def serve(options: argparse.Namespace) -> None:
    """Serve until told to stop."""
    logs.configure()
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    token, reader = os.environ.get(TOKEN, ""), Reader(Environment.read())
    pages = Pages(reader.read, reader.page, ending=lambda: server.should_exit)
    app = application(pages, token, LOCAL if options.host in LOOPBACK else ())
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3, lifespan="off"
    )
    server = uvicorn.Server(config)
    with listening(options.host, options.port) as listener:
        _tell(options, listener.getsockname()[1], warning(options.host, token))
        # MLflow takes seconds to import: it is, before somebody asks.
        threading.Thread(target=pages.snapshot.get, daemon=True).start()
        server.run(sockets=[listener])


def _tell(options: argparse.Namespace, port: int, warned: str) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{port}/" + (f"models/{options.model}" if options.model else "")
    print(f"watch at {url} (Ctrl-C ends it)", flush=True)
    if warned:
        print(warned, file=sys.stderr, flush=True)
    if options.open:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit code is 0, or that of the error."""
    options = parser().parse_args(arguments)
    # uvicorn stops gracefully on both, and then raises them again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        return exit_code_of(lambda: serve(options))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
