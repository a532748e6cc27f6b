"""`make demo` after set-up: how long a new user waits, and how long the second time."""

from __future__ import annotations

import sys
import tempfile

from benchmarks.measure import Result, Usage, cpu_of

REACH_SECONDS = 120.0


def demo(home: str) -> Usage:
    """Run the demo with its state in `home`."""
    return cpu_of([sys.executable, "-m", "models.arrival_delay.demo"], {"EVERGROW_HOME": home, "OMP_NUM_THREADS": "1"})


def run() -> list[Result]:
    """The first run on an empty home, and the second one there."""
    with tempfile.TemporaryDirectory(prefix="demo-") as home:
        first, second = demo(home), demo(home)
    wall = first.wall_seconds
    share = second.wall_seconds / wall
    return [
        Result(
            name="make demo, first run after set-up",
            value=wall,
            unit="s",
            reach=f"≤ {REACH_SECONDS:.0f}",
            holds=wall <= REACH_SECONDS,
            detail=f"{first.cpu_seconds:.0f} CPU s, peak {first.peak_mb:,.0f} MB in one process",
        ),
        Result(
            name="make demo, second run over the first",
            value=share,
            unit="×",
            reach="≤ 0.5",
            holds=share <= 0.5,
            detail=f"{second.wall_seconds:.0f} against {wall:.0f} s",
        ),
    ]
