"""The ledger of what steps took: each run leaves its own entry, however it ends, and never makes a step fail."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from evergrow.contracts import Spent
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.spending import FOLDER, Ledger, metered
from evergrow.journal import step
from evergrow.spec import load
from tests.pipelines.conftest import DOCUMENT

SPEC = json.dumps(load(DOCUMENT).dump())
NAME = "toy-demand"
START = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGROW_HOME", str(tmp_path))
    monkeypatch.delenv("EVERGROW_STORE", raising=False)
    return Ledger(ObjectStore.open(tmp_path.as_uri()))


def entry(day: float, **more) -> Spent:
    at = START + timedelta(days=day)
    return Spent(model=NAME, purpose="training", step="train", at=at, seconds=1.0, cpu_seconds=0.5, **more)


def test_a_step_leaves_what_it_took(ledger):
    @step
    @metered("training")
    def train(spec: str, rows: int) -> int:
        return sum(i * i for i in range(rows))

    assert train(SPEC, rows=300_000) == sum(i * i for i in range(300_000))
    (found,) = ledger.read(NAME, timedelta(days=7))
    assert (found.model, found.purpose, found.step, found.cpus) == (NAME, "training", "train", 0.0)
    assert 0 < found.cpu_seconds <= 2 * found.seconds + 0.1


def test_a_step_that_fails_costs_too_and_fails_as_it_did(ledger):
    @metered("training")
    def train(spec: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(spec=SPEC)
    assert len(ledger.read(NAME, timedelta(days=7))) == 1


def test_a_ledger_that_cannot_be_written_fails_no_step(ledger, tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file where the folder should be")

    @metered("data")
    def ingest(spec: str) -> str:
        return "done"

    assert ingest(SPEC) == "done"
    assert "was not kept" in caplog.text


def test_on_a_cluster_what_is_set_aside_for_the_step_is_kept(ledger, tmp_path, monkeypatch):
    steps = {"steps": {"resources": {"cpu": "250m"}}, "stepOverrides": {"train": {"resources": {"cpu": "1.5"}}}}
    place = {
        "name": "dev", "execution": {"namespace": "evergrow-dev", "pipelines": steps},
        "data": {"store": tmp_path.as_uri(), "mlflow": "http://mlflow"},
    }  # fmt: skip
    monkeypatch.setenv("EVERGROW_STORE", tmp_path.as_uri())
    monkeypatch.setenv("EVERGROW_ENVIRONMENT", json.dumps(place))

    @metered("training")
    def train(spec: str) -> None: ...

    @metered("training")
    def evaluate(spec: str) -> None: ...

    train(SPEC)
    evaluate(SPEC)
    assert {one.step: one.cpus for one in ledger.read(NAME, timedelta(days=7))} == {"train": 1.5, "evaluate": 0.25}


def test_the_newest_days_are_read_in_order_and_no_others(ledger):
    for day in (9, 0, 3, 8.5):
        ledger.keep(entry(day))

    assert [(one.at - START) / timedelta(days=1) for one in ledger.read(NAME, timedelta(days=7))] == [3, 8.5, 9]


def test_two_runs_of_one_instant_are_two(ledger):
    ledger.keep(entry(1))
    ledger.keep(entry(1))

    assert len(ledger.read(NAME, timedelta(days=1))) == 2


def test_a_model_without_runs_has_cost_nothing(ledger):
    assert ledger.read("none", timedelta(days=7)) == []
