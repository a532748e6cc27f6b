"""Whether an acknowledged prediction is ever lost or doubled: servers are killed under load, again and again.

A server answers requests of a few connections and is killed (-9) at a random moment; the next one starts on the same
disk. Meanwhile a shipper ships to a store that goes away now and then. Last, the disk is full: a file system of its
own, smaller than what is recorded. Every answer's request id must be in the store once, and no row twice.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import serving_world as world
from benchmarks.measure import Result
from evergrow.errors import StoreError
from evergrow.integrations.feast_online import plan
from evergrow.prediction_log.shipping import Shipper

KILLS, OUTAGES, CLIENTS, SEED = 200, 20, 3, 2013
PATH = "/v1/models/delays:predict"


def run() -> list[Result]:
    """Kill, ship, count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features = plan(
            world.feature_store(folder / "repo", {"type": "sqlite", "path": str(folder / "o.db")}), "flights_v1"
        )
        store, clients = Store(), Clients()
        with shipping(folder / "log", store):
            log = {"whenFull": "refuse"}
            directory = world.serving_directory(folder / "serving", features, log=log)
            for n in range(KILLS):
                store.is_away = n * 2 * OUTAGES // KILLS % 2 == 1
                _one_life(directory, folder / "log", clients)
            store.is_away = False
        kills = clients.took()
        full = folder / "full"
        with _small_disk(full), shipping(full / "log", store):
            store.is_away = True
            directory = world.serving_directory(folder / "serving-full", features, log=log)
            for _ in range(5):
                _one_life(directory, full / "log", clients)
            store.is_away = False
        return _results(store, kills, clients.took())


class Store:
    """Objects in memory, away now and then."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._away = False
        self.outages = 0

    @property
    def is_away(self) -> bool:
        """Whether it refuses."""
        return self._away

    @is_away.setter
    def is_away(self, away: bool) -> None:
        self.outages += away and not self._away
        self._away = away

    def put(self, name: str, content: bytes) -> None:
        """Keep an object."""
        if self._away:
            raise StoreError("away", retriable=True)
        self.objects[name] = content

    def request_ids(self) -> Counter[str]:
        """How often each request is there."""
        tables = (pq.read_table(io.BytesIO(content), columns=["request_id"]) for content in self.objects.values())
        return Counter(name for table in tables for name in table["request_id"].to_pylist())


@contextmanager
def shipping(root: Path, store: Store) -> Iterator[None]:
    """Ship all the while, and in the end everything."""
    stop = threading.Event()
    shipper = Shipper(root, store.put, lambda *_: [], sleep=lambda _: time.sleep(0.2))
    thread = threading.Thread(target=shipper.run, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Clients:
    """Ask and remember what was answered."""

    answered: list[str] = field(default_factory=list)
    refused: int = 0
    asked: int = 0

    def took(self) -> tuple[list[str], int]:
        """What was answered and refused since the last time."""
        taken = (self.answered, self.refused)
        self.answered, self.refused = [], 0
        return taken

    def ask(self, port: int) -> None:
        """Ask over one connection until it breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        body = json.dumps({"instances": [world.row()]})
        try:
            while True:
                self.asked += 1
                name = f"{threading.get_ident()}-{time.monotonic_ns()}"
                connection.request("POST", PATH, body, {"content-type": "application/json", "x-request-id": name})
                answer = connection.getresponse()
                read = json.loads(answer.read())
                if answer.status == 200:
                    self.answered.append(read["id"])
                else:
                    self.refused += 1
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()


def _one_life(directory: Path, log: Path, clients: Clients) -> None:
    """Start a server, ask it, kill it at a random moment."""
    chance = random.Random(f"{SEED}-{clients.asked}")
    with world.server(directory, "--log-dir", str(log), "--grpc-port", "0") as running:
        threads = [threading.Thread(target=clients.ask, args=(running.port,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.02, 0.6))
        running.process.kill()
        running.process.wait()
        for thread in threads:
            thread.join()


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system that is full after some hundred records. Needs root; without it, a folder like any other."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False).returncode == 0
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def _results(store: Store, kills: tuple[list[str], int], full: tuple[list[str], int]) -> list[Result]:
    found = store.request_ids()
    doubled = sum(count > 1 for count in found.values())
    detail = f"{len(kills[0]):,} acknowledged, {KILLS} × kill -9, {store.outages} outages of the store"
    lost = sum(name not in found for name in kills[0])
    lost_full = sum(name not in found for name in full[0])
    detail_full = f"{len(full[0]):,} acknowledged, {full[1]:,} refused for want of space, 5 × kill -9"
    return [
        Result("acknowledged predictions lost, servers killed under load", lost, "", "0", lost == 0, detail),
        Result("acknowledged predictions lost, disk full", lost_full, "", "0", lost_full == 0, detail_full),
        Result("predictions doubled in all of that", doubled, "", "0", doubled == 0, f"{len(found):,} in the store"),
    ]
