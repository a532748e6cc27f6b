"""The command line in an empty home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evergrow.cli import main
from tests.builders import document


class Told(NamedTuple):
    code: int
    out: str
    err: str


Evergrow = Callable[..., Told]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGROW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERGROW_ACTOR", "ada")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.fixture
def evergrow(capsys: pytest.CaptureFixture[str], home: Path) -> Evergrow:
    def run(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Told(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a document whose retraining is given; returns its path."""

    def written(**retraining: Any) -> str:
        dumped = document().dump()
        dumped["spec"]["retraining"] = retraining
        path = tmp_path / "model.yaml"
        path.write_text(yaml.safe_dump(dumped))
        return str(path)

    return written
