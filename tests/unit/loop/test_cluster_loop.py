"""The loop on a cluster against stand-ins of it: killed at any call, run again, it comes to the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import MemoryStore

from evergrow.contracts import Spent
from evergrow.environment import Environment
from evergrow.errors import ConflictError, LoopError, StoreError
from evergrow.integrations.book_store import StoredBook
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, EVENT
from evergrow.integrations.loop_cluster import ClusterLoop, ClusterWorld, _result_name
from evergrow.integrations.loop_kubernetes import ASK, FREEZE, ModelObject
from evergrow.integrations.memory import FixedClock
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.integrations.spending import Ledger
from evergrow.integrations.submission import State, Submission, SubmittedRun
from evergrow.loop.book import Asked, Began, Decided, Ended, Entry, Froze, SentBack, Thawed
from evergrow.loop.ports import Result
from evergrow.loop.state import Wish
from evergrow.spec import ContinualModel, parse
from evergrow.spec.environment import EnvironmentSpec
from evergrow.spec.model import API_VERSION
from evergrow.spec.rollout import ModelRollout, Phase, RolloutSpec, RolloutStatus
from evergrow.triggers.history import Champion, Look
from tests.builders import document
from tests.unit.integrations.fake_cluster import FakeCluster

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NAME = "delays"
PLACE = EnvironmentSpec.model_validate(
    {
        "name": "dev",
        "execution": {"namespace": "evergrow-dev", "pipelines": {"runner": "pods"}},
        "code": {"images": {"steps": "evergrow/steps-python:1.0"}},
        "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
    }
)
DAYS = 12


class Killed(BaseException):
    """What no handler of errors catches."""


def model(**retraining: Any) -> ContinualModel:
    dumped = document().dump()
    triggers = [{"kind": "data-volume", "rows": 48}, {"kind": "asked"}]
    dumped["spec"]["retraining"] = {"triggers": triggers, "cooldown": "1d", **retraining}
    return parse(dumped)


class Fate:
    """Kills at the n-th call, before or after it does what it does."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after, self.calls = at, after, 0

    def __call__(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        mine = self.calls - 1 == self.at
        if mine and not self.after:
            raise Killed
        answer = call()
        if mine:
            raise Killed
        return answer


class MortalStore(ObjectStore):
    """An object store during each of whose calls its caller may die."""

    fate = Fate()

    def read(self, name: str) -> Any:
        return self.fate(lambda: super(MortalStore, self).read(name))

    def swap(self, name: str, content: bytes, seen: str | None) -> bool:
        return self.fate(lambda: super(MortalStore, self).swap(name, content, seen))


@dataclass
class Runs:
    """An environment's runs: each is over a day after it was submitted, and ends as it is told to."""

    store: ObjectStore
    fate: Fate = field(default_factory=Fate)
    endings: dict[datetime, str] = field(default_factory=dict)
    submitted: list[Submission] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)

    def submit(self, submission: Submission) -> SubmittedRun:
        return self.fate(lambda: self._submit(submission))

    def find(self, name: str) -> SubmittedRun | None:
        return self.fate(lambda: self._find(name))

    def why(self, run_id: str) -> str:
        return "the source is gone"

    def _find(self, name: str) -> SubmittedRun | None:
        return next((self._run(one) for one in reversed(self.submitted) if one.name.startswith(name)), None)

    def _submit(self, submission: Submission) -> SubmittedRun:
        if submission.identity not in {one.identity for one in self.submitted}:
            self.submitted.append(submission)
        return self._run(submission)

    def _run(self, submission: Submission) -> SubmittedRun:
        state, begun = self.states.get(submission.identity, "running"), submission.as_of
        ended = begun + HOUR if state in ("succeeded", "failed") else None
        return SubmittedRun(submission.name, submission.identity[:8], state, "", "pods", begun, ended=ended)

    def go_on(self, now: datetime) -> None:
        """What the cluster does until an instant."""
        for number, one in enumerate(self.submitted, 1):
            if one.as_of < now and one.identity not in self.states:
                how = self.endings.get(one.as_of, "promoted")
                self.states[one.identity] = "failed" if how == "failed" else "succeeded"
                if how != "failed":
                    result = Result(outcome=how, version=number, cpu_hours=0.0, reason=how)  # type: ignore[arg-type]
                    self.store.write(_result_name(NAME, one.as_of), result.model_dump_json().encode())

    def champion(self) -> Champion | None:
        made = [
            (number, one)
            for number, one in enumerate(self.submitted, 1)
            if self.states.get(one.identity) == "succeeded" and self.endings.get(one.as_of, "promoted") == "promoted"
        ]
        return Champion(made[-1][0], made[-1][1].as_of, made[-1][1].as_of + HOUR) if made else None


