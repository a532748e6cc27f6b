"""Deploying here: whole directories and one link, whatever is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evergrow.contracts import ModelVersion
from evergrow.integrations.serving import LocalServing, served
from evergrow.learning.bundle import bundle_digest
from tests.builders import document
from tests.unit.integrations.builders import make_bundle


def version(number: int, bundle: Path) -> ModelVersion:
    return ModelVersion(
        model="delays",
        version=number,
        identity="i",
        model_digest=bundle_digest(bundle),
        run_id="r",
        created=datetime(2024, 1, 1, tzinfo=UTC),
    )


def deploy(root: Path, number: int, bundle: Path, plan: str = "a") -> Path:
    return Path(LocalServing(root, document(), {"plan": plan}).deploy(version(number, bundle), bundle))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def test_nothing_is_served_before_the_first_deployment(root: Path) -> None:
    assert served(root) is None


def test_what_is_deployed_is_what_a_server_needs(root: Path, bundle: Path) -> None:
    directory = deploy(root, 3, bundle)
    assert (root / "current").resolve() == directory == root / "versions" / "3"
    assert bundle_digest(directory / "bundle") == bundle_digest(bundle)
    assert json.loads((directory / "features.json").read_text()) == {"plan": "a"}
    about = served(root)
    assert about is not None
    assert (about["model"], about["version"]) == ("delays", 3)
    assert (about["serving"]["onMissing"], about["serving"]["maxBatch"]) == ("flag", 1000)
    assert about["serving"]["log"]["durability"] == "group"


def test_the_next_version_takes_over_and_the_old_one_stays_on_disk(root: Path, bundle: Path) -> None:
    first, second = deploy(root, 1, bundle), deploy(root, 2, bundle)
    assert (root / "current").resolve() == second
    assert first.is_dir()


def test_deploying_again_changes_nothing(root: Path, bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in deploy(root, 1, bundle).rglob("*")}
    after = {path: path.stat().st_mtime_ns for path in deploy(root, 1, bundle).rglob("*")}
    assert before == after


def test_a_version_served_with_another_plan_gets_a_directory_of_its_own(root: Path, bundle: Path) -> None:
    first, second = deploy(root, 1, bundle, "a"), deploy(root, 1, bundle, "b")
    assert json.loads((first / "features.json").read_text()) == {"plan": "a"}
    assert json.loads((root / "current" / "features.json").read_text()) == {"plan": "b"}
    assert deploy(root, 1, bundle, "b") == second


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.integrations.test_serving import deploy

left = int(sys.argv[1])

def watch(event, arguments):
    # Every call by which a directory changes: files opened for writing, renames, links.
    global left
    written = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
    if (written or event in ("os.rename", "os.symlink", "os.mkdir")) and str(arguments[0]).startswith(sys.argv[2]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
deploy(Path(sys.argv[2]), 2, Path(sys.argv[3]))
"""


def test_a_deployment_killed_anywhere_leaves_the_old_version_or_the_new_one_and_is_completed_by_the_next(
    root: Path, tmp_path: Path
) -> None:
    old, new = make_bundle(tmp_path / "old", seed=1), make_bundle(tmp_path / "new", seed=2)
    deploy(root, 1, old)
    killed = seen = 0
    while True:
        done = subprocess.run([sys.executable, "-c", KILLED, str(killed), str(root), str(new)], check=False)
        about = served(root)
        assert about is not None
        expected = {1: bundle_digest(old), 2: bundle_digest(new)}[about["version"]]
        assert bundle_digest(root / "current" / "bundle") == about["model_digest"] == expected
        if done.returncode == 0:
            break
        seen += about["version"] == 1
        killed += 1
    assert seen == killed >= 8
    assert about["version"] == 2
