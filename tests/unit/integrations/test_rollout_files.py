"""Rollouts in files: the laws of the port, and what two processes and a kill do to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import ConflictError, RolloutError, SpecError
from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.rollout.attempt import REQUESTED, Attempt
from evergrow.spec import parse
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import ModelRollout, RolloutStatus
from tests.builders import document

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def wanted(name: str, model: str = "delays", version: int = 2, rollout: dict[str, Any] | None = None) -> ModelRollout:
    return parse(
        {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": name},
            "spec": {"model": model, "candidates": [version], "rollout": rollout},
        },
        kind=ModelRollout,
    )


class Ticking:
    """A clock that is set by whoever wants to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def rollouts(tmp_path: Path, clock: Ticking) -> RolloutFiles:
    return RolloutFiles(tmp_path, clock)


def only(rollouts: RolloutFiles) -> Attempt:
    (found,) = rollouts.attempts("delays")
    return found


# -- documents --


def test_a_folder_that_is_not_there_has_nothing(rollouts: RolloutFiles) -> None:
    assert (rollouts.models(), rollouts.model("delays"), list(rollouts.attempts("delays"))) == ([], None, [])
    assert rollouts.events("delays") == []


def test_a_models_document_is_read_as_it_was_put_and_replaced(rollouts: RolloutFiles) -> None:
    rollouts.put_model(document())
    assert rollouts.model("delays") == document()
    rollouts.put_model(document(gate={"margin": 0.5}))
    assert rollouts.model("delays") == document(gate={"margin": 0.5})
    assert rollouts.models() == ["delays"]


def test_a_file_is_the_document_that_a_cluster_would_have(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    found = only(rollouts)
    read = json.loads((rollouts.folder("delays") / "first.json").read_text())
    assert read == found.document.dump()
    assert read["spec"]["requestedBy"] == ""


def test_what_is_reported_is_written_once(rollouts: RolloutFiles) -> None:
    rollouts.report("delays", ModelStatus(phase="Serving", serving=3))
    path = rollouts.folder("delays") / "model.status.json"
    assert json.loads(path.read_text())["serving"] == 3
    before = path.stat().st_ino
    rollouts.report("delays", ModelStatus(phase="Serving", serving=3))
    assert path.stat().st_ino == before
    rollouts.report("delays", ModelStatus(phase="Serving", serving=4))
    assert json.loads(path.read_text())["serving"] == 4


def test_what_lies_beside_attempts_is_no_attempt(rollouts: RolloutFiles) -> None:
    rollouts.put_model(document())
    rollouts.report("delays", ModelStatus())
    rollouts.create(wanted("first"))
    rollouts.tell(only(rollouts), "Started", "so")
    (rollouts.folder("delays") / ".second.json.aside").write_text("{")
    assert only(rollouts).name == "first"


def test_an_attempt_cannot_take_the_documents_file(rollouts: RolloutFiles) -> None:
    rollouts.put_model(document())
    with pytest.raises(SpecError, match="must not be 'model'"):
        rollouts.create(wanted("model"))
    assert rollouts.model("delays") == document()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "ModelRollout"}', "\xff"])
def test_a_file_that_cannot_be_read_is_told_and_stops_only_its_model(rollouts: RolloutFiles, content: str) -> None:
    rollouts.create(wanted("other", "bikes"))
    rollouts.create(wanted("first"))
    (rollouts.folder("delays") / "first.json").write_text(content, encoding="latin-1")
    with pytest.raises(SpecError, match=r"first\.json"):
        rollouts.attempts("delays")
    assert [one.name for one in rollouts.attempts("bikes")] == ["other"]


