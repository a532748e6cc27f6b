"""A home where the toy model was trained once, by its real pipeline, and copies of it for tests that change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evergrow.cli import main
from evergrow.environment import Environment

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "tests/toy_model/model.yaml"
FIRST = "2024-03-01"


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON it printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """An environment of its own, and the command line in it."""

    environment: Environment

    @property
    def places(self) -> dict[str, str]:
        """Environment variables by which the command finds it."""
        return {
            "EVERGROW_HOME": str(self.environment.home),
            "EVERGROW_FEATURE_REPO": str(self.environment.feature_repo),
            "MLFLOW_TRACKING_URI": self.environment.tracking_uri,
            "OMP_NUM_THREADS": "1",
        }

    def evergrow(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Told:
        """Run the command as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "evergrow", *arguments],
            env={**os.environ, **self.places, **(variables or {})},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return Told(done.returncode, done.stdout, done.stderr)

    def run(self, pipeline: str, as_of: str, *more: str, file: Path = DOCUMENT, **options: Any) -> Told:
        """Run a pipeline; its summary is `value`."""
        return self.evergrow("run", pipeline, "-f", str(file), "--as-of", as_of, "-o", "json", *more, **options)


def new_world(home: Path) -> World:
    """An empty one."""
    places = {"EVERGROW_HOME": str(home), "EVERGROW_FEATURE_REPO": str(ROOT / "tests/toy_model/toy_features")}
    return World(Environment.read(places))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """What the command says that is refused at once: of this process, for nothing is started by it."""

    def run(world: World, *arguments: str) -> Told:
        monkeypatch.chdir(ROOT)
        for name, value in world.places.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Told(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The toy model trained as of the first of March."""
    world = new_world(tmp_path_factory.mktemp("world"))
    told = world.run("training", FIRST)
    assert told.code == 0, told.err
    assert told.value["verdict"]["outcome"] == "pass", told.value["verdict"]
    return world
