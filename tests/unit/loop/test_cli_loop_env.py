"""`evergrow loop ... --env` and `evergrow approve --env`: people have a say through the cluster's objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evergrow.contracts import EvaluationReport, Verdict
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.kubernetes import CONFIG_MAP, CONTINUAL_MODEL, MODEL_ROLLOUT
from evergrow.integrations.loop_kubernetes import ModelObject
from evergrow.integrations.memory import FixedClock, MemoryTraffic
from evergrow.integrations.memory_rollouts import MemoryChampions, MemoryFleet, MemoryWitness
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.loop.state import Wish
from evergrow.rollout.asking import APPROVAL, asked_for, awaits_approval
from evergrow.rollout.control import Controller
from evergrow.spec.model import LoopStatus
from tests.builders import document
from tests.unit.integrations.fake_cluster import FakeCluster
from tests.unit.loop.conftest import Evergrow

NOW = datetime(2024, 3, 1, tzinfo=UTC)
NAME = "delays"
TRIGGERS = [{"kind": "asked"}, {"kind": "data-volume", "rows": 40}]
VALUES = {
    "name": "dev",
    "execution": {"namespace": "evergrow-dev", "serving": {"rollouts": True}},
    "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with FakeCluster() as fake:
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(fake.kubeconfig(tmp_path / "config")))
        fake.put(CONTINUAL_MODEL, document().dump())
        data = {"EVERGROW_ENVIRONMENT": json.dumps(VALUES)}
        fake.put(CONFIG_MAP, {"metadata": {"name": "evergrow-environment"}, "data": data})
        yield fake


@pytest.fixture
def said(cluster: FakeCluster) -> ModelObject:
    return ModelObject(cluster.kubernetes(), NAME)


def test_a_request_and_a_freeze_stand_on_the_models_object_with_who_and_why(
    evergrow: Evergrow, said: ModelObject, write: Callable[..., str]
) -> None:
    file = write(triggers=TRIGGERS)
    told = evergrow("loop", "ask", "-f", file, "--env", "dev", "--reason", "new station")
    assert (told.code, "the next run of the pipeline `monitoring` in dev heeds it" in told.out) == (0, True)
    assert evergrow("loop", "freeze", "-f", file, "--env", "dev", "--reason", "audit").code == 0
    assert said.wishes() == (Wish("ada", "new station"), Wish("ada", "audit"))
    assert evergrow("loop", "thaw", "-f", file, "--env", "dev").code == 0
    assert said.wishes() == (Wish("ada", "new station"), None)


def test_status_tells_what_the_loop_has_come_to(
    evergrow: Evergrow, said: ModelObject, write: Callable[..., str]
) -> None:
    file = write(triggers=TRIGGERS)
    assert "nothing was decided in dev yet" in evergrow("loop", "status", "-f", file, "--env", "dev").out
    said.report(
        LoopStatus(
            decided=NOW, reason="0 of 2 triggers fire", trainings=4, fruitless=3, not_before=NOW, ended="rejected: no"
        )
    )
    out = evergrow("loop", "status", "-f", file, "--env", "dev").out
    for text in ("idle; 4 trainings so far", "2024-03-01 00:00 no: 0 of 2 triggers fire", "rejected: no"):
        assert text in out
    assert "3 trainings in a row have brought no champion; nothing is begun before 2024-03-01 00:00" in out
    assert json.loads(evergrow("loop", "status", "-f", file, "--env", "dev", "-o", "json").out)["fruitless"] == 3


def test_a_model_that_the_environment_does_not_have_is_told_with_what_to_do(
    evergrow: Evergrow, cluster: FakeCluster, write: Callable[..., str]
) -> None:
    cluster.remove(CONTINUAL_MODEL, NAME)
    told = evergrow("loop", "freeze", "-f", write(triggers=TRIGGERS), "--env", "dev")
    assert told.code != 0
    assert "delays: there is no such ContinualModel" in told.err
    assert "kubectl apply" in told.err


def test_an_environment_lives_in_the_present(
    evergrow: Evergrow, cluster: FakeCluster, write: Callable[..., str]
) -> None:
    told = evergrow("loop", "thaw", "-f", write(triggers=TRIGGERS), "--env", "dev", "--as-of", "2024-03-01")
    assert told.code != 0
    assert "--as-of" in told.err


# -- approval ----------------------------------------------------------------------------------------------------------


class World:
    """An environment whose operator works."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.rollouts = KubernetesRollouts(cluster.kubernetes(), OffsetClock())
        self.fleet = MemoryFleet({1: 1})
        self.controller = Controller(
            self.rollouts, self.fleet, MemoryTraffic([1, 2]), MemoryWitness(), MemoryChampions(1), FixedClock(NOW)
        )

    def ask(self, *, approval: bool) -> None:
        judged = EvaluationReport.model_construct(
            model=NAME, as_of=NOW, verdict=Verdict(outcome="pass", reason="better"), champion="1"
        )
        self.rollouts.create(asked_for(2, judged, approval=approval))

    def work(self, looks: int = 6) -> Any:
        for _ in range(looks):
            self.controller.reconcile(NAME)
            self.fleet.settle()
        (attempt,) = self.rollouts.attempts(NAME)
        return attempt


def test_a_version_waits_for_an_approval_and_takes_over_once_somebody_approves(
    evergrow: Evergrow, cluster: FakeCluster
) -> None:
    world = World(cluster)
    world.ask(approval=True)
    (attempt,) = world.rollouts.attempts(NAME)
    assert awaits_approval(attempt), "before the operator has seen it"
    attempt = world.work()
    assert (attempt.status.phase, attempt.status.weights) == ("Paused", {"1": 100})
    assert awaits_approval(attempt)
    told = evergrow("approve", NAME, "--env", "dev")
    assert told.code == 0, told.err
    attempt = world.work()
    assert attempt.status.winner == 2
    assert not awaits_approval(attempt)


def test_where_nobody_asks_for_an_approval_it_takes_over_at_once(cluster: FakeCluster) -> None:
    world = World(cluster)
    world.ask(approval=False)
    assert world.work().status.winner == 2


def test_what_waits_for_no_approval_cannot_be_approved(evergrow: Evergrow, cluster: FakeCluster) -> None:
    world = World(cluster)
    world.ask(approval=False)
    (attempt,) = world.rollouts.attempts(NAME)
    world.rollouts.order(NAME, attempt.name, "pause", "bob")
    world.work()
    told = evergrow("approve", NAME, "--env", "dev")
    assert told.code != 0
    assert "waits for no approval: Paused: paused by bob" in told.err
    assert "evergrow rollout resume" in told.err


def test_who_aborts_it_has_refused_it(evergrow: Evergrow, cluster: FakeCluster) -> None:
    world = World(cluster)
    world.ask(approval=True)
    world.work()
    evergrow("rollout", "abort", NAME, "--env", "dev")
    attempt = world.work()
    assert (attempt.status.phase, attempt.status.weights) == ("Aborted", {"1": 100})
    assert not awaits_approval(attempt)
    assert cluster.get(MODEL_ROLLOUT, attempt.name)["status"]["reason"] == "aborted by ada"
    assert APPROVAL not in attempt.status.reason
