"""The loop, whole, on a small model: killed at random it comes to the same book, versions and champion."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from evergrow.audit import AuditLog
from evergrow.integrations.loop_local import LocalWorld, book_of
from evergrow.integrations.memory_loop import MemoryWorld
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.loop.book import Asked, Began, Decided, Ended, Froze
from evergrow.loop.ports import World as Port
from evergrow.spec import load
from evergrow.triggers.decide import Retrain
from tests import traffic
from tests.pipelines.conftest import DOCUMENT, ROOT, World, new_world

pytestmark = pytest.mark.slow

RETRAINING = """
  retraining:
    cooldown: 1d
    triggers:
      - {kind: data-volume, rows: 140}
      - {kind: asked}
"""
TIME = ("--since", "2024-03-01", "--until", "2024-03-02")
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
FIRST = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def model_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model, trained again every second day."""
    path = tmp_path_factory.mktemp("document") / "model.yaml"
    path.write_text(DOCUMENT.read_text() + RETRAINING)
    return path


def start(world: World, *arguments: str) -> subprocess.Popen[bytes]:
    places = {
        "EVERGROW_HOME": str(world.environment.home),
        "EVERGROW_FEATURE_REPO": str(world.environment.feature_repo),
        # MLflow leaves its own in the environment of a process that has used it.
        "MLFLOW_TRACKING_URI": world.environment.tracking_uri,
        "OMP_NUM_THREADS": "1",
    }
    with (world.environment.home.parent / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "evergrow", "loop", "run", *arguments]
        return subprocess.Popen(command, env={**os.environ, **places}, cwd=ROOT, stdout=log, stderr=log)


def kill(process: subprocess.Popen[bytes], *, all_of_it: bool) -> bool:
    """As the kernel does where memory runs out, or as a power cut does; whether there was anything to kill."""
    if process.poll() is not None:
        return False
    for one in psutil.Process(process.pid).children(recursive=True) if all_of_it else []:
        one.kill()
    process.kill()
    process.wait()
    return True


def told(world: World) -> list[dict[str, Any]]:
    """The book without what was measured: CPU and latency."""
    entries = [entry.model_dump(mode="json") for entry in book_of(world.environment, "toy-demand").entries()]
    for entry in entries:
        entry.pop("cpu_hours", None)
        if "reason" in entry:
            entry["reason"] = re.sub(r"latency \S+ ms", "", entry["reason"])
    return entries


def made(world: World) -> tuple[Any, ...]:
    """Versions by identity, which of them is the champion, and what was ever promoted."""
    versions = MlflowRegistry(world.environment).versions("toy-demand")
    promoted = [one.version for one in AuditLog(world.environment.audit).records()]
    return [(one.version, one.identity, one.model_digest, one.aliases) for one in versions], promoted


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model_yaml: Path) -> tuple[World, World, int]:
    """A world in which nobody killed the loop, one in which it was killed and run again, and how often."""
    whole, killed = (new_world(tmp_path_factory.mktemp(name) / "home") for name in ("whole", "killed"))
    arguments = ("-f", str(model_yaml), *TIME)
    unhindered, chance, kills = start(whole, *arguments), random.Random(5), 0
    for number in range(4):
        process = start(killed, *arguments)
        time.sleep(chance.uniform(1, 9))
        kills += kill(process, all_of_it=number % 2 == 0)
    assert start(killed, *arguments).wait() == 0, log(killed)
    assert unhindered.wait() == 0, log(whole)
    return whole, killed, kills


def test_killed_at_random_and_run_again_it_comes_to_the_same_as_if_it_had_not_been(both) -> None:
    whole, killed, kills = both
    assert kills >= 3
    assert told(killed) == told(whole)
    assert made(killed) == made(whole)


def test_it_trains_where_nobody_serves_and_decides_by_the_labels_since(both) -> None:
    world, _, _ = both
    book = book_of(world.environment, "toy-demand").entries()
    decisions = [one.decision for one in book if isinstance(one, Decided)]
    assert [(one.as_of, one.train) for one in decisions] == [(FIRST, True), (FIRST + DAY, False)]
    assert "72 newly labelled rows against 140" in decisions[1].reason
    assert [one.at for one in book if isinstance(one, Began)] == [FIRST]
    (ended,) = (one for one in book if isinstance(one, Ended))
    assert (ended.outcome, ended.version, 0.001 < ended.cpu_hours < 0.1) == ("promoted", 1, True)
    said = log(world)
    assert "2024-03-02 00:00 no: 0 of 2 triggers fire" in said
    assert "Traceback" not in said


