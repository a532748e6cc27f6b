"""Serve one version of one model: python -m components.server --model-dir .evergrow/serving/<model>/current."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from evergrow.contracts import instant
from evergrow.journal import exit_code_of
from evergrow.prediction_log.records import HASH_KEY


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m components.server", description=__doc__)
    p.add_argument("--model-dir", type=Path, default=Path("/mnt/models"), help="bundle/, features.json, serving.json")
    p.add_argument("--host", default="0.0.0.0", help="address of the HTTP port (default: all)")  # noqa: S104
    p.add_argument("--http-port", type=int, default=8080)
    p.add_argument("--grpc-port", type=int, default=8081, help="0 for no gRPC (default: 8081)")
    p.add_argument("--workers", type=int, choices=[1], default=1, help="one process; scale by replicas")
    p.add_argument("--now", type=_instant, help="take this instant for the present (it goes on ticking)")
    p.add_argument("--drain-seconds", type=float, default=5.0, help="go on answering this long after SIGTERM")
    p.add_argument("--log-dir", type=Path, help="record answered predictions here, to be shipped (default: nowhere)")
    return p


def _instant(text: str) -> datetime:
    try:
        return instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be ISO 8601 such as 2013-10-01T00:00Z, found {text!r}") from error


def without_kserves_client() -> None:
    """Let KServe's server be imported without its client.

    KServe's package imports its Kubernetes client and a hundred API models on the way to its server, which uses none
    of them: a second of CPU at each start. A package whose own `__init__` has not run gives access to its modules
    all the same; that is all this is.
    """
    spec = importlib.util.find_spec("kserve")
    if "kserve" not in sys.modules and spec is not None:
        sys.modules["kserve"] = importlib.util.module_from_spec(spec)


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit code is 0, or that of the error."""
    options = parser().parse_args(arguments)
    # Threads that wait for each other cost more than they win on rows as few as a request has.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    without_kserves_client()
    # KServe reads the command line when it is imported; ours is not meant for it.
    sys.argv = sys.argv[:1]
    from components.server.process import Options, serve

    chosen = Options(
        model_dir=options.model_dir,
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        now=options.now,
        drain_seconds=options.drain_seconds,
        store_url=os.environ.get("EVERGROW_ONLINE_STORE"),
        log_dir=options.log_dir,
        hash_key=os.environ.get(HASH_KEY, "").encode() or None,
    )
    return exit_code_of(lambda: serve(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
