"""What the prediction log costs a request: the same server with it and without, in turn, at each durability.

Each arm is a server process on loopback that answers the same row, with features from Redis where there is one. With
`each`, a request waits for the disk of this machine, whatever that is.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import serving_world as world
from benchmarks.measure import Result
from benchmarks.serving import ROW, Arm, Sample, measure_in_turn
from evergrow.integrations.feast_online import plan

ROUNDS = 60
WITHOUT = "without"
MOST = {"p50": 1.05, "p99": 1.10, "requests/s": 0.95, "CPU": None}


def run() -> list[Result]:
    """Measure all arms in turn, many short rounds."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        arms = _arms(Path(name), stack)
        samples = measure_in_turn(arms, ROUNDS)
    return [result for name in arms if name != WITHOUT for result in _results(name, samples)]


def _arms(folder: Path, stack: ExitStack) -> dict[str, Arm]:
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    if shutil.which("redis-server"):
        port = stack.enter_context(world.redis_server(folder / "redis"))
        online = {"type": "redis", "connection_string": f"127.0.0.1:{port}"}
    features = plan(world.feature_store(folder / "repo", online), "flights_v1")
    arms = {}
    for name in (WITHOUT, "group", "off", "each"):
        log = {} if name == WITHOUT else {"durability": name, "limitMb": 10_000}
        directory = world.serving_directory(folder / name / "serving", features, log=log)
        told = [] if name == WITHOUT else ["--log-dir", str(folder / name / "log")]
        running = stack.enter_context(world.server(directory, *told))
        arms[name] = Arm(running.process.pid, running.port, 1600, ROW)
    return arms


def _results(name: str, samples: Mapping[str, list[Sample]]) -> list[Result]:
    """Medians over rounds of the ratio within a round."""
    pairs = list(zip(samples[name], samples[WITHOUT], strict=True))
    ratios = {
        "p50": ([a.p50 / b.p50 for a, b in pairs], "ms", [(a.p50, b.p50) for a, b in pairs]),
        "p99": ([a.p99 / b.p99 for a, b in pairs], "ms", [(a.p99, b.p99) for a, b in pairs]),
        "requests/s": ([a.rate / b.rate for a, b in pairs], "per second", [(a.rate, b.rate) for a, b in pairs]),
        "CPU": ([a.cpu / b.cpu for a, b in pairs], "ms", [(a.cpu, b.cpu) for a, b in pairs]),
    }
    return [_result(name, what, *found) for what, found in ratios.items()]


def _result(name: str, what: str, ratios: list[float], unit: str, pairs: list[tuple[float, float]]) -> Result:
    value, most = statistics.median(ratios), MOST[what] if name == "group" else None
    mine, without = (statistics.median(values) for values in zip(*pairs, strict=True))
    reach = "stated" if most is None else f"{'≥' if what == 'requests/s' else '≤'} {most:g}"
    holds = most is None or (value >= most if what == "requests/s" else value <= most)
    detail = f"{mine:.3g} {unit} against {without:.3g} {unit}; median of {len(ratios)} rounds"
    title = f"a request that is recorded (durability {name}) against one that is not: {what}"
    return Result(title, value, "×", reach, holds, detail)