def test_training_as_of_an_instant_again_changes_nothing(both, model_yaml: Path) -> None:
    world, _, _ = both
    local, before = LocalWorld(world.environment, load(model_yaml)), made(world)
    obey_the_laws(local, FIRST)
    assert made(world) == before


def test_the_twin_in_memory_obeys_the_same_laws() -> None:
    obey_the_laws(MemoryWorld([FIRST - n * HOUR for n in range(72)]), FIRST)


def obey_the_laws(world: Port, now: datetime) -> None:
    """Of a world in which nothing was predicted, and a training as of now brings a champion."""
    result = world.train(now)
    assert world.train(now) == result
    assert (result.outcome, result.version) == ("promoted", 1)
    champion = world.champion(now)
    assert champion is not None
    assert (champion.version, champion.cut) == (1, now)
    assert champion.since <= now
    assert world.look(now) is None
    known = world.known(now)
    assert known is not None
    assert known.dtype == np.dtype("datetime64[us]")
    assert len(known) > 0
    assert (np.diff(known) >= np.timedelta64(0)).all()
    assert known[-1] <= np.datetime64(now.replace(tzinfo=None))
    assert len(world.known(now + DAY)) >= len(known)  # type: ignore[arg-type]


def test_what_monitoring_sees_is_looked_at_once_there_are_predictions(both, tmp_path: Path, model_yaml: Path) -> None:
    shutil.copytree(both[0].environment.home, tmp_path / "home")
    environment, document, now = new_world(tmp_path / "home").environment, load(model_yaml), FIRST + 2 * DAY
    local = LocalWorld(environment, document)
    assert local.known(now) is not None
    rows = traffic.answers(environment, document, FIRST, now)
    traffic.log(environment, document, rows, views=["station_demand"])
    assert local.look(FIRST) is None
    look = local.look(now)
    assert look is not None
    assert look.at == now
    assert {one.kind for one in look.observations} >= {"performance", "label-drift"}


def test_in_the_present_it_heeds_what_is_said_and_ends_when_it_is_told_to(both, tmp_path: Path) -> None:
    shutil.copytree(both[0].environment.home, tmp_path / "home")
    world, file = new_world(tmp_path / "home"), tmp_path / "model.yaml"
    file.write_text(DOCUMENT.read_text() + RETRAINING.replace("rows: 140", "rows: 1000000"))
    process = start(world, "-f", str(file))
    until(lambda: len(decided(world)) == 3)
    assert not decided(world)[-1].wanted
    book = book_of(world.environment, "toy-demand")
    book.append(Froze(at=datetime.now(UTC), by="ada", reason="audit"))
    book.append(Asked(at=datetime.now(UTC), by="bob", reason="rain"))
    until(lambda: decided(world)[-1].wanted)
    last = decided(world)[-1]
    assert "frozen: by ada since" in last.withheld
    assert "asked for by bob" in last.reason
    assert "rain" in last.reason
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log(world)
    assert "stopped; the next `evergrow loop run` goes on from here" in log(world)
    assert not [one for one in book.entries() if isinstance(one, Began) and one.at > FIRST]


def test_too_little_data_is_a_training_that_failed_and_no_end(tmp_path: Path, model_yaml: Path) -> None:
    world = new_world(tmp_path / "home")
    process = start(world, "-f", str(model_yaml), "--since", "2024-01-02", "--until", "2024-01-03")
    assert process.wait(120) == 0, log(world)
    book = book_of(world.environment, "toy-demand").entries()
    (ended,) = (one for one in book if isinstance(one, Ended))
    assert (ended.outcome, ended.version) == ("failed", None)
    assert "step build_training_set" in ended.reason
    assert "the last training ended at 2024-01-02 00:00, the cooldown is 2d" in decided(world)[-1].withheld


def decided(world: World) -> list[Retrain]:
    entries = book_of(world.environment, "toy-demand").entries()
    return [one.decision for one in entries if isinstance(one, Decided)]


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def log(world: World) -> str:
    return (world.environment.home.parent / "log.txt").read_text()
