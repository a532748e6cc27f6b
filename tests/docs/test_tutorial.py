"""The tutorial is followed to the letter, in a copy of the repository."""

import os
import shutil
import socket
import subprocess
import sys
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
    promotion = "registry.promote(version,"
    (script,) = [block.text for block in blocks(ROOT / "docs/how-to/roll-back.md") if block.language == "python"]
    other = 'registry.promote(registry.resolve(model.name, "2"), "it looked better", datetime.now(UTC))'
    script = script.replace(promotion, f"{other}\n{promotion}")

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment(root), capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(root / ".evergrow/serving/tickets/versions/1")
    assert "rolled back by hand" in (root / ".evergrow/audit/audit.jsonl").read_text(encoding="utf-8")
