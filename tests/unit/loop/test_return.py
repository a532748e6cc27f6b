"""Which versions their rollouts have sent back, by what is known of rollouts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.loop.ports import Return
from evergrow.rollout.attempt import Attempt
from evergrow.spec.model import API_VERSION
from evergrow.spec.rollout import ModelRollout, Phase, RolloutSpec, RolloutStatus
from tests.unit.loop.test_local_world import world

BEGAN, STARTED, ENDED = (datetime(2024, 3, day, tzinfo=UTC) for day in (1, 5, 9))
"""Of the training, and of its version's rollout."""


def attempt(name: str, phase: Phase, *candidates: int, winner: int | None = None) -> Attempt:
    over = phase in ("Promoted", "Aborted", "Superseded")
    started, ended = None if phase == "Pending" else STARTED, ENDED if over else None
    told = f"{phase}, as it was told"
    status = RolloutStatus(phase=phase, winner=winner, started=started, ended=ended, reason=told)
    spec = RolloutSpec(model="toy-demand", candidates=candidates)
    head = {"apiVersion": API_VERSION, "kind": "ModelRollout", "metadata": {"name": name}}
    return Attempt(ModelRollout(**head, spec=spec, status=status))


def test_an_aborted_rollout_sends_its_version_back_and_no_other() -> None:
    tried = [attempt("a", "Promoted", 2, winner=2), attempt("b", "Aborted", 3)]
    assert Return.of(tried, 3, BEGAN) == Return(at=ENDED, reason="Aborted, as it was told")
    assert [Return.of(tried, version, BEGAN) for version in (1, 2, 4)] == [None] * 3


def test_a_rollout_that_started_before_the_training_is_of_another_that_made_the_same_version() -> None:
    tried = [attempt("a", "Aborted", 3)]
    assert Return.of(tried, 3, STARTED) is not None
    assert Return.of(tried, 3, STARTED + timedelta(seconds=1)) is None
    asked_again = [*tried, attempt("b", "Pending", 3)]
    assert Return.of(asked_again, 3, BEGAN) is None


@pytest.mark.parametrize("phase", ["Pending", "Progressing", "Paused", "Superseded"])
def test_what_has_not_ended_or_made_way_for_a_later_one_sends_nothing_back(phase: Phase) -> None:
    assert Return.of([attempt("a", phase, 3)], 3, BEGAN) is None


def test_of_a_bandits_candidates_those_that_did_not_win_are_sent_back() -> None:
    tried = [attempt("a", "Promoted", 3, 4, winner=4)]
    assert [Return.of(tried, version, BEGAN) is None for version in (3, 4)] == [False, True]


def test_the_newest_rollout_of_a_version_counts() -> None:
    aborted, promoted = attempt("a", "Aborted", 3), attempt("b", "Promoted", 3, winner=3)
    assert Return.of([aborted, promoted], 3, BEGAN) is None
    assert Return.of([promoted, aborted], 3, BEGAN) is not None


def test_on_one_machine_it_is_told_by_its_files(tmp_path: Path) -> None:
    files, local = RolloutFiles(tmp_path), world(tmp_path)
    assert local.sent_back(3, BEGAN) is None
    begun = attempt("toy-demand-v3", "Pending", 3)
    files.create(begun.document)
    assert local.sent_back(3, BEGAN) is None
    files.write(files.attempts("toy-demand")[0], attempt("toy-demand-v3", "Aborted", 3).status)
    assert local.sent_back(3, BEGAN) == Return(at=ENDED, reason="Aborted, as it was told")
