"""What rollouts need of one machine: the champion, the clock, and that one process serves a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evergrow.audit import AuditLog
from evergrow.contracts import Route
from evergrow.errors import RegistryError, ServingError
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.memory import FixedClock
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.rollout_files import RolloutEvent
from evergrow.integrations.rollouts_local import (
    LocalChampions,
    Served,
    claimed,
    served_by,
    told,
    who_answers,
)
from evergrow.integrations.serving import LocalServing
from tests.builders import document
from tests.unit.integrations.builders import AS_OF, make_bundle, make_evaluation, make_report

LATER = AS_OF + timedelta(days=3)


@pytest.fixture
def champions(mlflow_registry: MlflowRegistry, tmp_path: Path) -> LocalChampions:
    """Versions 1 (which serves) and 2 (which is prepared) of "bikes"."""
    environment = mlflow_registry.environment
    serving = LocalServing(environment.serving("bikes"), document(name="bikes"), {})
    for seed in (1, 2):
        bundle = make_bundle(tmp_path / f"bundle{seed}", seed=seed)
        report = make_report(bundle)
        version = mlflow_registry.register(bundle, report, make_evaluation(tmp_path / f"evaluation{seed}", report))
        if version.version == 1:
            mlflow_registry.promote(version, "first", AS_OF)
            serving.deploy(version, bundle)
        else:
            serving.prepare(version, bundle)
    return LocalChampions(environment, FixedClock(LATER))


def champion(registry: MlflowRegistry) -> int | None:
    found = registry.resolve("bikes", CHAMPION)
    return None if found is None else found.version


def test_what_serves_is_what_the_link_says(champions: LocalChampions) -> None:
    assert (champions.serving("bikes"), champions.serving("trams")) == (1, None)


def test_a_promotion_is_on_record_and_moves_the_link_and_again_changes_nothing(
    champions: LocalChampions, mlflow_registry: MlflowRegistry
) -> None:
    for _ in range(2):
        champions.promote("bikes", 2, "loss: gains 0.2")
        assert (champions.serving("bikes"), champion(mlflow_registry)) == (2, 2)
    records = AuditLog(mlflow_registry.environment.audit).records()
    assert [(one.version, one.replaced, one.reason) for one in records][1:] == [(2, 1, "loss: gains 0.2")]
    assert records[-1].at == LATER


def test_a_promotion_that_was_cut_off_after_the_record_is_completed(
    champions: LocalChampions, mlflow_registry: MlflowRegistry
) -> None:
    version = mlflow_registry.resolve("bikes", "2")
    assert version is not None
    mlflow_registry.promote(version, "so", LATER)
    assert champions.serving("bikes") == 1
    champions.promote("bikes", 2, "so")
    assert champions.serving("bikes") == 2


def test_a_version_that_is_not_prepared_is_not_promoted(
    champions: LocalChampions, mlflow_registry: MlflowRegistry, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle3", seed=3)
    report = make_report(bundle)
    mlflow_registry.register(bundle, report, make_evaluation(tmp_path / "evaluation3", report))
    with pytest.raises(ServingError, match="version 3 is not prepared"):
        champions.promote("bikes", 3, "so")
    assert (champions.serving("bikes"), champion(mlflow_registry)) == (1, 1)


def test_a_version_that_the_registry_does_not_know_is_not_promoted(champions: LocalChampions) -> None:
    root = champions.environment.serving("bikes")
    (root / "versions" / "2").rename(root / "versions" / "7")
    with pytest.raises(RegistryError, match="bikes has no version 7"):
        champions.promote("bikes", 7, "so")
    assert champions.serving("bikes") == 1


# -- the clock --


def test_another_instant_goes_on_ticking() -> None:
    clock = OffsetClock.at(datetime(2013, 10, 1, tzinfo=UTC))
    first = clock.now()
    assert datetime(2013, 10, 1, tzinfo=UTC) <= first <= clock.now() < datetime(2013, 10, 2, tzinfo=UTC)
    assert OffsetClock.at(None).offset == timedelta()


# -- who serves --


def test_one_process_serves_a_model(tmp_path: Path) -> None:
    assert served_by(tmp_path, "bikes") is None
    with claimed(tmp_path, "bikes", Served(77, 8080, -3600.0)):
        assert served_by(tmp_path, "bikes") == Served(77, 8080, -3600.0)
        assert served_by(tmp_path, "trams") is None
        with (
            pytest.raises(ServingError, match="bikes is served .* already, by process 77 on port 8080"),
            claimed(tmp_path, "bikes", Served(78, 8081, 0.0)),
        ):
            pass
        assert served_by(tmp_path, "bikes") == Served(77, 8080, -3600.0)
    assert served_by(tmp_path, "bikes") is None


HOLDS = """
import sys, time
from pathlib import Path
from evergrow.integrations.rollouts_local import Served, claimed
with claimed(Path(sys.argv[1]), "bikes", Served(1, 2, 0.0)):
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_one_that_was_killed_serves_no_more(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"claimed\n"
    assert served_by(tmp_path, "bikes") is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with claimed(tmp_path, "bikes", Served(78, 8081, 0.0)):
        assert served_by(tmp_path, "bikes") == Served(78, 8081, 0.0)


# -- words --


def test_a_route_and_an_event_are_a_line() -> None:
    assert who_answers(Route(model="m", weights={3: 100, 4: 0}, warm=(3, 4))) == "version 3 answers 100 %"
    event = RolloutEvent(at=AS_OF, name="bikes-v2", reason="Aborted", message="v1 100: errors", warning=True)
    assert told(event) == f"{AS_OF:%Y-%m-%d %H:%M:%S} bikes-v2: Aborted: v1 100: errors"
