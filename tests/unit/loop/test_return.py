"""Which versions their rollouts have sent back, by what is known of rollouts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.loop.ports import Return
from evergrow.rollout.attempt import Attempt
from evergrow.spec.model import API_VERSION
from evergrow.spec.rollout import ModelRollout, Phase, RolloutSpec, RolloutStatus
from tests.unit.loop.test_local_world import world

ENDED = datetime(2024, 3, 9, tzinfo=UTC)


def attempt(name: str, phase: Phase, *candidates: int, winner: int | None = None) -> Attempt:
    over = phase in ("Promoted", "Aborted", "Superseded")
    status = RolloutStatus(phase=phase, winner=winner, ended=ENDED if over else None, reason=f"{phase}, as it was told")
    spec = RolloutSpec(model="toy-demand", candidates=candidates)
    head = {"apiVersion": API_VERSION, "kind": "ModelRollout", "metadata": {"name": name}}
    return Attempt(ModelRollout(**head, spec=spec, status=status))


def test_an_aborted_rollout_sends_its_version_back_and_no_other() -> None:
    tried = [attempt("a", "Promoted", 2, winner=2), attempt("b", "Aborted", 3)]
    assert Return.of(tried, 3) == Return(at=ENDED, reason="Aborted, as it was told")
    assert [Return.of(tried, version) for version in (1, 2, 4)] == [None] * 3


@pytest.mark.parametrize("phase", ["Pending", "Progressing", "Paused", "Superseded"])
def test_what_has_not_ended_or_made_way_for_a_later_one_sends_nothing_back(phase: Phase) -> None:
    assert Return.of([attempt("a", phase, 3)], 3) is None


def test_of_a_bandits_candidates_those_that_did_not_win_are_sent_back() -> None:
    tried = [attempt("a", "Promoted", 3, 4, winner=4)]
    assert [Return.of(tried, version) is None for version in (3, 4)] == [False, True]


def test_the_newest_rollout_of_a_version_counts() -> None:
    aborted, promoted = attempt("a", "Aborted", 3), attempt("b", "Promoted", 3, winner=3)
    assert Return.of([aborted, promoted], 3) is None
    assert Return.of([promoted, aborted], 3) is not None


def test_on_one_machine_it_is_told_by_its_files(tmp_path: Path) -> None:
    files, local = RolloutFiles(tmp_path), world(tmp_path)
    assert local.sent_back(3) is None
    begun = attempt("toy-demand-v3", "Pending", 3)
    files.create(begun.document)
    assert local.sent_back(3) is None
    files.write(files.attempts("toy-demand")[0], attempt("toy-demand-v3", "Aborted", 3).status)
    assert local.sent_back(3) == Return(at=ENDED, reason="Aborted, as it was told")
