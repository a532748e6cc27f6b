"""Schedules in Kubeflow Pipelines: made once, brought up to date, and gone without their runs."""

import json

import pytest

from evergrow.errors import ClusterError, SpecError
from evergrow.integrations.kubeflow_api import Access, connect
from evergrow.integrations.kubeflow_schedules import KubeflowSchedules
from evergrow.spec.environment import EnvironmentSpec
from tests.builders import document
from tests.unit.integrations.fake_kubeflow import FakeKubeflow
from tests.unit.integrations.test_kubeflow_client import PLACE

DAILY = "0 3 * * *"
DOCUMENT = document(name="delays")


@pytest.fixture
def server():
    with FakeKubeflow() as fake:
        yield fake


@pytest.fixture
def schedules(server):
    return of(server)


def of(server, **changes):
    place = EnvironmentSpec.model_validate({**PLACE.dump(), **changes})
    return KubeflowSchedules(connect(place, Access(endpoint=server.url)))


def test_a_schedule_runs_the_document_as_of_the_time_it_is_due(server, schedules):
    made = schedules.create("training", DOCUMENT, DAILY)
    assert (made.name, made.cron, made.suspended) == ("training delays (dev)", DAILY, False)
    (told,) = server.recurring_runs
    assert told["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert json.loads(told["runtime_config"]["parameters"]["spec"]) == DOCUMENT.dump()
    assert "as_of" not in told["runtime_config"]["parameters"]
    ingest = told["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]["ingest"]["inputs"]["parameters"]
    assert ingest["as_of"] == {"runtimeValue": {"constant": "{{$.pipeline_job_schedule_time_utc}}"}}
    assert told["service_account"] == "evergrow-steps-dev"
    assert (told["no_catchup"], told["max_concurrency"]) == (True, "1")
    assert told["experiment_id"] == server.experiments[0]["experiment_id"]


def test_made_again_it_stays_as_it_is(server, schedules):
    first = schedules.create("training", DOCUMENT, DAILY)
    again = schedules.create("training", DOCUMENT, DAILY)
    assert (again.id, again.existing) == (first.id, True)
    assert len(server.recurring_runs) == 1
    assert server.deleted == []


@pytest.mark.parametrize("what", ["cron", "document", "environment"])
def test_changed_it_takes_the_place_of_the_old_one_whose_runs_go_on(server, schedules, what):
    first = schedules.create("training", DOCUMENT, DAILY)
    if what == "cron":
        second = schedules.create("training", DOCUMENT, "0 4 * * *")
    elif what == "document":
        second = schedules.create("training", document(name="delays", training={"seed": 8}), DAILY)
    else:
        images = {"images": {"steps": "evergrow/steps-python:1.1"}}
        second = of(server, code=images).create("training", DOCUMENT, DAILY)
    assert second.id != first.id
    assert [s.id for s in schedules.list()] == [second.id]
    assert server.deleted == [(first.id, "ORPHAN")]


def test_there_is_one_for_each_pipeline_model_and_environment(server, schedules):
    schedules.create("training", DOCUMENT, DAILY)
    schedules.create("materialization", DOCUMENT, DAILY)
    schedules.create("training", document(name="bikes"), DAILY)
    of(server, name="staging").create("training", DOCUMENT, DAILY)
    assert len(server.recurring_runs) == 4
    assert [s.name for s in schedules.list()] == [
        "materialization delays (dev)",
        "training bikes (dev)",
        "training delays (dev)",
    ]


def test_all_are_listed_however_many_pages_there_are(server, schedules):
    schedules.create("training", DOCUMENT, DAILY)
    (told,) = server.recurring_runs
    server.recurring_runs += [{**told, "recurring_run_id": f"copy-{n}", "display_name": f"{n:03d}"} for n in range(250)]
    assert len(schedules.list()) == 251


def test_what_others_made_is_left_alone(server, schedules):
    schedules.create("training", DOCUMENT, DAILY)
    server.recurring_runs.append(
        {**server.recurring_runs[0], "recurring_run_id": "theirs", "description": "made by hand"}
    )
    schedules.create("training", DOCUMENT, "0 4 * * *")
    assert "theirs" in {r["recurring_run_id"] for r in server.recurring_runs}
    assert len(server.recurring_runs) == 2


def test_a_schedule_rests_and_wakes(schedules):
    schedules.create("training", DOCUMENT, DAILY)
    assert schedules.suspend("training delays (dev)").suspended
    assert schedules.list()[0].suspended
    assert not schedules.suspend("training delays (dev)", suspended=False).suspended
    assert schedules.create("training", DOCUMENT, DAILY, suspended=True).suspended
    assert not schedules.create("training", DOCUMENT, DAILY).suspended


def test_one_that_is_made_resting_rests(server, schedules):
    assert schedules.create("training", DOCUMENT, DAILY, suspended=True).suspended
    assert server.recurring_runs[0]["mode"] == "DISABLE"


def test_a_schedule_is_deleted_by_name_or_id(schedules, server):
    first = schedules.create("training", DOCUMENT, DAILY)
    second = schedules.create("materialization", DOCUMENT, DAILY)
    schedules.delete(first.name)
    schedules.delete(second.id)
    assert schedules.list() == []
    assert {policy for _, policy in server.deleted} == {"ORPHAN"}


def test_one_that_is_not_there_is_told_with_those_that_are(schedules):
    schedules.create("training", DOCUMENT, DAILY)
    with pytest.raises(ClusterError, match="no schedule is called 'trainign'") as caught:
        schedules.delete("trainign")
    assert "'training delays (dev)'" in caught.value.hint


@pytest.mark.parametrize("cron", ["@daily", "0 0 3 * * *", "", "3"])
def test_a_time_that_is_not_five_fields_is_refused_before_anything_is_made(server, schedules, cron):
    with pytest.raises(SpecError, match="--cron: must be five fields"):
        schedules.create("training", DOCUMENT, cron)
    assert server.recurring_runs == []


# -- what the environment's values say ---------------------------------------------------------------------------------

MODELS = {
    "delays": {
        "document": DOCUMENT.dump(),
        "schedules": [
            {"pipeline": "training", "cron": DAILY},
            {"pipeline": "materialization", "cron": "0 * * * *"},
            {"pipeline": "materialization", "cron": "30 * * * *", "suspended": True},
        ],
    },
    "bikes": {},
}


def test_the_schedules_that_an_environment_names_are_made(server):
    made = of(server, models=MODELS).apply()
    assert [(s.name, s.cron, s.suspended) for s in made] == [
        ("training delays (dev)", DAILY, False),
        ("materialization delays (dev)", "0 * * * *", False),
        ("materialization delays (dev) 2", "30 * * * *", True),
    ]
    assert all(s.existing for s in of(server, models=MODELS).apply())
    assert len(server.recurring_runs) == 3


def test_those_that_it_no_longer_names_go_only_if_that_is_wanted(server):
    of(server, models=MODELS).apply()
    fewer = {"delays": {**MODELS["delays"], "schedules": MODELS["delays"]["schedules"][:1]}}
    of(server, models=fewer).apply()
    assert len(server.recurring_runs) == 3
    of(server, models=fewer).apply(prune=True)
    assert [r["display_name"] for r in server.recurring_runs] == ["training delays (dev)"]