def test_an_instant_that_is_none_is_told(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    path = rollouts.folder("delays") / "first.json"
    path.write_text(path.read_text().replace(NOW.isoformat(), "yesterday"))
    with pytest.raises(SpecError, match="must be ISO 8601, found 'yesterday'"):
        rollouts.attempts("delays")


# -- attempts --


def test_no_two_attempts_of_a_model_have_one_name(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    with pytest.raises(ConflictError, match="first"):
        rollouts.create(wanted("first", version=3))
    rollouts.create(wanted("first", "bikes"))
    assert only(rollouts).document.spec.candidates == (2,)


@given(st.lists(st.integers(-5, 5), max_size=6))
def test_attempts_come_in_the_order_they_were_asked_for_whatever_the_clock_does(steps: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = Ticking()
        rollouts = RolloutFiles(Path(folder), clock)
        names = [f"r{chr(122 - i)}" for i in range(len(steps))]  # against the alphabet
        for name, seconds in zip(names, steps, strict=True):
            clock.now += timedelta(seconds=seconds)
            rollouts.create(wanted(name))
        assert [one.name for one in rollouts.attempts("delays")] == names


def test_what_somebody_put_there_by_hand_counts_as_older(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    (rollouts.folder("delays") / "zzz.json").write_text(json.dumps(wanted("zzz").dump()))
    assert [one.name for one in rollouts.attempts("delays")] == ["zzz", "first"]
    assert REQUESTED not in rollouts.attempts("delays")[0].document.metadata.annotations


def test_a_status_is_written_over_the_one_that_was_read(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    read = only(rollouts)
    written = rollouts.write(read, RolloutStatus(phase="Progressing", weights={"1": 90, "2": 10}))
    assert written == only(rollouts)
    assert written.status.weights == {"1": 90, "2": 10}
    with pytest.raises(ConflictError, match="has changed"):
        rollouts.write(read, RolloutStatus(phase="Aborted"))
    rollouts.write(written, RolloutStatus(phase="Promoted"))
    assert only(rollouts).status.phase == "Promoted"


def test_a_status_is_not_written_over_an_order_that_was_not_seen(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    read = only(rollouts)
    rollouts.order("delays", "first", "abort", "ada")
    with pytest.raises(ConflictError):
        rollouts.write(read, RolloutStatus(phase="Promoted"))
    assert (only(rollouts).order, only(rollouts).status) == ("abort", RolloutStatus())


def test_one_that_was_removed_is_gone(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    read = only(rollouts)
    rollouts.order("delays", "first", "abort", "ada")
    ordered = only(rollouts)
    (rollouts.folder("delays") / "first.json").unlink()
    with pytest.raises(ConflictError, match="was removed"):
        rollouts.write(read, RolloutStatus())
    with pytest.raises(RolloutError, match="delays has no rollout first"):
        rollouts.order("delays", "first", "pause", "ada")
    rollouts.fulfil(ordered)
    rollouts.release(ordered)
    assert list(rollouts.attempts("delays")) == []


def test_an_order_is_there_until_it_is_carried_out(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    assert only(rollouts).order is None
    rollouts.order("delays", "first", "pause", "ada")
    read = only(rollouts)
    assert (read.order, read.ordered_by) == ("pause", "ada")
    rollouts.write(read, RolloutStatus(phase="Paused"))
    rollouts.fulfil(read)
    assert (only(rollouts).order, only(rollouts).status.phase) == (None, "Paused")
    rollouts.fulfil(read)
    assert REQUESTED in only(rollouts).document.metadata.annotations


@pytest.mark.parametrize(("order", "by"), [("resume", "ada"), ("pause", "bob")])
def test_an_order_that_came_meanwhile_stays(rollouts: RolloutFiles, order: str, by: str) -> None:
    rollouts.create(wanted("first"))
    rollouts.order("delays", "first", "pause", "ada")
    read = only(rollouts)
    rollouts.order("delays", "first", order, by)  # type: ignore[arg-type]
    rollouts.fulfil(read)
    assert (only(rollouts).order, only(rollouts).ordered_by) == (order, by)


def test_what_was_not_ordered_when_it_was_read_is_not_fulfilled(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    read = only(rollouts)
    rollouts.order("delays", "first", "pause", "ada")
    rollouts.fulfil(read)
    assert only(rollouts).order == "pause"


# -- events --


def test_events_are_kept_in_their_order_and_the_same_is_not_told_twice_in_a_row(
    rollouts: RolloutFiles, clock: Ticking
) -> None:
    rollouts.create(wanted("first"))
    rollouts.create(wanted("second"))
    first, second = rollouts.attempts("delays")
    rollouts.tell(first, "Started", "so")
    clock.now += timedelta(seconds=1)
    rollouts.tell(first, "Started", "so")
    rollouts.tell(second, "Started", "so")
    rollouts.tell(first, "Started", "so", warning=True)
    rollouts.tell(first, "Started", "so")
    told = [(one.at, one.name, one.warning) for one in rollouts.events("delays")]
    later = NOW + timedelta(seconds=1)
    assert told == [
        (NOW, "first", False),
        (later, "second", False),
        (later, "first", True),
        (later, "first", False),
    ]


def test_a_line_that_was_cut_off_is_dropped(rollouts: RolloutFiles) -> None:
    rollouts.create(wanted("first"))
    rollouts.tell(only(rollouts), "Started", "so")
    with (rollouts.folder("delays") / "events.jsonl").open("a") as file:
        file.write('{"at": "2024')
    assert [one.reason for one in rollouts.events("delays")] == ["Started"]
    rollouts.tell(only(rollouts), "Promoted", "so")
    assert [one.reason for one in rollouts.events("delays")] == ["Started", "Promoted"]


# -- processes --

OTHER = """
import sys
from pathlib import Path
from evergrow.errors import ConflictError
from evergrow.integrations.rollout_files import RolloutFiles
rollouts, who, times = RolloutFiles(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
done = 0
while done < times:
    (found,) = rollouts.attempts("delays")
    try:
        rollouts.write(found, found.status.model_copy(update={"step": found.status.step + 1}))
        done += 1
    except ConflictError:
        pass
    rollouts.tell(found, who, str(done))
    rollouts.order("delays", "first", "pause", who)
"""


def test_processes_that_write_at_once_lose_nothing_of_each_others(rollouts: RolloutFiles, tmp_path: Path) -> None:
    rollouts.create(wanted("first"))
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    racing = [subprocess.Popen([*command, who, "25"]) for who in ("Ada", "Bob")]
    assert [one.wait(120) for one in racing] == [0, 0]
    assert only(rollouts).status.step == 50
    assert {one.reason for one in rollouts.events("delays")} == {"Ada", "Bob"}


KILLED = """
import os, signal, sys
from pathlib import Path
from evergrow.integrations.rollout_files import RolloutFiles
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
rollouts = RolloutFiles(Path(sys.argv[1]))
(found,) = rollouts.attempts("delays")
rollouts.write(found, found.status.model_copy(update={"phase": "Promoted"}))
"""


def test_a_kill_before_the_renaming_leaves_what_was_there_and_no_lock(rollouts: RolloutFiles, tmp_path: Path) -> None:
    rollouts.create(wanted("first"))
    before = only(rollouts)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(rollouts.folder("delays").glob("*.aside"))
    assert only(rollouts) == before
    rollouts.write(before, RolloutStatus(phase="Aborted"))
    assert only(rollouts).status.phase == "Aborted"
    assert not list(rollouts.folder("delays").glob("*.aside"))
