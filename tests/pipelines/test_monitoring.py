"""The monitoring pipeline, whole: quiet while all is well, and an alert that names what is broken."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from evergrow.monitoring.watch import Watch
from evergrow.spec import load
from tests import traffic
from tests.pipelines.conftest import DOCUMENT, World, new_world

pytestmark = pytest.mark.slow

MODEL = load(DOCUMENT)
FROM, UNTIL = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 25, tzinfo=UTC)
DAY = timedelta(days=1)
AS_OF = "2024-03-25"


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The trained model, its lake a month further, and what its champion answered in that month."""
    place = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(world.environment.home, place)
    # Paths of artifacts are absolute: the copy reads those of the original, and adds its own.
    copy = new_world(place)
    told = copy.run("monitoring", AS_OF)
    assert told.code == 0, told.err
    assert (told.value["action"], told.value["numbers"]["predictions"]) == ("none", 0.0)
    rows = traffic.answers(copy.environment, MODEL, FROM, UNTIL)
    traffic.log(copy.environment, MODEL, rows, views=["station_demand"])
    return copy


@pytest.fixture(scope="module")
def quiet(served: World):
    """What monitoring says of it."""
    told = served.run("monitoring", AS_OF)
    assert told.code == 0, told.err
    return told


def watch(told) -> Watch:
    return Watch.load(Path(told.value["report"]).parent)


def test_a_month_in_which_all_is_well_raises_no_alarm(quiet) -> None:
    assert (quiet.value["action"], quiet.value["alarms"]) == ("none", 0)
    seen = watch(quiet)
    assert sum(day.rows for day in seen.traffic) == 24 * 24 * 3
    kinds = {one.kind for one in seen.observations if one.verdict.outcome == "pass"}
    assert kinds >= {"schema", "nulls", "ranges", "volume", "freshness", "labels", "performance", "skew", "label-drift"}
    assert {one.verdict.outcome for one in seen.observations if one.kind == "skew"} == {"pass"}


def test_performance_is_that_of_the_labels_which_were_known(quiet) -> None:
    seen = watch(quiet)
    states = [day.state for day in seen.labels]

    assert states[-1] == "immature"
    assert set(states[:-1]) == {"matured"}
    assert {p.state for p in seen.performance if p.kind == "realised"} == {"matured", "immature"}
    assert quiet.value["numbers"]["log_loss"] > 0


def test_what_it_is_worth_and_what_it_costs_are_told_in_money(served: World, quiet) -> None:
    seen = watch(quiet)
    spent = sorted(p.name.rpartition("-")[0] for p in (served.environment.home / "spending/toy-demand").rglob("*.json"))
    training = next(one for one in seen.ran if one.purpose == "training")

    assert seen.currency == "EUR"
    assert [day.server_hours for day in seen.served] == [24] * 24
    assert all(day.cost == pytest.approx(24 * 0.05) for day in seen.served)
    assert len(seen.worth) == sum(day.state == "matured" for day in seen.labels)
    # What trained the model ran in the world that this one is a copy of.
    assert spent.count("train") == spent.count("evaluate") == 1
    assert training.steps == 5
    assert 0 < training.cpu_hours < 0.1
    assert training.cost == pytest.approx(training.cpu_hours * 0.04)
    page = Path(quiet.value["report"]).read_text()
    assert "worth by day in EUR" in page
    assert "serving cost" in page


def test_the_report_is_a_page_that_says_what_was_decided(quiet) -> None:
    page = Path(quiet.value["report"]).read_text()

    assert "Nothing to do" in page
    assert "<script" not in page


def test_the_history_is_kept_in_mlflow_a_run_each_look(served: World, quiet) -> None:
    client = MlflowClient(tracking_uri=served.environment.tracking_uri)
    experiment = client.get_experiment_by_name("toy-demand-monitoring")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])

    assert run.data.metrics["log_loss"] == pytest.approx(quiet.value["numbers"]["log_loss"])
    assert run.data.tags["evergrow.action"] == "none"
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"watch.json", "decision.json", "report.html"}


def test_kubeflow_is_given_the_page_and_the_numbers(served: World, quiet) -> None:
    (output,) = Path(quiet.value["run"]).glob("artifacts/*/decide/executor_output.json")
    artifacts = json.loads(output.read_text())["artifacts"]

    assert artifacts["metrics"]["artifacts"][0]["metadata"]["alarms"] == 0


def test_a_feature_that_breaks_is_an_alert_that_names_it(served: World, quiet) -> None:
    def broken(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(last_count=np.where(rows.index % 2 == 0, np.nan, rows["last_count"]))

    rows = traffic.answers(served.environment, MODEL, UNTIL, UNTIL + DAY, change=broken)
    traffic.log(served.environment, MODEL, rows, views=["station_demand"])
    told = served.run("monitoring", "2024-03-26")
    assert told.code == 0, told.err

    failed = {(o.kind, o.subject) for o in watch(told).observations if o.alarm and o.verdict.outcome == "fail"}
    assert ("nulls", "last_count") in failed
    assert ("skew", "last_count") in failed
    assert ("nulls", "mean_24h") not in failed
    assert told.value["action"] == "alert"
    assert any("last_count: 50.00% missing" in reason for reason in told.value["reasons"])
    assert "Somebody needs to look" in Path(told.value["report"]).read_text()


def test_days_that_were_judged_are_not_judged_or_counted_again(served: World, quiet) -> None:
    places = sorted((served.environment.home / "monitoring/toy-demand").rglob("*.*"))
    before = {p: p.stat().st_mtime_ns for p in places if "2024-03-2" in str(p)}
    told = served.run("monitoring", AS_OF)

    assert told.code == 0, told.err
    assert "judged" not in told.err
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert told.value["numbers"] == quiet.value["numbers"]


def test_a_day_that_was_counted_and_not_judged_is_judged_the_next_time(served: World, quiet) -> None:
    """As after a kill between the two."""
    judged = served.environment.home / "monitoring/toy-demand/observations/2024-03-24.json"
    before = judged.read_text()
    judged.unlink()
    told = served.run("monitoring", AS_OF)

    assert told.code == 0, told.err
    assert "2024-03-24: judged" in told.err
    assert judged.read_text() == before


def test_a_version_that_the_registry_lost_is_named(served: World, tmp_path: Path) -> None:
    lost = tmp_path / "home"
    shutil.copytree(served.environment.home, lost)
    copy = new_world(lost)
    rows = traffic.answers(served.environment, MODEL, UNTIL + DAY, UNTIL + DAY + timedelta(hours=3))
    traffic.log(copy.environment, MODEL, rows.assign(version=7), name="other")
    told = copy.run("monitoring", "2024-03-28")

    assert told.code == 5
    assert "logged by version 7, which the registry does not have" in told.err
