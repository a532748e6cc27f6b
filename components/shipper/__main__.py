"""Ship recorded predictions from a server's disk to the store: python -m components.shipper --log-dir DIR.

Runs beside the server, in a process of its own: neither a store that is away nor the making of Parquet costs a request
anything. Told to stop, it waits for the server's end and ships what that leaves.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evergrow import logs
from evergrow.environment import Environment
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.journal import exit_code_of
from evergrow.prediction_log.shipping import Shipper


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m components.shipper", description=__doc__)
    p.add_argument("--log-dir", type=Path, required=True, help="where the server records (its --log-dir)")
    p.add_argument("--beat", type=Path, help="touch this file each round, for a liveness probe")
    p.add_argument("--until-parent-ends", action="store_true", help="stop with the process that started this one, too")
    return p


def until_told(with_parent: bool) -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT came, or the parent is gone."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: told.append(got))
    parent = os.getppid()
    return lambda: bool(told) or (with_parent and os.getppid() != parent)


def run(options: argparse.Namespace) -> None:
    """Ship until told to stop.

    Raises:
        StoreError: the environment names no store.
    """
    logs.configure()
    environment = Environment.read()
    store = PredictionStore.of(environment)
    beat = options.beat.touch if options.beat else lambda: None
    Shipper(options.log_dir, store.put, store.expire).run(until_told(options.until_parent_ends), beat)


def main(arguments: Sequence[str]) -> int:
    """Ship until told to stop; the exit code is 0, or that of the error."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
