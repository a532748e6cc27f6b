"""How a version that passed its gate comes into service: at once, or by a rollout that somebody carries out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.deploy.step import Deployment, check_strategy
from evergrow.contracts import EvaluationReport, ModelVersion, Verdict
from evergrow.errors import RolloutError, SpecError
from evergrow.integrations.memory import FixedClock, MemoryTraffic
from evergrow.integrations.memory_rollouts import MemoryChampions, MemoryFleet, MemoryRollouts, MemoryWitness
from evergrow.rollout.asking import APPROVAL, asked_for, carried_out
from evergrow.rollout.attempt import TRAINED_ON
from evergrow.rollout.control import Controller
from evergrow.spec import ContinualModel, load
from tests.pipelines.conftest import DOCUMENT

NOW = datetime(2024, 3, 1, tzinfo=UTC)


def document(kind: str = "single", **rollout: Any) -> ContinualModel:
    dumped = load(DOCUMENT).dump()
    dumped["spec"]["rollout"] = {"strategy": {"kind": kind}, **rollout}
    return ContinualModel.model_validate(dumped)


NAME = document().name


def version(number: int) -> ModelVersion:
    return ModelVersion(
        model=NAME, version=number, identity=f"{number}" * 64, model_digest="a" * 64, run_id="r", created=NOW
    )


def judged(reason: str = "loss 0.2 against 0.3") -> EvaluationReport:
    return EvaluationReport.model_construct(
        model=NAME, as_of=NOW, verdict=Verdict(outcome="pass", reason=reason), champion="1"
    )


class World:
    """A registry, servers and rollouts that remember what was done to them, in order."""

    where = "there"

    def __init__(self) -> None:
        self.done: list[str] = []
        self.rollouts = MemoryRollouts()
        self.champion: int | None = 1

    def publish(self, version: ModelVersion, bundle: Path) -> None:
        self.done.append(f"publish {version.version}")

    def prepare(self, version: ModelVersion, bundle: Path) -> None:
        self.done.append(f"prepare {version.version}")

    def deploy(self, version: ModelVersion, bundle: Path) -> str:
        self.done.append(f"serve {version.version}")
        return self.where

    def promote(self, version: ModelVersion, reason: str, now: datetime) -> ModelVersion:
        self.done.append(f"promote {version.version}")
        self.champion = version.version
        return version

    def deployment(self, document: ContinualModel, rollouts: bool = True) -> Deployment:
        kept = self.rollouts if rollouts else None
        return Deployment(document, version(2), judged(), Path("bundle"), self, kept)  # type: ignore[arg-type]

    def put(self, document: ContinualModel, rollouts: bool = True) -> str:
        champion = None if self.champion is None else version(self.champion)
        return self.deployment(document, rollouts).put_into_service(self, champion)  # type: ignore[arg-type]


def test_a_version_that_needs_no_evidence_is_served_at_once_and_its_rollout_is_on_record():
    world = World()
    assert world.put(document()) == "there"

    assert world.done == ["prepare 2", "promote 2", "serve 2"]
    (attempt,) = world.rollouts.attempts(NAME)
    assert (attempt.status.phase, attempt.status.winner, attempt.status.stable) == ("Promoted", 2, 1)
    assert attempt.status.recorded is not None
    assert attempt.document.metadata.annotations[TRAINED_ON] == NOW.isoformat()
    assert attempt.document.spec.reason == "loss 0.2 against 0.3"


def test_the_first_version_has_nothing_to_be_compared_with():
    world = World()
    world.champion = None
    check_strategy(document("canary"), None)
    world.put(document("canary"))

    assert world.rollouts.attempts(NAME)[0].status.stable is None


def test_run_again_it_changes_nothing():
    world = World()
    world.put(document())
    before = world.rollouts.attempts(NAME)
    world.put(document())

    assert world.rollouts.attempts(NAME) == before


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_killed_anywhere_and_run_again_it_is_served_and_on_record(dies_at):
    world, actions = World(), 0

    class Killed(BaseException):
        pass

    class Mortal:
        def __init__(self, target: Any) -> None:
            self.target = target

        def __getattr__(self, name: str) -> Any:
            nonlocal actions
            actions += 1
            if actions == dies_at:
                raise Killed
            return getattr(self.target, name)

    mortal: Any = Mortal(world)
    kept: Any = Mortal(world.rollouts)
    with pytest.raises(Killed):
        Deployment(document(), version(2), judged(), Path("bundle"), mortal, kept).put_into_service(mortal, version(1))
    assert (world.champion == 2) <= bool(world.rollouts.attempts(NAME))
    world.put(document())

    (attempt,) = world.rollouts.attempts(NAME)
    assert (attempt.status.phase, attempt.status.stable) == ("Promoted", 1)
    assert attempt.status.recorded is not None
    assert (world.champion, world.done[-1]) == (2, "serve 2")


@pytest.mark.parametrize("kind", ["shadow", "canary", "blue-green", "ab-test", "bandit"])
def test_a_version_that_needs_evidence_is_only_asked_for_and_once(kind):
    world = World()
    assert world.deployment(document(kind)).ask() == "there"
    world.deployment(document(kind)).ask()

    assert world.done == ["publish 2", "publish 2"]
    assert world.rollouts.model(NAME) == document(kind)
    (attempt,) = world.rollouts.attempts(NAME)
    assert not attempt.begun
    assert attempt.document == asked_for(2, judged())


@pytest.mark.parametrize("kind", ["shadow", "canary", "blue-green", "ab-test", "bandit"])
def test_where_nobody_carries_rollouts_out_more_evidence_is_refused_and_told_why(kind):
    with pytest.raises(SpecError, match=rf"spec\.rollout\.strategy\.kind: must be single.*found {kind}"):
        check_strategy(document(kind), version(1))
    check_strategy(document(), version(1))


def test_another_evaluation_of_the_same_version_is_another_rollout():
    assert asked_for(2, judged()).name == asked_for(2, judged()).name
    assert asked_for(2, judged()).name != asked_for(2, judged("loss 0.1 against 0.3")).name


def test_where_an_approval_is_asked_for_it_is_not_waited_for():
    world = World()
    deployment = replace(world.deployment(document()), approval=True)
    assert deployment.ask_and_wait(lambda _: pytest.fail("it must not wait")) == "there"
    (attempt,) = world.rollouts.attempts(NAME)
    assert (attempt.order, attempt.ordered_by) == ("pause", APPROVAL)
    assert world.done == ["publish 2"]


def carried_out_by(world: World, ready: bool) -> Any:
    """What an operator does while the step sleeps."""
    fleet, clock = MemoryFleet({1: 1}), FixedClock(NOW)
    if not ready:
        fleet.broken.add(2)
    champions = MemoryChampions(1)
    controller = Controller(world.rollouts, fleet, MemoryTraffic([1, 2]), MemoryWitness(), champions, clock)

    def sleep(seconds: float) -> None:
        controller.reconcile(NAME)
        fleet.settle()
        clock.move_to(clock.now().replace(hour=clock.now().hour + 1))

    return sleep


def test_an_operators_rollout_that_needs_no_evidence_is_waited_for():
    world = World()
    assert world.deployment(document()).ask_and_wait(carried_out_by(world, ready=True)) == "there"
    assert world.rollouts.attempts(NAME)[0].status.phase == "Promoted"


def test_a_candidate_that_does_not_become_ready_fails_the_step_and_says_why():
    world = World()
    with pytest.raises(RolloutError, match="was aborted: version 2 not ready after 10m"):
        world.deployment(document()).ask_and_wait(carried_out_by(world, ready=False))


def test_what_takes_days_is_not_waited_for():
    world = World()

    def never(seconds: float) -> None:
        raise AssertionError

    world.deployment(document("canary")).ask_and_wait(never)


def test_what_was_carried_out_at_once_is_known_as_by_the_state_machine():
    status = carried_out(asked_for(2, judged()), 1, NOW)
    assert (status.phase, status.weights, status.winner, status.stable, status.ended) == (
        "Promoted", {"2": 100}, 2, 1, NOW,
    )  # fmt: skip
