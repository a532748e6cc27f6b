"""Carry out rollouts on a cluster: python -m components.operator --port 8089.

The environment is read as everywhere, and must be one of a cluster. Of several operators one works; when it can no
longer be sure of that it ends, and is started again by whoever started it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m components.operator", description=__doc__)
    p.add_argument("--port", type=int, default=8089, help="of /healthz and /metrics; 0: any that is free")
    p.add_argument("--threads", type=int, default=8, help="models that are looked at side by side (default: 8)")
    p.add_argument("--resync", type=float, default=300.0, help="seconds in which each model is looked at, news or not")
    return p


def main(arguments: Sequence[str]) -> int:
    """Work until told to stop; the exit code is 0, or that of the error."""
    options = parser().parse_args(arguments)
    # The first process of a container has no handlers of its own; kopf takes its place once it watches.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Not before: the worker process reads this module too, and needs none of it.
    from components.operator.run import run
    from evergrow.journal import exit_code_of

    try:
        return exit_code_of(lambda: run(options))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
