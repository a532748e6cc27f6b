"""A model served with its rollouts, with small servers behind a real gateway: what answers is not the controller's."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.serving_world import free_port
from evergrow.contracts import Route
from evergrow.environment import Environment
from evergrow.errors import ServingError
from evergrow.integrations import rollouts_local
from evergrow.integrations.envoy_config import Backend, Listener
from evergrow.integrations.rollouts_local import RolloutServing, served_by
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.spec import ContinualModel
from tests.builders import document
from tests.unit.integrations.gateway_world import until
from tests.unit.integrations.test_rollout_files import wanted

SERVER = '''
"""Answers with its version; not ready while there is a file `unready` in its directory."""
import http.server, json, sys
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        self.answer(503 if (folder / "unready").exists() else 200, b"")
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, json.dumps({"model_version": folder.name}).encode())
    def answer(self, status, content):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_): ...

http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever(0.01)
'''


class NoWitness:
    """`evergrow.ports.Witness` that breaks in a way that nobody foresaw."""

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        raise RuntimeError("a bug")


class Machine:
    """A folder with versions of "delays", and whoever serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.root = self.home / "serving" / "delays"
        self.lines: list[str] = []
        (folder / "server.py").write_text(SERVER)
        self.listener = Listener(model="delays", port=free_port())
        for version in (1, 2):
            self.prepare(version)
        self.make_champion(1)

    def prepare(self, version: int) -> Path:
        directory = self.root / "versions" / str(version)
        directory.mkdir(parents=True)
        (directory / "serving.json").write_text(json.dumps({"version": version}))
        return directory

    def make_champion(self, version: int) -> None:
        """As the deploy step does."""
        (self.root / "next").symlink_to(f"versions/{version}")
        (self.root / "next").replace(self.root / "current")

    def serving(self) -> RolloutServing:
        def start(directory: Path, at: Backend) -> list[str]:
            return [sys.executable, "-S", str(self.folder / "server.py"), str(directory), str(at.http_port)]

        environment = Environment.read({"EVERGROW_HOME": str(self.home)})
        shipper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        return RolloutServing(environment, self.listener, start, shipper, witness=NoWitness(), tell=self.lines.append)

    def ask(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.listener.port, timeout=10)
        try:
            connection.request("POST", "/v1/models/delays:predict", b"{}")
            answer = connection.getresponse()
            return str(json.loads(answer.read()).get("model_version", answer.status))
        except OSError:
            return "nobody"
        finally:
            connection.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def serving(machine: Machine) -> Iterator[RolloutServing]:
    made = machine.serving()
    made.gateway.start()
    yield made
    made.stop()


def break_controller(serving: RolloutServing) -> None:
    """From now on it decides nothing."""
    serving.rollouts.put_model(document())
    serving.rollouts.create(wanted("torn"))
    (serving.rollouts.folder("delays") / "torn.json").write_text("{")


def look_until(serving: RolloutServing, machine: Machine, answer: str) -> None:
    def holds() -> bool:
        serving.look()
        return machine.ask() == answer

    until(holds, 60)


def test_the_champion_answers_where_nothing_is_rolled_out(serving: RolloutServing, machine: Machine) -> None:
    assert machine.ask() == "503"
    look_until(serving, machine, "1")
    assert machine.lines == ["delays: version 1 answers 100 %"]
    assert set(serving.fleet.processes()) == {1}


def test_a_champion_that_is_replaced_without_a_rollout_goes_when_the_next_one_is_ready(
    serving: RolloutServing, machine: Machine
) -> None:
    look_until(serving, machine, "1")
    (machine.root / "versions" / "2" / "unready").touch()
    machine.make_champion(2)
    for _ in range(5):
        serving.look()
        assert machine.ask() == "1"
    (second,) = (serving.fleet.processes()[version] for version in (2,))
    (machine.root / "versions" / "2" / "unready").unlink()
    look_until(serving, machine, "2")
    serving.look()
    assert serving.fleet.processes() == {2: second}


