"""How a benchmark measures: in a child process, by the CPU seconds and peak memory the kernel counted for it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


class Skipped(Exception):
    """A benchmark cannot be run here; says what it lacks. What was measured elsewhere is kept."""


@dataclass(frozen=True)
class Result:
    """One number.

    Attributes:
        name: what was measured, unique over all benchmarks.
        value: the number.
        unit: its unit; "×" for a ratio.
        reach: what it should reach, in words: "≤ 1.3".
        holds: whether it does.
        detail: the absolute numbers behind a ratio, and the conditions.
    """

    name: str
    value: float
    unit: str
    reach: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """What a child process used: CPU seconds (user + system, its own children too), peak resident MB, wall seconds."""

    cpu_seconds: float
    peak_mb: float
    wall_seconds: float
    stdout: str


# The kernel counts a child's memory from the fork on, so a child of a large process looks large. A small Python
# in between forks the command and reports what the kernel counted for it.
_LAUNCHER = """
import json, os, sys
report, argv = int(sys.argv[1]), sys.argv[2:]
pid = os.posix_spawnp(argv[0], argv, os.environ)
_, status, usage = os.wait4(pid, 0)
cpu = usage.ru_utime + usage.ru_stime
os.write(report, json.dumps([cpu, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)]).encode())
"""


def cpu_of(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end and tell what it used.

    Raises:
        RuntimeError: it failed; shows the end of its standard error.
    """
    started = time.perf_counter()
    reading, writing = os.pipe()
    launcher = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writing), *argv],
        env={**os.environ, **(env or {})},
        pass_fds=[writing],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(writing)
    with os.fdopen(reading) as report:
        text = report.read()
    if not text:
        raise RuntimeError(f"{argv[0]} could not be started:\n{launcher.stderr[-3000:]}")
    cpu, peak, code = json.loads(text)
    if code != 0:
        raise RuntimeError(f"{' '.join(argv)} exited with {code}:\n{launcher.stderr[-3000:]}")
    return Usage(cpu, peak, time.perf_counter() - started, launcher.stdout)


def alternate(rounds: int, **arms: Callable[[], float]) -> dict[str, list[float]]:
    """Measure several arms in turn (A B A B ...), so that a slow phase of the machine hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            samples[name].append(arm())
    return samples


def ratio(samples: Mapping[str, Sequence[float]], numerator: str, denominator: str) -> float:
    """The ratio of two arms' medians."""
    return statistics.median(samples[numerator]) / statistics.median(samples[denominator])
