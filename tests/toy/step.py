"""Steps that do what they are told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from evergrow.errors import DataError
from evergrow.journal import note, step


@step
def work(how: str, out: str) -> str:
    note("work", f"asked to {how}")
    if how == "refuse":
        raise DataError("rows: must be at least 1, found 0 in 'O'Hare'", hint="look at the source")
    if how == "break":
        raise ZeroDivisionError("division by zero")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(out).write_text(f"{how}, home {os.environ['EVERGROW_HOME']}")
    return "pass" if how == "succeed" else "fail"


@step
def shard(number: int) -> int:
    return number * number