class World(ClusterWorld):
    """Without a lake and without MLflow."""

    def known(self, now: datetime) -> Any:
        hours = [START - 5 * DAY + n * HOUR for n in range(24 * (5 + DAYS))]
        return np.array([at.replace(tzinfo=None) for at in hours if at <= now], "datetime64[us]")

    def champion(self, now: datetime) -> Champion | None:
        assert isinstance(self.runs, Runs)
        return self.runs.champion()


@dataclass
class Cluster:
    """An environment of a cluster in this process."""

    fake: FakeCluster
    store: MortalStore
    runs: Runs
    said: list[str] = field(default_factory=list)

    @property
    def object(self) -> ModelObject:
        return ModelObject(self.fake.kubernetes(), NAME)

    def tick(self, now: datetime, spec: ContinualModel | None = None) -> None:
        environment = Environment(home=Path("/nowhere"), feature_repo=Path("/nowhere"), tracking_uri="")
        rollouts = KubernetesRollouts(self.fake.kubernetes(), FixedClock(now))
        world = World(environment, PLACE, spec or model(), Look(now, ()), self.store, self.runs, rollouts)
        ClusterLoop(world, self.object, self.said.append).tick(now)

    def day(self, number: int, spec: ContinualModel | None = None) -> None:
        """What happens until a day's look, and the look."""
        now = START + number * DAY
        self.runs.go_on(now)
        self.tick(now, spec)

    def entries(self) -> list[Entry]:
        return list(StoredBook(ObjectStore(self.store.store, "memory:///state"), NAME).entries())


@pytest.fixture
def cluster() -> Cluster:
    return new()


def new(fate: Fate | None = None, **endings: str) -> Cluster:
    fake, memory = FakeCluster(), MemoryStore()
    fake.put(CONTINUAL_MODEL, {"metadata": {"name": NAME}, "spec": {}, "status": {"phase": "Serving"}})
    store = MortalStore(memory, "memory:///state")
    store.fate = fate or Fate()
    runs = Runs(ObjectStore(memory, "memory:///state"), store.fate)
    runs.endings = {START + int(day.removeprefix("day")) * DAY: how for day, how in endings.items()}
    return Cluster(fake, store, runs)


def annotate(cluster: Cluster, **annotations: str | None) -> None:
    names = {"ask": ASK, "freeze": FREEZE}
    changes = {names[name]: value for name, value in annotations.items()}
    cluster.fake.kubernetes().patch(CONTINUAL_MODEL, NAME, {"metadata": {"annotations": changes}})


def kinds(entries: Sequence[Entry]) -> list[str]:
    return [one.kind for one in entries]


# -- what it does ------------------------------------------------------------------------------------------------------


def test_it_submits_what_it_decides_and_tells_how_that_ended_at_the_next_look(cluster: Cluster) -> None:
    cluster.day(0)
    assert kinds(cluster.entries()) == ["decided", "began"], "no version serves yet"
    assert [(one.pipeline, one.as_of, one.reason) for one in cluster.runs.submitted] == [("training", START, "loop")]
    cluster.tick(START + HOUR)
    decided = cluster.entries()[-1]
    assert isinstance(decided, Decided)
    assert not decided.decision.wanted or "under way" in decided.decision.withheld
    cluster.day(1)
    ended = next(one for one in cluster.entries() if isinstance(one, Ended))
    assert (ended.outcome, ended.version, ended.at) == ("promoted", 1, START + HOUR), "when the run was over"


