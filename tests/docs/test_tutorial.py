"""The tutorial is followed to the letter, in a copy of the repository."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs/tutorial/your-own-model.md"


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """What was printed: each block's files written, each block's commands run in one shell that stops at an error."""
    root = scratch_copy(tmp_path_factory.mktemp("tutorial"))
    script, port = ["set -euo pipefail"], str(free_port())
    for block in blocks(PAGE):
        if block.file:
            place = root / block.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            script.append(block.text.replace("8080", port))
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout


def scratch_copy(root: Path) -> Path:
    """The packages, without what tests and runs left."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".evergrow")
    for name in ("evergrow", "components", "pipelines", "models", "feature_repo"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    return root


def environment(root: Path) -> dict[str, str]:
    """A shell with the virtual environment activated, whose code is the copy's."""
    own = {"EVERGROW_HOME": str(root / ".evergrow"), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGROW_", "MLFLOW_"))}
    return {**kept, **own, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_of_the_tutorial_works(followed):
    root, said = followed

    assert "verdict: pass" in said
    assert "verdict: inconclusive" in said
    assert "made without" in said
    assert list((root / ".evergrow/reports/tickets").glob("*/report.html"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_leaks_into_the_tutorials_model(followed):
    root, _ = followed
    pages = list((root / ".evergrow/reports/tickets").glob("*/exploration.html"))

    assert len(pages) == 2
    assert all("No leakage suspects" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_version_is_put_back_into_service_as_the_how_to_says(followed):
    root, _ = followed
    # Version 1 is the champion: something else must be, to roll back from.
    prepared = subprocess.run([sys.executable, "-c", PREPARE], cwd=root, env=environment(root), capture_output=True)
    assert prepared.returncode == 0, prepared.stderr.decode()
    told = (ROOT / "docs/how-to/roll-back.md").read_text(encoding="utf-8")
    assert "evergrow rollback arrival-delay\n" in told
    assert "--rollout" in told

    with (root / "serve.log").open("wb") as log:
        serve = [sys.executable, "-m", "evergrow", "serve", "tickets", "--rollout", "--port", str(free_port())]
        serving = subprocess.Popen(serve, cwd=root, env=environment(root), stdout=log, stderr=log)
        try:
            document = "models/tickets/model.yaml"
            evergrow(
                root, "rollout", "start", "tickets", "--version", "2", "-f", document, "--reason", "it looked better"
            )
            until_served(root, 2)
            assert "tickets goes back to version 1, which is warm" in evergrow(root, "rollback", "tickets")
            until_served(root, 1)
        finally:
            serving.terminate()
    assert serving.wait(60) == 0, (root / "serve.log").read_text()
    audit = (root / ".evergrow/audit/audit.jsonl").read_text(encoding="utf-8")
    assert "it looked better" in audit
    assert "rolled back to version 1" in audit


PREPARE = """
import json
from evergrow.environment import Environment
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.serving import LocalServing
from evergrow.spec import load

model, environment = load("models/tickets/model.yaml"), Environment.read()
registry, place = MlflowRegistry(environment), environment.serving(model.name)
plan = json.loads((place / "versions/1/features.json").read_text())
version = registry.resolve(model.name, "2")
LocalServing(place, model, plan).prepare(version, registry.fetch(version, place / "fetched"))
"""


def evergrow(root, *arguments):
    command = [sys.executable, "-m", "evergrow", *arguments]
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until_served(root, version):
    wanted, end = root / f".evergrow/serving/tickets/versions/{version}", time.monotonic() + 120
    while (root / ".evergrow/serving/tickets/current").resolve() != wanted.resolve():
        assert time.monotonic() < end, (root / "serve.log").read_text()
        time.sleep(0.2)
