"""Rollouts one after the other while requests come in and the operator is killed; and what it costs to do nothing.

Versions 1 and another one, which is the same by another number, take each other's place. Every fifth time the
operator's pod is killed within two seconds after it was asked.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Result
from benchmarks.on_cluster import BODY, PATH, Installed
from benchmarks.on_cluster_load import Report, under_load
from benchmarks.on_cluster_versions import Rollouts
from components.operator.worker import IDLE
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, MODEL_ROLLOUT
from evergrow.spec import load

RATE, ROLLOUTS, KILLED_EACH = 50.0, 100, 5
MODELS, SETTLED_SECONDS, WATCHED_SECONDS = 200, IDLE + 60.0, 60.0
"""Until it has let go what it needs for work alone."""
DOCUMENT = Path(__file__).parent.parent / "models/arrival_delay/model.yaml"


def run() -> list[Result]:
    """Failures over all rollouts, how long they took, and the idle operator."""
    installed = Installed.find()
    gateway, rollouts = installed.gateway, Rollouts(installed)
    url = f"http://{gateway.ip}:{gateway.port}{PATH}"
    with under_load(url, gateway.host, BODY, RATE) as report:
        took = [rollouts.take_over(killed=i % KILLED_EACH == KILLED_EACH - 1) for i in range(ROLLOUTS)]
        rollouts.back()
    return [*_takeovers(report, took), *_idle(installed)]


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


def _idle(installed: Installed) -> list[Result]:
    """Memory and CPU of the operator that has nothing to do for many models."""
    document: Any = load(DOCUMENT).model_dump(mode="json", by_alias=True, exclude_none=True)
    names = [f"idle-{number}" for number in range(MODELS)]
    try:
        for name in names:
            installed.kubernetes.create(CONTINUAL_MODEL, {**document, "metadata": {"name": name}})
        time.sleep(SETTLED_SECONDS)
        process = next(
            p for p in psutil.process_iter(["cmdline"]) if "components.operator" in (p.info["cmdline"] or [])
        )
        family = [process, *process.children(recursive=True)]
        before = sum(sum(p.cpu_times()[:2]) for p in family)
        time.sleep(WATCHED_SECONDS)
        cores = (sum(sum(p.cpu_times()[:2]) for p in family) - before) / WATCHED_SECONDS
        memory = sum(p.memory_info().rss for p in family) / 1e6
    finally:
        for name in names:
            installed.kubernetes.delete(CONTINUAL_MODEL, name)
    history = len(installed.kubernetes.search(MODEL_ROLLOUT))
    detail = f"beside {history} ended rollouts; {len(family)} process{'es' if len(family) > 1 else ''}"
    title = f"operator with {MODELS} idle ContinualModels"
    return [
        Result(f"{title}: memory", memory, "MB", "≤ 200", memory <= 200, detail),
        Result(f"{title}: CPU", cores, "cores", "≤ 0.1", cores <= 0.1, f"over {WATCHED_SECONDS:.0f} s"),
    ]
