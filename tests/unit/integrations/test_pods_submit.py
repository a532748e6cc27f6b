"""Runs by Jobs: the same submission is the same run, a failed one is run anew, and what went wrong is told."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from evergrow.errors import PipelineError
from evergrow.integrations import pods_submit
from evergrow.integrations.kubernetes import CONFIG_MAP, JOB, POD
from evergrow.integrations.pods_submit import PodRuns, job, run_of, state_of
from evergrow.integrations.submission import Submission
from evergrow.spec.policies import PolicySet
from tests.builders import document
from tests.unit.integrations.kubernetes_twin import KubernetesTwin
from tests.unit.integrations.test_pods import PLACE

OCTOBER = datetime(2013, 10, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pods_submit.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(pods_submit.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def cluster():
    return KubernetesTwin()


@pytest.fixture
def runs(cluster):
    return PodRuns(cluster, PLACE)


def submission(as_of: datetime = OCTOBER, pipeline: str = "training") -> Submission:
    return Submission(PLACE, pipeline, document(), as_of)


def end(cluster, name: str, condition: str, log: str = "") -> None:
    """Have a run's Job end, its pod having said this."""
    cluster.objects["Job", name]["status"] = {"conditions": [{"type": condition, "status": "True", "message": "m"}]}
    cluster.create(POD, {"metadata": {"name": f"{name}-x", "labels": {"job-name": name}}})
    cluster._logs[f"{name}-x"] = log


def test_a_submission_is_a_job_with_its_document_beside_it(runs, cluster):
    run = runs.submit(submission())
    assert run.state == "pending"
    assert run.name.startswith(f"training {document().name} as of 2013-10-01T00:00Z (manual)")
    (config,) = [o for (kind, _), o in cluster.objects.items() if kind == CONFIG_MAP.name]
    assert config["metadata"]["ownerReferences"][0]["uid"] == cluster.objects["Job", run.id]["metadata"]["uid"]
    assert yaml.safe_load(config["data"]["model.yaml"]) == document().dump()
    spec = cluster.objects["Job", run.id]["spec"]["template"]["spec"]
    assert spec["volumes"][-1]["configMap"]["name"] == run.id
    assert spec["containers"][0]["command"][:5] == ["python", "-m", "evergrow", "run", "training"]


def test_the_same_submission_finds_the_run_there_is(runs, cluster):
    first = runs.submit(submission())
    second = runs.submit(submission())
    assert (second.id, second.existing, first.existing) == (first.id, True, False)
    end(cluster, first.id, "Complete")
    assert runs.submit(submission()).id == first.id
    assert len(cluster.names(JOB)) == 1


def test_a_run_is_found_by_its_name_however_it_ended(runs, cluster):
    name = f"training {document().name} as of 2013-10-01T00:00Z (manual)"
    assert runs.find(name) is None
    first = runs.submit(submission())
    end(cluster, first.id, "Failed")
    runs.submit(submission(OCTOBER + timedelta(hours=1)))
    assert runs.find(name).id == first.id
    assert runs.find(name.replace("manual", "loop")) is None


def test_a_materialization_that_succeeded_is_run_anew_and_one_under_way_is_not(runs, cluster):
    first = runs.submit(submission(pipeline="materialization"))
    assert runs.submit(submission(pipeline="materialization")).id == first.id
    end(cluster, first.id, "Complete")
    assert runs.submit(submission(pipeline="materialization")).id != first.id


def test_a_failed_run_is_run_anew_and_stays_in_the_history(runs, cluster):
    first = runs.submit(submission())
    end(cluster, first.id, "Failed")
    second = runs.submit(submission())
    assert second.id != first.id
    assert not second.existing
    assert {run.id: run.state for run in runs.runs()} == {first.id: "failed", second.id: "pending"}


@pytest.mark.parametrize("other", [submission(OCTOBER + timedelta(days=1)), submission(pipeline="batch_scoring")])
def test_another_submission_is_another_run(runs, cluster, other):
    assert runs.submit(submission()).id != runs.submit(other).id


