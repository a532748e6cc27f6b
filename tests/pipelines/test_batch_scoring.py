"""Batch scoring is complete or not marked complete: nothing lost, nothing twice, the same bytes again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from evergrow.environment import Environment
from tests.pipelines.conftest import World

pytestmark = pytest.mark.slow

AS_OF = "2024-03-05"
# Three stations, every hour of the day that follows.
EXPECTED = {
    (station, pd.Timestamp(AS_OF, tz="UTC") + pd.Timedelta(hours=hour))
    for station in ("east", "north", "west")
    for hour in range(1, 25)
}

# Imported by every Python that finds it on its path: ends the process that is about to put part 1 in place.
KILLER = """
import os, signal, sys
def watch(event, arguments):
    if event == "os.rename" and "part-00001" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


@pytest.fixture
def copy(world: World, tmp_path: Path) -> World:
    """The trained world before anything was scored. MLflow keeps absolute places, which stay where they were."""
    home = tmp_path / "home"
    shutil.copytree(world.environment.home, home, ignore=shutil.ignore_patterns("runs", "predictions"))
    registry = f"sqlite:///{world.environment.home}/mlflow/mlflow.db"
    return World(Environment(home=home, feature_repo=world.environment.feature_repo, tracking_uri=registry))


def folder(world: World) -> Path:
    return world.environment.predictions("toy-demand") / "as_of=2024-03-05T000000Z"


def rows(world: World) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(part) for part in sorted(folder(world).glob("part-*.parquet"))])


def digests(world: World) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder(world).iterdir()}


def keys(frame: pd.DataFrame) -> list[tuple[str, pd.Timestamp]]:
    return list(zip(frame["station"], frame["event_timestamp"], strict=True))


def test_every_upcoming_row_is_scored_once_by_the_champion(copy: World) -> None:
    told = copy.run("batch_scoring", AS_OF)
    assert told.code == 0, told.err
    scored = rows(copy)
    assert sorted(keys(scored)) == sorted(EXPECTED)
    assert scored["score"].between(0, 1).all()
    assert set(scored["version"]) == {1}
    assert not {"busy", "known_at"} & set(scored.columns)
    manifest = json.loads((folder(copy) / "_SUCCESS").read_text())
    assert manifest["rows"] == len(EXPECTED) == sum(manifest["parts"].values())
    assert min(manifest["parts"].values()) > 0


def test_a_shard_killed_midway_loses_nothing_and_another_run_completes_to_the_same_bytes(
    copy: World, tmp_path: Path
) -> None:
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(KILLER)
    told = copy.run("batch_scoring", AS_OF, variables={"PYTHONPATH": str(tmp_path / "killer")})
    assert told.code == 6
    assert "step score: its process ended without a word" in told.err
    assert not (folder(copy) / "_SUCCESS").exists()
    assert not (folder(copy) / "part-00001.parquet").exists()

    assert copy.run("batch_scoring", AS_OF).code == 0
    assert sorted(keys(rows(copy))) == sorted(EXPECTED)
    completed = {name: value for name, value in digests(copy).items() if not name.startswith(".")}

    assert copy.evergrow("score", "-f", "tests/toy_model/model.yaml", "--as-of", AS_OF).code == 0
    assert {name: value for name, value in digests(copy).items() if not name.startswith(".")} == completed


def test_a_part_of_an_earlier_run_with_more_shards_does_not_stay(copy: World, tmp_path: Path) -> None:
    text = Path("tests/toy_model/model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(text.replace("shards: 2", "shards: 3"))
    assert copy.run("batch_scoring", AS_OF, file=tmp_path / "model.yaml").code == 0
    assert len(list(folder(copy).glob("part-*"))) == 3
    assert copy.run("batch_scoring", AS_OF).code == 0
    assert len(list(folder(copy).glob("part-*"))) == 2
    assert sorted(keys(rows(copy))) == sorted(EXPECTED)


def test_nothing_to_score_is_an_error_that_says_what_there_is(copy: World) -> None:
    told = copy.run("batch_scoring", "2025-01-01")
    assert told.code == 3
    assert "no example is to be predicted" in told.err
