"""Rollouts as custom resources: written over what was read, told once, kept until they are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import ConflictError, RolloutError, SpecError
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, EVENT, MODEL_ROLLOUT
from evergrow.integrations.rollouts_kubernetes import FINALIZER, KubernetesRollouts
from evergrow.rollout.attempt import ORDER, ORDERED_BY, REQUESTED
from evergrow.rollout.conditions import of_rollout
from evergrow.rollout.machine import begin
from evergrow.spec import ModelRollout, parse
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import Finding, RolloutSpec, RolloutStatus
from tests.builders import document
from tests.unit.integrations.fake_cluster import FakeCluster

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DELAYS = document().name


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": DELAYS}, "spec": document().dump()["spec"]})
    return cluster


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rollouts(cluster, clock):
    return KubernetesRollouts(cluster.kubernetes(), clock)


def asked(name: str = "delays-v2", version: int = 2, **metadata) -> ModelRollout:
    body = {"metadata": {"name": name, **metadata}, "spec": {"model": DELAYS, "candidates": [version]}}
    return parse({"apiVersion": "evergrow.dev/v1alpha1", "kind": "ModelRollout", **body}, kind=ModelRollout)


def by_hand(cluster, name: str = "delays-v2", **spec) -> None:
    """As `kubectl create` makes one: no label, no annotation, no owner."""
    cluster.put(MODEL_ROLLOUT, {"metadata": {"name": name}, "spec": {"model": DELAYS, "candidates": [2], **spec}})


def begun(**changes) -> RolloutStatus:
    return begin(RolloutSpec(model=DELAYS, candidates=(2,)), 1, NOW).model_copy(update=changes)


def test_a_model_is_read_as_it_was_written(rollouts):
    assert rollouts.model(DELAYS) == document()
    assert rollouts.model("unknown") is None


def test_one_that_is_asked_for_belongs_to_its_model_and_is_found_by_it(rollouts, cluster):
    rollouts.create(asked(annotations={"team": "sky"}))
    (found,) = rollouts.attempts(DELAYS)
    assert found.document.spec == asked().spec
    assert not found.begun
    made = cluster.get(MODEL_ROLLOUT, "delays-v2")["metadata"]
    assert made["labels"]["evergrow.dev/model"] == DELAYS
    assert made["annotations"] == {"team": "sky", REQUESTED: NOW.isoformat()}
    assert made["ownerReferences"][0]["uid"] == cluster.get(CONTINUAL_MODEL, DELAYS)["metadata"]["uid"]
    assert rollouts.attempts("others") == []


def test_two_of_one_name_are_refused(rollouts):
    rollouts.create(asked())
    with pytest.raises(ConflictError, match="there is a rollout named delays-v2 already"):
        rollouts.create(asked(version=3))


def test_the_order_is_by_creation_and_within_a_second_by_when_it_was_asked_for(rollouts, cluster, clock):
    rollouts.create(asked("z"))
    clock.at += timedelta(milliseconds=5)
    rollouts.create(asked("a"))
    cluster.seconds += 1
    clock.at -= timedelta(hours=1)
    rollouts.create(asked("m"))
    assert [one.name for one in rollouts.attempts(DELAYS)] == ["z", "a", "m"]


def test_a_status_is_read_back_as_it_was_written_with_conditions_and_without_what_was_before(rollouts):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    first = rollouts.write(attempt, begun(weights={"1": 90, "2": 10}))
    second = rollouts.write(first, first.status.model_copy(update={"weights": {"2": 100}}))
    (read,) = rollouts.attempts(DELAYS)
    assert read == second
    assert read.status.weights == {"2": 100}
    assert read.status.observed_generation == 1
    assert {one.type: one.status for one in read.status.conditions} == {
        "Ready": "False", "Progressing": "True", "Paused": "False", "Degraded": "False"
    }  # fmt: skip


def test_a_status_is_not_written_over_one_that_was_not_read(rollouts):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    rollouts.write(attempt, begun())
    with pytest.raises(ConflictError):
        rollouts.write(attempt, begun(reason="late"))
    (read,) = rollouts.attempts(DELAYS)
    with_order = read
    rollouts.order(DELAYS, "delays-v2", "pause", "ada")
    with pytest.raises(ConflictError):
        rollouts.write(with_order, begun(reason="late"))
    assert rollouts.attempts(DELAYS)[0].status.reason == begun().reason


def test_nothing_is_written_of_one_that_is_gone(rollouts, cluster):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    cluster.remove(MODEL_ROLLOUT, "delays-v2")
    with pytest.raises(ConflictError, match="delays-v2 is gone"):
        rollouts.write(attempt, begun())
    rollouts.release(attempt)
    rollouts.fulfil(attempt)


def test_one_made_by_hand_gets_what_all_have_before_its_first_status(cluster, clock):
    by_hand(cluster)
    kubernetes = cluster.kubernetes()
    rollouts = KubernetesRollouts(kubernetes, clock)
    (found,) = kubernetes.search(MODEL_ROLLOUT)
    attempt = rollouts._read(found)
    rollouts.write(attempt, begun())
    metadata = cluster.get(MODEL_ROLLOUT, "delays-v2")["metadata"]
    assert metadata["finalizers"] == [FINALIZER]
    assert metadata["labels"] == {"evergrow.dev/model": DELAYS}
    assert metadata["ownerReferences"][0]["name"] == DELAYS


def test_whoever_deletes_one_that_is_under_way_orders_to_abort_it_and_it_goes_once_it_is_over(rollouts, cluster):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    rollouts.write(attempt, begun())
    cluster.remove(MODEL_ROLLOUT, "delays-v2")
    (deleted,) = rollouts.attempts(DELAYS)
    assert (deleted.deleted, deleted.order) == (True, "abort")
    over = rollouts.write(deleted, deleted.status.model_copy(update={"phase": "Aborted", "ended": NOW}))
    rollouts.release(over)
    assert cluster.get(MODEL_ROLLOUT, "delays-v2") is None


def test_one_that_is_over_is_released_once_and_others_finalizers_stay(rollouts, cluster):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    rollouts.write(attempt, begun())
    found = cluster.get(MODEL_ROLLOUT, "delays-v2")
    found["metadata"]["finalizers"].append("others.dev/keep")
    cluster.put(MODEL_ROLLOUT, found)
    for _ in range(2):
        rollouts.release(attempt)
        assert cluster.get(MODEL_ROLLOUT, "delays-v2")["metadata"]["finalizers"] == ["others.dev/keep"]
    assert sum(asked[0] == "PATCH" for asked in cluster.asked) == 3


def test_a_model_that_is_deleted_takes_its_rollouts_with_it(rollouts, cluster):
    rollouts.create(asked())
    rollouts.create(asked("delays-v3", 3))
    rollouts.write(rollouts.attempts(DELAYS)[0], begun())
    cluster.remove(CONTINUAL_MODEL, DELAYS)
    (left,) = rollouts.attempts(DELAYS)
    assert (left.name, left.deleted) == ("delays-v2", True)


def test_an_order_says_who_gave_it_and_takes_the_place_of_the_one_before(rollouts, cluster):
    rollouts.create(asked())
    rollouts.order(DELAYS, "delays-v2", "pause", "ada")
    rollouts.order(DELAYS, "delays-v2", "abort", "bob")
    (attempt,) = rollouts.attempts(DELAYS)
    assert (attempt.order, attempt.ordered_by) == ("abort", "bob")
    with pytest.raises(RolloutError, match="delays has no rollout named delays-v9"):
        rollouts.order(DELAYS, "delays-v9", "pause", "ada")
    with pytest.raises(RolloutError, match="others has no rollout named delays-v2"):
        rollouts.order("others", "delays-v2", "pause", "ada")


def test_an_order_is_taken_away_once_carried_out_unless_another_has_come(rollouts, cluster):
    rollouts.create(asked())
    rollouts.order(DELAYS, "delays-v2", "pause", "ada")
    (attempt,) = rollouts.attempts(DELAYS)
    rollouts.order(DELAYS, "delays-v2", "resume", "bob")
    rollouts.fulfil(attempt)
    (attempt,) = rollouts.attempts(DELAYS)
    assert attempt.order == "resume"
    for _ in range(2):
        rollouts.fulfil(attempt)
        annotations = cluster.get(MODEL_ROLLOUT, "delays-v2")["metadata"]["annotations"]
        assert ORDER not in annotations
        assert ORDERED_BY not in annotations, "who orders next without a name must not be taken for bob"


def test_a_document_that_cannot_be_read_is_told_of_and_others_go_on(rollouts, cluster):
    labels = {"evergrow.dev/model": DELAYS}
    broken = {"metadata": {"name": "broken", "labels": labels}, "spec": {"model": DELAYS, "candidates": []}}
    cluster.put(MODEL_ROLLOUT, broken)
    rollouts.create(asked())
    for _ in range(3):
        assert [one.name for one in rollouts.attempts(DELAYS)] == ["delays-v2"]
    (degraded,) = cluster.get(MODEL_ROLLOUT, "broken")["status"]["conditions"]
    assert (degraded["type"], degraded["status"], degraded["reason"]) == ("Degraded", "True", "Invalid")
    assert "spec.candidates" in degraded["message"]
    (event,) = cluster.all(EVENT)
    assert (event["involvedObject"]["name"], event["type"], event["count"]) == ("broken", "Warning", 1)
    assert sum(method == "PATCH" for method, _ in cluster.asked) == 1


def test_one_that_cannot_be_read_can_be_deleted_all_the_same(rollouts, cluster):
    rollouts.create(asked())
    rollouts.write(rollouts.attempts(DELAYS)[0], begun())
    found = cluster.get(MODEL_ROLLOUT, "delays-v2")
    cluster.put(MODEL_ROLLOUT, {**found, "spec": {**found["spec"], "candidates": []}})
    cluster.remove(MODEL_ROLLOUT, "delays-v2")
    assert rollouts.attempts(DELAYS) == []
    assert cluster.get(MODEL_ROLLOUT, "delays-v2") is None


def test_a_model_that_cannot_be_read_is_degraded_until_it_can(rollouts, cluster):
    spec = document().dump()["spec"]
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": DELAYS}, "spec": {**spec, "task": "poetry"}})
    with pytest.raises(SpecError, match=r"spec\.task"):
        rollouts.model(DELAYS)
    status = cluster.get(CONTINUAL_MODEL, DELAYS)["status"]
    assert status["conditions"][0]["status"] == "True"
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": DELAYS}, "spec": spec, "status": status})
    for _ in range(2):
        assert rollouts.model(DELAYS) == document()
        assert cluster.get(CONTINUAL_MODEL, DELAYS)["status"]["conditions"][0]["status"] == "False"


def test_the_same_is_told_once_and_later_counted(rollouts, cluster, clock):
    rollouts.create(asked())
    (attempt,) = rollouts.attempts(DELAYS)
    for _ in range(5):
        rollouts.tell(attempt, "Paused", "paused by ada", warning=True)
    rollouts.tell(attempt, "Progressing", "resumed by ada")
    assert sorted((e["reason"], e["type"], e["count"]) for e in cluster.all(EVENT)) == [
        ("Paused", "Warning", 1), ("Progressing", "Normal", 1)
    ]  # fmt: skip
    clock.at += timedelta(minutes=11)
    rollouts.tell(attempt, "Paused", "paused by ada", warning=True)
    KubernetesRollouts(cluster.kubernetes(), clock).tell(attempt, "Paused", "paused by ada", warning=True)
    (paused,) = [event for event in cluster.all(EVENT) if event["reason"] == "Paused"]
    assert (paused["count"], paused["lastTimestamp"]) == (3, "2026-01-01T12:11:00Z")


def test_what_became_of_a_model_is_written_when_it_differs(rollouts, cluster, clock):
    status = ModelStatus(phase="Serving", serving=2, decision="delays-v2: Promoted")
    for _ in range(3):
        rollouts.report(DELAYS, status)
        clock.at += timedelta(seconds=1)
    assert sum(method == "PATCH" for method, _ in cluster.asked) == 1
    before = {one["type"]: one for one in cluster.get(CONTINUAL_MODEL, DELAYS)["status"]["conditions"]}
    rollouts.report(DELAYS, status.model_copy(update={"phase": "Degraded"}))
    after = {one["type"]: one for one in cluster.get(CONTINUAL_MODEL, DELAYS)["status"]["conditions"]}
    assert (before["Ready"]["status"], after["Ready"]["status"], after["Degraded"]["status"]) == (
        "True",
        "False",
        "True",
    )
    assert after["Paused"]["lastTransitionTime"] == before["Paused"]["lastTransitionTime"]
    assert after["Ready"]["lastTransitionTime"] > before["Ready"]["lastTransitionTime"]
    rollouts.report("unknown", status)


PHASES = ("Pending", "Progressing", "Paused", "Promoted", "Aborted", "Superseded")


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.booleans(), st.integers(0, 100)), min_size=1, max_size=12))
def test_a_condition_changes_its_time_exactly_when_it_changes_its_status(steps):
    status, times = begun(), {}
    for phase, is_unready, seconds in steps:
        now = NOW + timedelta(seconds=seconds)
        status = status.model_copy(update={"phase": phase, "unready_since": NOW if is_unready else None})
        before = {one.type: one for one in status.conditions}
        status = status.model_copy(update={"conditions": of_rollout(status, 1, now)})
        for one in status.conditions:
            same = one.type in before and before[one.type].status == one.status
            times[one.type] = times[one.type] if same else now
            assert one.last_transition_time == times[one.type]
        assert [one.type for one in status.conditions] == ["Ready", "Progressing", "Paused", "Degraded"]
        assert sum(one.status == "True" for one in status.conditions[:3]) == (phase not in ("Aborted", "Superseded"))


@pytest.mark.parametrize(("phase", "degraded"), [("Pending", "False"), ("Progressing", "True"), ("Aborted", "False")])
def test_a_candidate_that_is_not_ready_is_trouble_once_it_was(phase, degraded):
    assert of_rollout(begun(phase=phase, unready_since=NOW), 1, NOW)[3].status == degraded


def test_missing_evidence_is_degraded_while_it_matters():
    missing = Finding(check="loss", candidate=2, outcome="error", reason="no labels")
    status = begun(findings=(missing,))
    degraded = of_rollout(status, 1, NOW)[3]
    assert (degraded.status, degraded.reason, degraded.message) == ("True", "EvidenceMissing", "loss: no labels")
    assert of_rollout(status.model_copy(update={"phase": "Promoted"}), 1, NOW)[3].status == "False"


def test_a_document_that_somebody_applied_stays_and_one_that_we_made_is_kept_current(rollouts, cluster):
    changed = document().model_copy(update={"spec": document().spec.model_copy(update={"description": "newer"})})
    rollouts.put_model(changed)
    assert rollouts.model(DELAYS).spec.description == ""
    cluster.remove(CONTINUAL_MODEL, DELAYS)
    rollouts.put_model(document())
    rollouts.put_model(changed)
    assert rollouts.model(DELAYS).spec == changed.spec
    assert cluster.get(CONTINUAL_MODEL, DELAYS)["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "evergrow"}