def test_who_answers_does_not_depend_on_the_controller(
    serving: RolloutServing, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    look_until(serving, machine, "1")
    break_controller(serving)
    with caplog.at_level(logging.WARNING, "evergrow.rollouts"):
        for _ in range(3):
            serving.look()
        assert machine.ask() == "1"
        os.kill(serving.fleet.processes()[1], signal.SIGKILL)
        until(lambda: machine.ask() != "1")
        look_until(serving, machine, "1")
        serving.gateway._process.kill()  # type: ignore[union-attr]
        until(lambda: machine.ask() == "nobody")
        look_until(serving, machine, "1")
    told = [record.message for record in caplog.records if "torn.json" in record.message]
    assert len([message for message in told if "the rollout" in message]) == 1


def test_a_fault_of_ours_is_told_once_and_the_rest_goes_on(
    serving: RolloutServing, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    look_until(serving, machine, "1")
    serving.rollouts.put_model(document())
    canary = {"strategy": {"kind": "canary", "steps": [{"weight": 50}]}}
    serving.rollouts.create(wanted("second", rollout=canary))
    with caplog.at_level(logging.ERROR, "evergrow.rollouts"):
        until(lambda: serving.look() or "Progressing" in {e.reason for e in serving.rollouts.events("delays")}, 60)  # type: ignore[func-returns-value]
        for _ in range(5):
            serving.look()
    assert len([one for one in caplog.records if one.exc_info]) == 1
    assert {machine.ask() for _ in range(40)} == {"1", "2"}


def test_a_route_comes_back_once_its_servers_are_ready_and_the_champion_answers_until_then(
    serving: RolloutServing, machine: Machine
) -> None:
    look_until(serving, machine, "1")
    serving.fleet.ensure("delays", 2, 1)
    until(lambda: set(serving.fleet.ready("delays")) == {1, 2})
    serving.gateway.apply(Route(model="delays", weights={1: 0, 2: 100}, warm=(1, 2)))
    serving.stop()
    (machine.root / "versions" / "2" / "unready").touch()
    again = machine.serving()
    break_controller(again)
    again.gateway.start()
    try:
        again.look()
        assert machine.ask() == "503"
        assert again.gateway.counts(2).requests == 0
        again.fleet.ensure("delays", 1, 1)
        look_until(again, machine, "1")
    finally:
        again.stop()


def test_what_served_before_serves_again_after_a_restart_whatever_becomes_of_the_controller(
    serving: RolloutServing, machine: Machine
) -> None:
    look_until(serving, machine, "1")
    serving.stop()
    again = machine.serving()
    break_controller(again)
    again.gateway.start()
    try:
        look_until(again, machine, "1")
    finally:
        again.stop()


def test_a_server_that_must_listen_elsewhere_is_found_there(serving: RolloutServing, machine: Machine) -> None:
    look_until(serving, machine, "1")
    break_controller(serving)
    port = serving.fleet.backends[1].http_port
    serving.fleet._servers[1].process.kill()
    serving.fleet._servers[1].process.wait()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        look_until(serving, machine, "1")
        assert serving.fleet.backends[1].http_port != port


def test_it_serves_until_it_is_told_to_stop_and_leaves_nobody_behind(machine: Machine) -> None:
    serving, told = machine.serving(), threading.Event()
    threading.Timer(0.0, lambda: (until(lambda: machine.ask() == "1", 60), told.set())).start()
    serving.run(told.is_set)
    assert machine.ask() == "nobody"
    assert (serving.fleet.processes(), serving.gateway.running) == ({}, False)
    assert serving._shipping is not None
    assert serving._shipping.poll() is not None
    assert served_by(machine.home, "delays") is None


def test_a_port_that_is_taken_is_told_and_nobody_is_left_behind(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts_local, "PORT_SECONDS", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", machine.listener.port))
        taken.listen()
        serving = machine.serving()
        with pytest.raises(ServingError, match=str(machine.listener.port)):
            serving.run(lambda: False)
    assert (serving.fleet.processes(), serving.gateway.running) == ({}, False)


def test_where_nothing_is_prepared_there_is_nothing_to_serve(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for version in (1, 2):
        (machine.root / "versions" / str(version) / "serving.json").unlink()
    with pytest.raises(ServingError, match="delays: no version is prepared"):
        machine.serving().run(lambda: False)
