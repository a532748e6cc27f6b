"""How a benchmark measures: in a child process, by the CPU seconds and peak memory the kernel counted for it."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


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


def cpu_of(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end and tell what it used.

    Raises:
        RuntimeError: it failed; shows the end of its standard error.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        list(argv), env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        reader_out, reader_err = _drain(child)
        # wait4 gives this child's own usage; RUSAGE_CHILDREN would be the maximum over all children so far.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout, stderr = reader_out(), reader_err()
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} exited with {child.returncode}:\n{stderr[-3000:]}")
    return Usage(
        usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, time.perf_counter() - started, stdout
    )


def _drain(child: subprocess.Popen[str]) -> tuple[Callable[[], str], Callable[[], str]]:
    """Read both pipes in threads, so that a full pipe never blocks the child."""
    import threading

    def reader(pipe: object) -> Callable[[], str]:
        parts: list[str] = []
        thread = threading.Thread(target=lambda: parts.append(pipe.read()))  # type: ignore[attr-defined]
        thread.start()

        def collect() -> str:
            thread.join()
            return parts[0]

        return collect

    return reader(child.stdout), reader(child.stderr)


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
