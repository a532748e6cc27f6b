"""What a prediction costs in the server: CPU time per request, latency and throughput against what else there is.

Every arm is a process of its own on loopback and answers the same row: 6 views under 5 entity keys, an on-demand
function, 13 model inputs, 100 boosted trees. CPU time is the server process's own, by the kernel's clock.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import serving_world as world
from benchmarks.measure import Result

ROUNDS = 5
CONNECTIONS = 4
PATH = "/v1/models/delays:predict"
ROW = {"instances": [world.row()]}
# The floor is handed the vector that the others have to make.
VECTOR = {"instances": [[12.5, 100, 71.6, 189, 40, 4.5, 9, 4127.1, 22, 1, 100, 0, 0]]}


@dataclass(frozen=True)
class Arm:
    """A running server and how much is asked of it in a round."""

    pid: int
    port: int
    requests: int
    document: Mapping[str, object]


@dataclass(frozen=True)
class Sample:
    """One round of one arm: CPU milliseconds per request, requests per second, latency in milliseconds."""

    cpu: float
    rate: float
    p50: float
    p99: float


def run() -> list[Result]:
    """Measure all arms in turn, several rounds."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        arms = _arms(Path(folder), stack)
        samples = measure_in_turn(arms, ROUNDS)
        start = _start_to_ready(Path(folder) / "sqlite" / "serving")
    return [*_results(samples), start]


