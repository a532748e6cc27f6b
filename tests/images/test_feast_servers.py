"""Feast's servers as their image starts them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pandas as pd
import pytest

import evergrow.integrations.feast as feast_integration
from benchmarks.serving_world import free_port, wait_for_port
from components.feast import __main__ as entrypoint
from components.feast.__main__ import main, read_only
from evergrow.environment import Environment
from evergrow.integrations.feast import FeastStore
from tests.images.dockerfiles import ROOT


@dataclass
class RecordedStore:
    """Stands in for Feast's object: writes down how it is told to serve."""

    asked: dict = field(default_factory=dict)

    @property
    def feast(self):
        return self

    def serve(self, **options):
        self.asked["serve"] = options


@pytest.fixture
def recorded(monkeypatch):
    store = RecordedStore()
    monkeypatch.setattr(feast_integration, "FeastStore", lambda environment: store)
    monkeypatch.setattr(entrypoint, "serve_pages", lambda _, options: store.asked.update(ui=vars(options)))
    return store


def test_without_options_each_server_listens_on_every_address_at_feasts_own_port(recorded):
    assert main(["serve"]) == main(["ui"]) == 0
    assert recorded.asked["serve"] == {"host": "0.0.0.0", "port": 6566, "workers": 1, "max_requests": 0}
    assert recorded.asked["ui"] == {"server": "ui", "host": "0.0.0.0", "port": 8888, "root_path": ""}


def test_options_reach_the_server_that_they_are_of(recorded):
    assert main(["serve", "--host", "127.0.0.1", "--port", "1", "--workers", "3"]) == 0
    assert main(["ui", "--port", "2", "--root-path", "/feast"]) == 0
    assert recorded.asked["serve"] == {"host": "127.0.0.1", "port": 1, "workers": 3, "max_requests": 0}
    assert recorded.asked["ui"] == {"server": "ui", "host": "0.0.0.0", "port": 2, "root_path": "/feast"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "serve | ui"),
        (["apply"], "invalid choice: 'apply'"),
        (["ui", "--workers", "2"], "unrecognized arguments: --workers 2"),
        (["serve", "--workers", "0"], "must be a whole number from 1 on, found '0'"),
        (["serve", "--port", "http"], "must be a whole number from 1 on, found 'http'"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_serves_nothing(arguments, message, recorded, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert recorded.asked == {}


def test_a_store_whose_address_is_not_set_is_told_by_the_variables_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EVERGROW_ENV", "cluster")
    monkeypatch.setenv("EVERGROW_HOME", str(tmp_path))
    monkeypatch.setenv("EVERGROW_FEATURE_REPO", str(ROOT / "feature_repo"))
    for variable in ("FEAST_REGISTRY_URL", "FEAST_REDIS"):
        monkeypatch.delenv(variable, raising=False)
    assert main(["serve"]) == 4
    assert "variable FEAST_REGISTRY_URL is not set" in capsys.readouterr().err


async def pages(scope, receive, send):
    """Stands in for Feast's application: answers whatever it is asked."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 200), ("HEAD", 200), ("POST", 405), ("PUT", 405), ("PATCH", 405), ("DELETE", 405), ("OPTIONS", 405)],
)
def test_the_user_interface_shows_and_changes_nothing(method, status):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(read_only(pages)({"type": "http", "method": method, "path": "/api/v1/entities"}, None, send))
    assert [message.get("status") for message in sent] == [status, None]
    assert (sent[1]["body"] == b"done") == (status == 200)


def test_what_is_no_request_reaches_the_user_interface():
    """Its start and its end are events, too."""
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(read_only(application)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


@pytest.fixture
def places(tmp_path):
    """A registry in which the toy model's features are applied, and one station's are online."""
    places = {"EVERGROW_HOME": str(tmp_path), "EVERGROW_FEATURE_REPO": str(ROOT / "tests/toy_model/toy_features")}
    store = FeastStore(Environment.read(places))
    store.apply()
    now = pd.Timestamp.now("UTC")
    row = {"station": ["a"], "last_count": [7.0], "mean_24h": [2.5]}
    store.feast.write_to_online_store(
        "station_demand", pd.DataFrame({**row, "event_timestamp": [now], "created_timestamp": [now]})
    )
    return places


def ask(port, features):
    """Values by name: Feast answers in an order of its own."""
    body = json.dumps({"features": features, "entities": {"station": ["a", "b"]}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/get-online-features", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    return dict(zip(found["metadata"]["feature_names"], (c["values"] for c in found["results"]), strict=True))


def test_the_feature_server_answers_with_what_is_online_and_ends_when_told_to(places):
    port = free_port()
    command = [sys.executable, "-m", "components.feast", "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **places, "HOME": places["EVERGROW_HOME"]})
    try:
        wait_for_port(port, process)
        features = ["station_demand:last_count", "station_demand:mean_24h"]
        expected = {"station": ["a", "b"], "last_count": [7.0, None], "mean_24h": [2.5, None]}
        assert ask(port, features) == expected
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30).status == 200
        with pytest.raises(urllib.error.HTTPError):
            ask(port, ["station_demand:no_such_feature"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