def test_waiting_hands_on_what_is_said_once_and_ends_with_the_run(runs, cluster):
    run = runs.submit(submission())
    end(cluster, run.id, "Complete", 'ingest: 3 rows\n::evergrow:: {"step": "x"}\ndone\n')
    said = []
    assert runs.wait(run, said.append).state == "succeeded"
    assert said == ["ingest: 3 rows", "done"]


def test_a_failed_run_raises_its_own_words_and_says_where_the_rest_is(runs, cluster):
    run = runs.submit(submission())
    end(cluster, run.id, "Failed", "lots of text\nerror: step ingest: column 'x' is missing\n  hint: mend the source\n")
    with pytest.raises(
        PipelineError, match=r"failed: error: step ingest: column 'x' is missing\n  hint: mend the source"
    ) as e:
        runs.wait(run)
    assert f"kubectl logs -n evergrow-dev job/{run.id}" in e.value.hint


def test_waiting_ends_in_time_and_the_run_goes_on(runs, cluster, clock):
    run = runs.submit(submission())
    with pytest.raises(PipelineError, match="is pending after 0:01:00: it has no pod yet"):
        runs.wait(run, timeout=timedelta(minutes=1))
    assert clock[0] >= 60
    assert cluster.names(JOB) == [run.id]


def test_a_run_that_is_gone_says_how_to_find_the_others(runs):
    with pytest.raises(PipelineError, match="run nothing does not exist") as raised:
        runs.get("nothing")
    assert "evergrow status --env dev" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "pending"),
        ({"active": 1}, "running"),
        ({"active": 1, "conditions": [{"type": "FailureTarget", "status": "True"}]}, "failed"),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, "failed"),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, "succeeded"),
        ({"conditions": [{"type": "Complete", "status": "False"}], "active": 1}, "running"),
    ],
)
def test_the_state_of_a_job(status, state):
    assert state_of({"status": status}) == state


def test_an_eviction_starts_another_driver_and_an_error_does_not():
    rules = job(PLACE, submission(), "j")["spec"]["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert rules[1]["action"] == "FailJob"
    assert rules[1]["onExitCodes"] == {"containerName": "main", "operator": "NotIn", "values": [137, 143]}


def test_the_longest_names_fit_what_kubernetes_allows(runs):
    long = document()
    long = long.model_copy(update={"metadata": long.metadata.model_copy(update={"name": "m" * 50})})
    run = runs.submit(Submission(PLACE, "batch_scoring", long, OCTOBER))
    assert len(run.id) <= 52  # a Job's pods add 11 characters to it, and are labels of at most 63


def test_a_run_was_over_when_its_job_first_was():
    done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"}
    about = {"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    assert run_of({**about, "status": {"active": 1}}).ended is None
    told = {**about, "status": {"completionTime": "2026-01-01T00:01:00Z", "conditions": [done]}}
    assert run_of(told).ended == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    failed = {**done, "type": "Failed"}
    assert run_of({**about, "status": {"conditions": [failed]}}).ended == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
    not_yet = {**failed, "status": "False"}
    assert run_of({**about, "status": {"conditions": [not_yet]}}).ended is None


def test_a_backtests_policies_come_with_it_and_other_policies_are_another_run(runs, cluster):
    def asked(**options):
        tried = PolicySet.model_validate({"choices": {"when": {name: {} for name in options}}})
        return replace(submission(pipeline="backtest"), policies=tried, shares=3)

    run = runs.submit(asked(weekly=1))
    command = cluster.objects["Job", run.id]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[command.index("--policies") :] == ["--policies", "/evergrow/policies.yaml", "--shares", "3"]
    kept = cluster.objects["ConfigMap", run.id]["data"]
    assert yaml.safe_load(kept["policies.yaml"])["choices"] == {"when": {"weekly": {}}}
    assert json.loads(asked(weekly=1).arguments["policies"])["choices"] == {"when": {"weekly": {}}}
    assert runs.submit(asked(weekly=1)).existing
    assert runs.submit(asked(monthly=1)).id != run.id
    assert "policies" not in submission().arguments
