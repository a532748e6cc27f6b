"""What gateway and InferenceService add to a prediction's latency, over the same server without a cluster.

Three arms answer the same row from the same serving directory and the same Redis: a bare process on this machine;
the InferenceService's pod, asked at its own address; and the gateway. They take turns, each on connections that are
kept open, and are compared within each round.
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks import serving_world as world
from benchmarks.measure import Result
from benchmarks.on_cluster import BODY, PATH, Address, Installed
from evergrow.integrations.object_store import ObjectStore

ROUNDS = 15
REQUESTS = 400
WARM_UP = 200
MANY = 8
REACH = {"p50": 1.0, "p99": 3.0}


@dataclass(frozen=True)
class Latency:
    """Of one round of one arm, in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of all of its requests."""
        ordered = sorted(seconds)
        return cls(1000 * statistics.median(ordered), 1000 * ordered[-len(ordered) // 100])


Samples = Mapping[str, list[Latency]]


def run() -> list[Result]:
    """Measure the arms in turn, on one connection and on several."""
    installed = Installed.find()
    with tempfile.TemporaryDirectory() as folder, bare_server(installed, Path(folder)) as bare:
        arms = {"bare": bare, "pod": installed.pod, "gateway": installed.gateway}
        one = _results(measure(arms, 1), 1, len(installed.pods))
        return [*one, *_results(measure(arms, MANY), MANY, len(installed.pods))]


@contextmanager
def bare_server(installed: Installed, folder: Path) -> Iterator[Address]:
    """The version that serves on the cluster, served by a process here from the same directory and online store."""
    with patch.dict(os.environ, installed.storage()):
        directory = ObjectStore.open(installed.place.data.store).download(installed.directory, folder / "serving")
    with world.server(directory, now=None, env={"EVERGROW_ONLINE_STORE": installed.online_store()}) as running:
        yield Address("127.0.0.1", running.port)


def measure(arms: Mapping[str, Address], connections: int, rounds: int = ROUNDS) -> Samples:
    """Each arm's rounds, in turn."""
    samples: dict[str, list[Latency]] = {name: [] for name in arms}
    for address in arms.values():
        latencies(address, connections, WARM_UP)
    for _ in range(rounds):
        for name, address in arms.items():
            samples[name].append(Latency.of(latencies(address, connections, REQUESTS)))
    return samples


def latencies(address: Address, connections: int, requests: int) -> list[float]:
    """Seconds that each request took, of as many at a time as there are connections."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: {address.host}\r\ncontent-type: application/json\r\n"
    message = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
    sockets = [socket.create_connection((address.ip, address.port), timeout=10) for _ in range(connections)]
    sent: dict[socket.socket, float] = {}
    took: list[float] = []
    with selectors.DefaultSelector() as selector:
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ)
            sent[connection] = _send(connection, message)
        while len(took) < requests:
            for connection in [key.fileobj for key, _ in selector.select(10)]:
                _receive(connection)
                took.append(time.perf_counter() - sent[connection])
                sent[connection] = _send(connection, message)
    for connection in sockets:
        connection.close()
    return took


def _send(connection: socket.socket, message: bytes) -> float:
    begun = time.perf_counter()
    connection.sendall(message)
    return begun


def _receive(connection: socket.socket) -> None:
    """One whole answer; anything but a 200 ends the benchmark."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered {received[:500]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _some(connection)


def _some(connection: socket.socket) -> bytes:
    read = connection.recv(65536)
    if not read:
        raise RuntimeError("the server closed the connection instead of answering")
    return read


def added(samples: Samples, arm: str, over: str, which: str) -> float:
    """What an arm takes more than another: the median of the rounds' differences."""
    pairs = zip(samples[arm], samples[over], strict=True)
    return statistics.median(getattr(mine, which) - getattr(other, which) for mine, other in pairs)


def _results(samples: Samples, connections: int, pods: int) -> list[Result]:
    """Held to its reach on one connection; on several the processes wait for the machine's cores, so it is stated."""
    many = connections > 1
    name = "a prediction through gateway and InferenceService, over the bare server"
    where = f"{connections} connections" if many else "one connection"
    behind = f"{pods} pod{'s' * (pods != 1)} behind the gateway at the end"
    results = []
    for which, most in REACH.items():
        value = added(samples, "gateway", "bare", which)
        reach, holds = ("stated", True) if many else (f"≤ +{most:g} ms", value <= most)
        results.append(
            Result(f"{name}: {which}, {where}", value, "ms", reach, holds, f"{_detail(samples, which)}; {behind}")
        )
    return results


def _detail(samples: Samples, which: str) -> str:
    def each(of: Callable[[list[float]], float]) -> list[float]:
        return [of([getattr(sample, which) for sample in samples[arm]]) for arm in ("bare", "pod", "gateway")]

    bare, pod, gateway = each(statistics.median)
    split = added(samples, "pod", "bare", which), added(samples, "gateway", "pod", which)
    quietest = " / ".join(f"{value:.3g}" for value in each(min))
    return (
        f"{bare:.3g} ms bare, {pod:.3g} at the pod's address, {gateway:.3g} through the gateway: "
        f"{split[0]:+.2g} for pod and its network, {split[1]:+.2g} for the gateway; "
        f"each one's quietest round: {quietest}; load of the machine {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
