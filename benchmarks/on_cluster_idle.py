"""What it costs to do nothing: the operator's memory and CPU while many models have no rollout under way."""

from __future__ import annotations

import time
from typing import Any

import psutil

from benchmarks.measure import Result
from benchmarks.on_cluster import DOCUMENT, Installed
from components.operator.worker import IDLE
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, MODEL_ROLLOUT
from evergrow.spec import load

MODELS, WATCHED_SECONDS = 200, 60.0
SETTLED_SECONDS = 1.5 * IDLE + 10
"""Until it has let go what it needs for work alone."""


def run() -> list[Result]:
    """Memory and CPU of the operator."""
    installed = Installed.find()
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