def measure_in_turn(arms: Mapping[str, Arm], rounds: int) -> dict[str, list[Sample]]:
    """Each arm's samples, a round of one after a round of the other; the first is to warm up, and not kept."""
    for arm in arms.values():
        measure(arm)
    samples: dict[str, list[Sample]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            samples[name].append(measure(arm))
    return samples


def cpu_seconds(pid: int) -> float:
    """CPU time of a process in nanosecond resolution: the clock that clock_getcpuclockid(3) gives."""
    return time.clock_gettime((~pid << 3) | 2)


def measure(arm: Arm) -> Sample:
    """Saturate over a few connections for CPU and rate, then ask one by one for latency."""
    body = json.dumps(arm.document).encode()
    request = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    message = request.encode() + body
    sockets = [socket.create_connection(("127.0.0.1", arm.port)) for _ in range(CONNECTIONS)]
    cpu, started = cpu_seconds(arm.pid), time.perf_counter()
    for _ in range(arm.requests // CONNECTIONS):
        for connection in sockets:
            connection.sendall(message)
        for connection in sockets:
            _receive(connection)
    elapsed, used = time.perf_counter() - started, cpu_seconds(arm.pid) - cpu
    latencies = sorted(_latency(sockets[0], message) for _ in range(arm.requests // 2))
    for connection in sockets:
        connection.close()
    return Sample(
        cpu=1000 * used / arm.requests,
        rate=arm.requests / elapsed,
        p50=statistics.median(latencies),
        p99=latencies[-len(latencies) // 100],
    )


def _latency(connection: socket.socket, message: bytes) -> float:
    started = time.perf_counter()
    connection.sendall(message)
    _receive(connection)
    return 1000 * (time.perf_counter() - started)


def _receive(connection: socket.socket) -> None:
    """One whole answer; anything but a 200 ends the benchmark."""
    received = connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered {received[:500]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


# -- the arms ----------------------------------------------------------------------------------------------------------


def _arms(folder: Path, stack: ExitStack) -> dict[str, Arm]:
    sqlite = _prepare(folder / "sqlite", {"type": "sqlite", "path": str(folder / "online.db")})
    arms = {"ours, SQLite": _ours(stack, sqlite), "constant": _other(stack, "constant", sqlite, 1500)}
    arms["constant, quiet"] = _other(stack, "constant_quiet", sqlite, 2000)
    arms["floor"] = _other(stack, "floor", sqlite, 4000, VECTOR)
    stored = sqlite
    if shutil.which("redis-server"):
        port = stack.enter_context(world.redis_server(folder / "redis-data"))
        stored = _prepare(folder / "redis", {"type": "redis", "connection_string": f"127.0.0.1:{port}"})
        arms["ours, Redis"] = _ours(stack, stored)
    arms["routed"] = _other(stack, "routed", stored, 2000)
    arms["documented, OMP 1"] = _other(stack, "documented", stored, 100)
    arms["documented"] = _other(stack, "documented", stored, 20, threads=None)
    return arms


def _prepare(folder: Path, online_store: dict[str, str]) -> Path:
    from evergrow.integrations.feast_online import plan

    store = world.feature_store(folder / "repo", online_store)
    (folder / "online.json").write_text(json.dumps(online_store))
    world.serving_directory(folder / "serving", plan(store, "flights_v1"))
    return folder


def _ours(stack: ExitStack, folder: Path) -> Arm:
    running = stack.enter_context(world.server(folder / "serving"))
    return Arm(running.process.pid, running.port, 4000, ROW)


def _other(
    stack: ExitStack,
    name: str,
    folder: Path,
    requests: int,
    document: Mapping[str, object] = ROW,
    threads: str | None = "1",
) -> Arm:
    process, port = stack.enter_context(_process(name, folder, threads))
    return Arm(process.pid, port, requests, document)


@contextmanager
def _process(name: str, folder: Path, threads: str | None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = world.free_port()
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | (
        {"OMP_NUM_THREADS": threads} if threads else {}
    )
    command = [sys.executable, "-m", "benchmarks.serving_arms", name, str(port), str(folder)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        world.wait_for_port(port, process)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _start_to_ready(directory: Path) -> Result:
    used = []
    for _ in range(3):
        with world.server(directory, ready=False) as running:
            world.wait_for_port(running.port, running.process)
            running.wait_until_ready()
            used.append(cpu_seconds(running.process.pid))
    value = statistics.median(used)
    return Result("start of the server to Ready", value, "CPU s", "≤ 3", value <= 3, "SQLite; golden rows answered")


# -- the numbers -------------------------------------------------------------------------------------------------------


def _results(samples: Mapping[str, list[Sample]]) -> list[Result]:
    def median(arm: str, of: Callable[[Sample], float]) -> float:
        return statistics.median(of(sample) for sample in samples[arm])

    def compare(name: str, arm: str, other: str, of: Callable[[Sample], float], most: float, unit: str) -> Result:
        mine, others = median(arm, of), median(other, of)
        detail = f"{mine:.3g} {unit} against {others:.3g} {unit}"
        return Result(name, mine / others, "×", f"≤ {most:g}", mine / others <= most, detail)

    results = []
    for arm in (a for a in ("ours, Redis", "ours, SQLite") if a in samples):
        what = f"one row with online features ({arm.partition(', ')[2]})"
        against = "against KServe returning a constant"
        results += [
            compare(f"{what}: CPU per request {against}", arm, "constant", lambda s: s.cpu, 1.3, "ms"),
            compare(
                f"{what}: CPU {against}, its log off as ours is", arm, "constant, quiet", lambda s: s.cpu, 1.3, "ms"
            ),
            compare(f"{what}: p50 {against}", arm, "constant", lambda s: s.p50, 1.3, "ms"),
            compare(f"{what}: p99 {against}", arm, "constant", lambda s: s.p99, 1.3, "ms"),
        ]
    best = "ours, Redis" if "ours, Redis" in samples else "ours, SQLite"
    name = "one row with online features: CPU per request against bare ASGI and ONNX Runtime without features"
    results.append(compare(name, best, "floor", lambda s: s.cpu, 5, "ms"))
    own, routed = median(best, lambda s: s.cpu), median("routed", lambda s: s.cpu)
    name, detail = "the same model through KServe's own HTTP routes: CPU per request", f"through ours {own:.3g} ms"
    results.append(Result(name, routed, "ms", "stated", True, detail))
    for other, least, how in (("documented", 10, "as documented"), ("documented, OMP 1", 3, "with OMP_NUM_THREADS=1")):
        mine, others = median(best, lambda s: s.rate), median(other, lambda s: s.rate)
        name = f"throughput against KServe with Feast's SDK and scikit-learn, {how}"
        detail = f"{mine:,.0f} against {others:,.0f} requests/s on {CONNECTIONS} connections"
        results.append(Result(name, mine / others, "×", f"≥ {least}", mine / others >= least, detail))
    return results
