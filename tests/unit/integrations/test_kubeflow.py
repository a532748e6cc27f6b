"""Pipelines run on this machine, and a failed step's own error is what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from evergrow.environment import Environment
from evergrow.errors import DataError, EvergrowError, PipelineError
from evergrow.integrations.kubeflow import LocalRunner, Run
from evergrow.journal import Event

TOY = "tests.toy.pipeline:toy"


@pytest.fixture
def runner(tmp_path: Path) -> LocalRunner:
    return LocalRunner(Environment.read({"EVERGROW_HOME": str(tmp_path / "home")}))


def run(runner: LocalRunner, how: str, events: list[Event] | None = None) -> Run:
    return runner.run(TOY, {"how": how}, watch=(events if events is not None else []).append)


def test_a_run_tells_its_steps_as_they_happen_and_keeps_what_they_made(runner: LocalRunner) -> None:
    events: list[Event] = []
    done = run(runner, "succeed", events)
    told = [(e.step, e.what, e.text) for e in events]
    assert told[:3] == [("work", "started", ""), ("work", "noted", "asked to succeed"), ("work", "ended", "pass")]
    assert sorted(e.text for e in events if e.step == "shard" and e.what == "ended") == ["1", "4", "9"]
    assert done.returned["work"] == "pass"
    home = runner.environment.home
    assert done.artifact("work", "out").read_text() == f"succeed, home {home}"
    assert done.folder.is_relative_to(home / "runs" / "toy")


def test_a_branch_not_taken_is_not_run(runner: LocalRunner) -> None:
    assert run(runner, "doubt").returned == {"work": "fail"}


def test_a_steps_own_error_comes_out_with_its_class_message_and_hint(runner: LocalRunner) -> None:
    with pytest.raises(DataError) as caught:
        run(runner, "refuse")
    assert str(caught.value) == "step work: rows: must be at least 1, found 0 in 'O'Hare'"
    assert caught.value.hint.startswith("look at the source\nthe whole log: ")
    log = Path(caught.value.hint.rpartition(": ")[2])
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("break", "step work: ZeroDivisionError: division by zero"),
        ("die", "step work: its process ended without a word"),
    ],
)
def test_an_error_that_is_not_ours_is_a_pipeline_error(runner: LocalRunner, how: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        run(runner, how)


def test_a_step_that_cannot_even_be_imported_is_told_from_the_log(runner: LocalRunner) -> None:
    with pytest.raises(
        PipelineError, match="before or between its steps: ModuleNotFoundError: No module named 'tests.toy.nowhere'"
    ):
        runner.run("tests.toy.pipeline:unknown_step", {})


def test_a_pipeline_that_does_not_exist_is_an_error_that_names_it(runner: LocalRunner) -> None:
    with pytest.raises(EvergrowError, match="no 'nothing'"):
        runner.run("tests.toy.pipeline:nothing", {})
