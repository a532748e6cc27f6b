"""Rollouts one after the other while requests come in and the operator is killed.

Versions 1 and another one, which is the same by another number, take each other's place. Every fifth time the
operator's pod is killed within two seconds after it was asked.
"""

from __future__ import annotations

import statistics

from benchmarks.measure import Result
from benchmarks.on_cluster import BODY, PATH, Installed
from benchmarks.on_cluster_load import Report, under_load
from benchmarks.on_cluster_versions import Rollouts

RATE, ROLLOUTS, KILLED_EACH = 50.0, 100, 5


def run() -> list[Result]:
    """Failures over all rollouts, and how long they took."""
    installed = Installed.find()
    gateway, rollouts = installed.gateway, Rollouts(installed)
    url = f"http://{gateway.ip}:{gateway.port}{PATH}"
    with under_load(url, gateway.host, BODY, RATE) as report:
        took = [rollouts.take_over(killed=i % KILLED_EACH == KILLED_EACH - 1) for i in range(ROLLOUTS)]
        rollouts.back()
    return _takeovers(report, took)


def _takeovers(report: Report, took: list[tuple[bool, float]]) -> list[Result]:
    plain = [seconds for killed, seconds in took if not killed]
    killed = [seconds for killed, seconds in took if killed]
    name = f"{len(took)} rollouts at {RATE:.0f} requests/s, the operator killed in {len(killed)}"
    ended = ", ".join(f"{count:,} × {outcome}" for outcome, count in sorted(report.outcomes.items()))
    return [
        Result(f"{name}: failed requests", report.failed, "", "0", report.failed == 0 and report.kept_up, ended),
        Result(
            f"{name}: from asked to answering, median", statistics.median(plain), "s", "stated", True,
            f"at most {max(plain):.1f} s, as the next operator waits for the Lease of one that was killed before; "
            f"killed at it {statistics.median(killed):.1f} s, at most {max(killed):.1f} s",
        ),
    ]  # fmt: skip