@pytest.mark.parametrize("phase", ["Aborted", "Promoted"])
def test_a_version_that_its_rollout_aborts_is_known_to_be_sent_back(cluster: Cluster, phase: Phase) -> None:
    cluster.day(0)
    cluster.day(1)
    rollouts = KubernetesRollouts(cluster.fake.kubernetes(), FixedClock(START + DAY))
    document = {"apiVersion": API_VERSION, "kind": "ModelRollout", "metadata": {"name": f"{NAME}-v1"}}
    rollouts.create(ModelRollout(**document, spec=RolloutSpec(model=NAME, candidates=(1,))))
    cluster.tick(START + DAY + HOUR)
    assert "sent-back" not in kinds(cluster.entries()), "it has only begun"
    winner, started, ended = 1 if phase == "Promoted" else None, START + DAY, START + 2 * DAY
    status = RolloutStatus(phase=phase, winner=winner, started=started, ended=ended, reason="harm")
    rollouts.write(rollouts.attempts(NAME)[0], status)
    for day in (3, 4):
        cluster.tick(START + day * DAY)
    back = [one for one in cluster.entries() if isinstance(one, SentBack)]
    assert [(one.number, one.version, one.at) for one in back] == [(1, 1, START + 2 * DAY)][: phase == "Aborted"]
    assert ("training 1: version 1 was sent back: harm" in cluster.said) == (phase == "Aborted")
    reported = cluster.object.reported()
    assert reported is not None
    assert reported.fruitless == (phase == "Aborted")


def test_a_run_that_failed_is_no_champion_and_says_why(cluster: Cluster) -> None:
    cluster.runs.endings[START] = "failed"
    cluster.day(0)
    cluster.day(1)
    ended = next(one for one in cluster.entries() if isinstance(one, Ended))
    assert (ended.outcome, ended.version) == ("failed", None)
    assert "the source is gone" in ended.reason
    events = {event["reason"]: event for event in cluster.fake.all(EVENT)}
    assert events["TrainingEnded"]["type"] == "Warning"


def test_a_run_that_left_no_result_is_a_failed_training(cluster: Cluster) -> None:
    cluster.day(0)
    cluster.runs.states[cluster.runs.submitted[0].identity] = "succeeded"
    cluster.tick(START + DAY)
    ended = next(one for one in cluster.entries() if isinstance(one, Ended))
    assert (ended.outcome, "left no result" in ended.reason) == ("failed", True)


def test_a_training_is_charged_what_its_steps_took_while_it_ran(cluster: Cluster) -> None:
    cluster.day(0)
    ledger = Ledger(cluster.runs.store)
    for at, purpose, seconds in (
        (START - HOUR, "training", 7200),
        (START + HOUR / 2, "training", 1800),
        (START + HOUR, "training", 1800),
        (START + HOUR / 2, "scoring", 7200),
        (START + 2 * HOUR, "training", 7200),
    ):
        ledger.keep(Spent(model=NAME, purpose=purpose, step="train", at=at, seconds=1, cpu_seconds=seconds))
    cluster.day(1)
    ended = next(one for one in cluster.entries() if isinstance(one, Ended))
    assert ended.cpu_hours == 1.0


def test_another_document_meanwhile_does_not_begin_the_same_training_again(cluster: Cluster) -> None:
    cluster.day(0)
    cluster.day(1, model(cooldown="2d"))
    assert len(cluster.runs.submitted) == 1
    assert kinds(cluster.entries()).count("ended") == 1


# -- what people say ---------------------------------------------------------------------------------------------------


