"""Rollouts on one machine from end to end: Envoy, model servers, MLflow and files, while callers go on asking."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.serving_world import NOW, free_port, row
from evergrow.contracts import instant
from evergrow.environment import Environment
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.integrations.serving import served
from evergrow.rollout.attempt import Attempt
from tests.builders import document
from tests.unit.integrations.rollout_world import MODEL, Callers, ask, children, prepare, servers, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ANALYSIS = {"decides": "guardrails", "guardrails": ["errors"], "errors": {"limit": 0.2}}
SHADOW = {"kind": "shadow", "share": 100, "requests": 1_000_000}
CANARY = {"kind": "canary", "steps": [{"weight": w, "requests": 20, "duration": "2s"} for w in (20, 50)]}
LONG = {"kind": "canary", "steps": [{"weight": 30, "requests": 20, "duration": "15s"}]}


class Machine:
    """What a user has: the command line, and a terminal in which a model is served."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder, self.port = home, folder, free_port()
        self.environment = Environment.read({"EVERGROW_HOME": str(home)})
        # MLflow tells every process that another test starts where its own registry was.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
        self.variables = {**inherited, "EVERGROW_HOME": str(home), "EVERGROW_ACTOR": "ada", "OMP_NUM_THREADS": "1"}
        self.rollouts = RolloutFiles(home)
        self.process: subprocess.Popen[bytes]

    def serve(self) -> None:
        command = [sys.executable, "-m", "tests.unit.integrations.rollout_world", MODEL, str(self.port)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen([*command, NOW.isoformat()], env=self.variables, stdout=log, stderr=log)
        self.until(lambda: self.ask().startswith("v"))

    @property
    def said(self) -> str:
        """All that was printed where it is served."""
        return (self.folder / "serve.log").read_text()

    def ask(self, **headers: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return ask(connection, json.dumps({"instances": [row()]}).encode(), **headers)
        finally:
            connection.close()

    def evergrow(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "evergrow", *arguments]
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, version: int, strategy: dict, *more: str) -> None:
        path = self.folder / "rollout.yaml"
        path.write_text(yaml.safe_dump({"strategy": strategy, "analysis": ANALYSIS}))
        self.evergrow("rollout", "start", MODEL, "--version", str(version), "--strategy-file", str(path), *more)

    def newest(self) -> Attempt:
        return self.rollouts.attempts(MODEL)[-1]

    def until(self, holds: Callable[[], bool]) -> None:
        until(holds, 180, lambda: f"{self.evergrow('rollout', 'list')}\n{self.said}")

    def until_it_is(self, phase: str) -> None:
        self.until(lambda: self.newest().status.phase == phase)

    def champion(self) -> int | None:
        found = MlflowRegistry(self.environment).resolve(MODEL, CHAMPION)
        return None if found is None else found.version

    def link(self) -> int:
        about = served(self.environment.serving(MODEL))
        assert about is not None
        return int(about["version"])


@pytest.fixture
def machine(tmp_path: Path, empty_mlflow: Path) -> Iterator[Machine]:
    home = tmp_path / "home"
    (home / "mlflow").mkdir(parents=True)
    (home / "mlflow" / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    made = Machine(home, tmp_path)
    prepare(made.environment, tmp_path / "world")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document(name=MODEL).dump()))
    made.serve()
    yield made
    made.process.kill()
    made.process.wait()


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_versions_take_over_and_are_sent_back_and_no_request_fails(machine: Machine) -> None:
    serving = machine.process.pid
    first = servers(serving)[1]
    with Callers(machine.port, row()) as callers:
        # A shadow gets copies, and nobody its answers.
        machine.start(2, SHADOW, "-f", str(machine.folder / "model.yaml"))
        counted = machine.environment.serving(MODEL) / "gateway" / "counts.json"
        machine.until(lambda: counted.exists() and json.loads(counted.read_text())["versions"].get("2", [0])[0] > 100)
        second = servers(serving)[2]
        assert set(callers.answered) == {"v1"}
        machine.evergrow("rollout", "abort", MODEL)
        machine.until_it_is("Aborted")
        assert set(callers.answered) == {"v1"}

        # A canary is promoted by its guardrails; the process that was asked first is the one that serves.
        machine.start(2, CANARY)
        machine.until(lambda: callers.answered["v2"] > 0)
        machine.until_it_is("Promoted")
        machine.until(lambda: machine.newest().status.recorded is not None)
        assert (machine.champion(), machine.link()) == (2, 2)
        assert servers(serving) == {1: first, 2: second}
        assert {machine.ask() for _ in range(20)} == {"v2"}
        assert machine.ask(x_evergrow_version="1") == "v1"

        # What served before is warm, and takes over again at once.
        assert "warm until" in machine.evergrow("rollback", MODEL)
        machine.until_it_is("Promoted")
        machine.until(lambda: machine.newest().status.recorded is not None)
        assert (machine.champion(), machine.link()) == (1, 1)
        assert servers(serving) == {1: first, 2: second}
        assert {machine.ask() for _ in range(20)} == {"v1"}
    assert callers.failed == {}

    # Whoever is killed takes all with him, and the same rollout goes on from its files.
    machine.start(2, LONG)
    machine.until(lambda: machine.newest().status.step_started is not None)
    before, left = machine.newest(), children(serving)
    assert any("envoy" in command for command in left.values())
    machine.process.kill()
    machine.process.wait()
    machine.until(lambda: not any(map(lives, left)))
    machine.serve()
    after = machine.newest()
    assert (after.name, after.status.started) == (before.name, before.status.started)
    with Callers(machine.port, row()) as again:
        machine.until_it_is("Promoted")
        machine.until(lambda: machine.newest().status.recorded is not None)
    assert (machine.newest().name, again.failed) == (before.name, {})
    assert (machine.champion(), machine.link(), machine.ask()) == (2, 2, "v2")

    # Told to stop, it answers what is under way, ships what was recorded, and ends well.
    left = children(machine.process.pid)
    machine.process.send_signal(signal.SIGTERM)
    assert machine.process.wait(60) == 0
    machine.until(lambda: not any(map(lives, left)))
    assert_all_is_recorded(machine, callers.answered + again.answered)
    assert_all_is_told(machine)


def assert_all_is_recorded(machine: Machine, answered: Counter[str]) -> None:
    """Each answer is in the log, as the version gave it; copies are marked."""
    assert not list(machine.environment.recorded(MODEL).glob("*/0*"))
    log = PredictionStore.of(machine.environment).read(MODEL, NOW.date(), NOW.date()).to_pandas()
    drawn, copies = log[log["route"] == "weights"], log[log["route"] == "shadow"]
    for version in (1, 2):
        assert (drawn["version"] == version).sum() >= answered[f"v{version}"]
    assert set(copies["version"]) == {2}
    assert len(copies) > 100
    assert set(log["request_id"]) >= set(copies["request_id"]) & set(drawn["request_id"])
    assert set(drawn["propensity"]) >= {1.0, 0.8, 0.2, 0.5}


def assert_all_is_told(machine: Machine) -> None:
    """Who answers and why, a line each, at the instants that were taken for the present."""
    events = machine.rollouts.events(MODEL)
    assert {event.reason for event in events} >= {"Started", "Progressing", "Promoted", "Aborted"}
    assert all(event.at.date() == instant(NOW.isoformat()).date() for event in events)
    for said in ("version 1 answers 80 %, version 2 20 %", "version 2 answers 100 %", "aborted by ada"):
        assert machine.said.count(said) >= 1, machine.said
    assert "Traceback" not in machine.said