def test_who_asks_by_an_annotation_is_heard_once_and_the_annotation_goes(cluster: Cluster) -> None:
    cluster.day(0)
    cluster.day(1)
    annotate(cluster, ask="new station")
    cluster.tick(START + DAY + HOUR)
    asked = [one for one in cluster.entries() if isinstance(one, Asked)]
    assert [(one.by, one.reason) for one in asked] == [("annotation", "new station")]
    assert len(cluster.runs.submitted) == 2
    assert cluster.object.wishes() == (None, None)
    cluster.day(2)
    cluster.day(3)
    assert sum(isinstance(one, Asked) for one in cluster.entries()) == 1


def test_the_same_is_asked_again_after_it_was_trained(cluster: Cluster) -> None:
    for number in range(2):
        cluster.object.ask(Wish("ada", "again"))
        cluster.day(2 * number)
        cluster.day(2 * number + 1)
    assert [one.by for one in cluster.entries() if isinstance(one, Asked)] == ["ada", "ada"]
    assert {one.as_of for one in cluster.runs.submitted} >= {START, START + 2 * DAY}


def test_a_freeze_holds_everything_up_as_long_as_it_stands_there(cluster: Cluster) -> None:
    annotate(cluster, freeze="audit")
    cluster.day(0)
    cluster.day(1)
    assert cluster.runs.submitted == []
    assert [one.reason for one in cluster.entries() if isinstance(one, Froze)] == ["audit"]
    reported = cluster.object.reported()
    assert reported is not None
    assert "audit" in reported.frozen
    annotate(cluster, freeze=None)
    cluster.day(2)
    assert len(cluster.runs.submitted) == 1
    assert sum(isinstance(one, Thawed) for one in cluster.entries()) == 1


def test_a_freeze_for_another_reason_is_another_freeze(cluster: Cluster) -> None:
    annotate(cluster, freeze="audit")
    cluster.day(0)
    annotate(cluster, freeze="holidays")
    cluster.day(1)
    assert [one.reason for one in cluster.entries() if isinstance(one, Froze)] == ["audit", "holidays"]


def test_whoever_asks_of_a_model_that_is_not_there_is_told(cluster: Cluster) -> None:
    cluster.fake.remove(CONTINUAL_MODEL, NAME)
    for say in (lambda: cluster.object.ask(Wish("ada", "")), cluster.object.thaw, cluster.object.reported):
        with pytest.raises(LoopError, match="no such ContinualModel"):
            say()


def test_without_the_models_object_it_decides_all_the_same(cluster: Cluster) -> None:
    cluster.fake.remove(CONTINUAL_MODEL, NAME)
    cluster.day(0)
    assert len(cluster.runs.submitted) == 1


# -- what it tells -----------------------------------------------------------------------------------------------------


def test_the_models_status_says_what_was_decided_and_the_operators_part_stays() -> None:
    cluster = new(day0="rejected", day3="failed", day8="rejected")
    for number in range(DAYS):
        cluster.day(number, model(triggers=[{"kind": "model-age", "olderThan": "1d"}]))
    found = cluster.fake.get(CONTINUAL_MODEL, NAME)
    assert found is not None
    assert found["status"]["phase"] == "Serving"
    told = cluster.object.reported()
    assert told is not None
    assert (told.decided, told.trainings) == (START + (DAYS - 1) * DAY, len(cluster.runs.submitted))
    warned = [event for event in cluster.fake.all(EVENT) if event["reason"] == "ChallengersKeepFailing"]
    assert warned, "three in a row"
    assert any("challengers keep failing: 3 in a row" in text for text in cluster.said)


def test_what_is_no_longer_so_goes_from_the_status(cluster: Cluster) -> None:
    annotate(cluster, freeze="audit")
    cluster.day(0)
    annotate(cluster, freeze=None)
    cluster.day(1)
    cluster.day(2)
    found = cluster.fake.get(CONTINUAL_MODEL, NAME)
    assert found is not None
    assert found["status"]["loop"]["frozen"] == ""
    assert found["status"]["loop"].get("training") is None or len(cluster.runs.submitted) == 2


# -- killed ------------------------------------------------------------------------------------------------------------


def lived(cluster: Cluster) -> Cluster:
    """All days, each run again until it comes to its end; people say something in between."""
    for number in range(DAYS):
        if number == 5:
            annotate(cluster, ask="new station")
        if number in (7, 9):
            annotate(cluster, freeze="audit" if number == 7 else None)
        for _ in range(3):
            try:
                cluster.day(number)
                break
            except Killed:
                continue
    return cluster


def test_killed_at_any_call_and_run_again_it_comes_to_the_same() -> None:
    endings = {"day0": "promoted", "day2": "rejected", "day5": "failed"}
    fate = Fate()
    whole = lived(new(fate, **endings))
    assert len(whole.runs.submitted) >= 4
    for at in range(fate.calls):
        for after in (False, True):
            killed = lived(new(Fate(at, after=after), **endings))
            assert killed.entries() == whole.entries(), (at, after)
            assert [one.as_of for one in killed.runs.submitted] == [one.as_of for one in whole.runs.submitted]
            assert killed.object.reported() == whole.object.reported()


def test_two_looks_at_once_begin_one_training() -> None:
    """One stands still at each of its calls while the other does all of its work."""
    calls = Fate()
    new_cluster = new(calls)
    new_cluster.day(0)
    for at in range(calls.calls):
        cluster = new(Meanwhile(at))
        other = replace(cluster, store=MortalStore(cluster.store.store, "memory:///state"))
        other.runs = replace(cluster.runs, fate=Fate())
        cluster.store.fate.other = lambda other=other: other.tick(START)  # type: ignore[attr-defined]
        cluster.tick(START)
        entries = cluster.entries()
        assert kinds(entries) == ["decided", "began"], at
        assert len({id(one) for one in cluster.runs.submitted}) == 1


class Meanwhile(Fate):
    """Has somebody else do something before the n-th call."""

    def __call__(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls - 1 == self.at:
            self.other()  # type: ignore[attr-defined]
        return call()


def test_a_store_that_does_not_answer_loses_nothing(cluster: Cluster) -> None:
    cluster.day(0)
    before = cluster.entries()

    def away(call: Callable[[], Any]) -> Any:
        raise StoreError("the store does not answer", retriable=True)

    fate, cluster.store.fate = cluster.store.fate, away  # type: ignore[assignment]
    with pytest.raises(StoreError):
        cluster.day(1)
    cluster.store.fate = fate
    assert cluster.entries() == before
    cluster.day(1)
    assert kinds(cluster.entries())[:3] == ["decided", "began", "ended"]


# -- the book ----------------------------------------------------------------------------------------------------------


def test_an_entry_is_added_only_to_the_book_that_was_read() -> None:
    store = ObjectStore(MemoryStore(), "memory:///state")
    ours, theirs = StoredBook(store, NAME), StoredBook(store, NAME)
    assert ours.entries() == theirs.entries() == ()
    first, second = Asked(at=START, by="ada"), Asked(at=START, by="bob")
    theirs.append(first)
    with pytest.raises(ConflictError, match="somebody else has written"):
        ours.append(second)
    again = StoredBook(store, NAME)
    again.append(second)
    assert list(again.entries()) == list(StoredBook(store, NAME).entries()) == [first, second]


def test_a_book_that_somebody_spoilt_is_refused() -> None:
    store = ObjectStore(MemoryStore(), "memory:///state")
    store.write(f"loops/{NAME}/book.jsonl", b'{"kind": "began", "number": 0}\n')
    with pytest.raises(LoopError, match="line 1 is no entry"):
        StoredBook(store, NAME).entries()


def test_began_names_the_decision_that_it_is_by(cluster: Cluster) -> None:
    cluster.day(0)
    began = cluster.entries()[1]
    assert isinstance(began, Began)
    assert (began.number, began.at, began.by) == (1, START, START)
