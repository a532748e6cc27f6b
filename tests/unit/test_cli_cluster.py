"""`evergrow submit`, `follow`, `terminate`, `schedule` and `status`: what they print, where, and their exit codes."""

import copy
import json
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
import yaml

from evergrow.cli import main
from evergrow.integrations import kubeflow_client
from evergrow.integrations.kubernetes import CONFIG_MAP, CRON_JOB, EVENT, HTTP_ROUTE, INFERENCE_SERVICE, POD
from evergrow.integrations.overview import served
from evergrow.journal import MARK
from evergrow.spec.environment import EnvironmentSpec
from tests.builders import document
from tests.unit.integrations.fake_kubeflow import FakeKubeflow
from tests.unit.integrations.fake_kubernetes import OBJECTS, FakeKubernetes

VALUES = {
    "name": "dev",
    "execution": {"namespace": "evergrow-dev"},
    "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
}


class Told(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def value(self):
        return json.loads(self.out)


@pytest.fixture
def kubeflow():
    with FakeKubeflow() as fake:
        yield fake


@pytest.fixture
def cluster(tmp_path, kubeflow, monkeypatch):
    """A cluster with the environment dev, whose Kubeflow is reached through the API server."""
    from kubernetes.config import kube_config

    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with FakeKubernetes() as fake:
        fake.services["kubeflow"] = kubeflow
        install(fake, VALUES)
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(fake.kubeconfig(tmp_path / "kubeconfig")))
        yield fake


def install(cluster, values, namespace="evergrow-dev"):
    data = {"EVERGROW_ENVIRONMENT": json.dumps(values)}
    cluster.put(CONFIG_MAP, {"metadata": {"name": "evergrow-environment", "namespace": namespace}, "data": data})


@pytest.fixture
def evergrow(capsys, cluster, monkeypatch):
    monkeypatch.setattr(kubeflow_client, "POLL", kubeflow_client.timedelta(milliseconds=5))

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Told(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def model_yaml(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(document(name="delays").dump()))
    return str(path)


@pytest.fixture
def submit(evergrow, model_yaml):
    def run(*more, as_of="2013-10-01", env="dev"):
        return evergrow("submit", "training", "-f", model_yaml, "--env", env, "--as-of", as_of, *more)

    return run


COMMANDS = ["submit", "follow", "terminate", "status"]
SCHEDULE = ["schedule create", "schedule apply", "schedule list", "schedule suspend", "schedule delete"]


@pytest.mark.parametrize("command", [*COMMANDS, *SCHEDULE])
def test_every_command_explains_itself_with_examples(evergrow, command):
    told = evergrow(*command.split(), "--help")
    assert told.code == 0
    assert "Examples:" in told.out
    assert "--env" in told.out


# -- submit, follow, terminate -----------------------------------------------------------------------------------------


def test_a_run_is_submitted_and_the_commands_to_go_on_are_told(submit, kubeflow):
    told = submit()
    assert told.code == 0
    (run,) = kubeflow.runs
    assert told.out.startswith("submitted: training delays as of 2013-10-01T00:00Z (manual) ")
    assert f"evergrow follow {run['run_id']} --env dev" in told.out
    assert "http://ml-pipeline-ui.kubeflow/#/runs/details/" in told.out


def test_json_is_the_run_and_nothing_else(submit, kubeflow):
    told = submit("-o", "json", "--reason", "nightly")
    assert told.value["id"] == kubeflow.runs[0]["run_id"]
    assert (told.value["state"], told.value["existing"], told.value["runner"]) == ("pending", False, "kubeflow")
    assert "(nightly)" in told.value["name"]
    assert submit("-o", "json").value["existing"] is True
    assert "is there already" in submit().out
    assert submit("-o", "json", "--again").value["existing"] is False
    assert len(kubeflow.runs) == 2


def test_another_image_is_another_run_in_that_image(submit, kubeflow):
    submit()
    told = submit("--image", "registry.example.com/steps-python:2.0@sha256:" + "c" * 64)
    assert told.out.startswith("submitted")
    executors = kubeflow.runs[1]["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {
        "registry.example.com/steps-python:2.0@sha256:" + "c" * 64
    }


def test_an_image_without_a_tag_is_refused(submit, kubeflow):
    told = submit("--image", "steps-python")
    assert told.code == 2
    assert "--image: must be name:tag" in told.err
    assert kubeflow.runs == []


def test_without_an_instant_it_is_now_to_the_second(evergrow, model_yaml, kubeflow):
    evergrow("submit", "training", "-f", model_yaml, "--env", "dev")
    as_of = datetime.fromisoformat(kubeflow.runs[0]["runtime_config"]["parameters"]["as_of"])
    assert as_of.microsecond == 0
    assert abs((datetime.now(UTC) - as_of).total_seconds()) < 60


def step_pod(cluster, run_id, log, pod="fine", step="train"):
    found = copy.deepcopy(OBJECTS["pods"][pod])
    labels = {"pipeline/runid": run_id, "evergrow.dev/step": step, "evergrow.dev/environment": "dev"}
    found["metadata"] |= {"name": f"training-{step}", "namespace": "kubeflow", "labels": labels}
    cluster.put(POD, found)
    cluster.logs["kubeflow", f"training-{step}"] = log


def event(what, step="train", **more):
    return MARK + json.dumps({"step": step, "process": 1, "at": 1.0, "what": what, **more})


def test_waiting_shows_the_steps_and_ends_with_what_they_returned(submit, kubeflow, cluster):
    submit()
    run_id = kubeflow.runs[0]["run_id"]
    kubeflow.script(("RUNNING", ("train", "RUNNING")), ("SUCCEEDED", ("train", "SUCCEEDED")))
    step_pod(cluster, run_id, event("ended", "evaluate", text="pass"), step="evaluate")
    told = submit("--wait")
    assert told.code == 0
    assert "✓ train" in told.err
    assert "succeeded: training delays" in told.out
    assert "evaluate: pass" in told.out
    kubeflow.becomes("SUCCEEDED")
    waited = submit("--wait", "-o", "json").value
    assert (waited["returned"], waited["existing"]) == ({"evaluate": "pass"}, True)


def test_a_failed_steps_error_is_the_commands_with_its_exit_code_hint_and_log(submit, kubeflow, cluster):
    submit()
    run_id = kubeflow.runs[0]["run_id"]
    kubeflow.script(("RUNNING", ("train", "RUNNING")), ("FAILED", ("train", "FAILED")))
    failure = event("failed", error="DataError", text="rows: must be at least 1, found 0", hint="look at the source")
    step_pod(cluster, run_id, f"reading rows\n{failure}\n", "out-of-memory")
    told = submit("--wait")
    assert told.code == 3
    assert "error: step train: rows: must be at least 1, found 0\n  hint: look at the source" in told.err
    assert "the end of the log of train" in told.err
    assert "reading rows" in told.err
    assert "::evergrow::" not in told.err
    assert "✗ train" in told.err


def test_a_run_that_takes_too_long_is_a_failure_that_says_it_goes_on(submit, kubeflow):
    submit()
    kubeflow.becomes("RUNNING")
    told = submit("--wait", "--timeout", "0s")
    assert told.code == 6
    assert "is running still after" in told.err
    assert "the run goes on" in told.err


def test_a_timeout_that_is_none_is_refused(submit):
    told = submit("--wait", "--timeout", "soon")
    assert told.code == 2
    assert "--timeout: must be a duration" in told.err


def test_ctrl_c_ends_the_watching_and_says_how_to_go_on_and_how_to_stop_it(submit, kubeflow, evergrow, monkeypatch):
    submit()
    run_id = kubeflow.runs[0]["run_id"]
    kubeflow.becomes("RUNNING")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kubeflow_client.time, "sleep", interrupt)
    told = submit("--wait", "--namespace", "evergrow-dev")
    assert told.code == 130
    assert f"evergrow follow {run_id} --env dev --namespace evergrow-dev" in told.err
    assert f"evergrow terminate {run_id} --env dev --namespace evergrow-dev" in told.err
    assert kubeflow.runs[0]["state"] == "RUNNING"


def test_a_run_is_watched_and_terminated_by_its_id(submit, kubeflow, evergrow):
    submit()
    run_id = kubeflow.runs[0]["run_id"]
    told = evergrow("terminate", run_id, "--env", "dev")
    assert (told.code, told.out.startswith("terminated: training delays")) == (0, True)
    told = evergrow("follow", run_id, "--env", "dev")
    assert told.code == 6
    assert "was terminated" in told.err
    told = evergrow("follow", "nowhere", "--env", "dev")
    assert told.code == 9


# -- where -------------------------------------------------------------------------------------------------------------


def test_an_environment_that_is_not_installed_is_told_with_how_to_install_it(submit):
    told = submit(env="staging")
    assert told.code == 9
    assert "--env staging: namespace evergrow-staging has no ConfigMap evergrow-environment" in told.err
    assert "helm upgrade --install evergrow charts/evergrow --namespace evergrow-staging" in told.err


def test_an_environment_of_another_name_is_not_taken_for_it(submit, cluster):
    told = submit("--namespace", "evergrow-dev", env="production")
    assert told.code == 9
    assert "holds the environment 'dev'" in told.err


def test_an_environment_elsewhere_is_found_by_its_namespace(submit, cluster, kubeflow):
    install(cluster, {**VALUES, "name": "staging"}, "flights")
    assert submit("-n", "flights", env="staging").code == 0


def test_an_environment_that_this_version_cannot_read_is_told(submit, cluster):
    install(cluster, {**VALUES, "exeuction": {}})
    told = submit()
    assert told.code == 9
    assert "exeuction" in told.err
    assert "differ in version" in told.err


def test_a_context_that_does_not_exist_is_told(submit):
    told = submit("--context", "nowhere")
    assert told.code == 9
    assert "kubectl config get-contexts" in told.err


def test_a_cluster_that_refuses_is_told(submit, cluster):
    cluster.forbidden.add("configmaps")
    told = submit()
    assert told.code == 9
    assert "configmaps is forbidden" in told.err


def test_kubeflow_that_is_not_there_is_told_with_the_port_forward(submit, cluster):
    told = submit("--endpoint", "http://127.0.0.1:9")
    assert told.code == 9
    assert "port-forward svc/ml-pipeline-ui 8888:80" in told.err


def test_a_token_and_an_endpoint_are_passed_on(submit, kubeflow, tmp_path):
    kubeflow.token = "secret"
    token = tmp_path / "token"
    token.write_text("secret")
    assert submit("--endpoint", kubeflow.url).code == 9
    assert submit("--endpoint", kubeflow.url, "--token-file", str(token)).code == 0


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_made_listed_suspended_and_deleted(evergrow, model_yaml, kubeflow):
    create = ("schedule", "create", "training", "-f", model_yaml, "--env", "dev", "--cron", "0 3 * * *")
    assert evergrow(*create).out == "training delays (dev) is scheduled: 0 3 * * * (UTC)\n"
    assert "is as it should be" in evergrow(*create).out
    (listed,) = evergrow("schedule", "list", "--env", "dev", "-o", "json").value
    assert (listed["cron (UTC)"], listed["state"]) == ("0 3 * * *", "active")
    name = "training delays (dev)"
    assert "suspended" in evergrow("schedule", "suspend", name, "--env", "dev").out
    assert "suspended" not in evergrow("schedule", "suspend", name, "--env", "dev", "--resume").out
    assert evergrow("schedule", "delete", name, "--env", "dev").out == f"deleted: {name}\n"
    assert "no schedules" in evergrow("schedule", "list", "--env", "dev").out


def test_the_environments_own_schedules_are_applied(evergrow, cluster, kubeflow):
    schedules = [{"pipeline": "training", "cron": "0 3 * * *"}]
    install(
        cluster, {**VALUES, "models": {"delays": {"document": document(name="delays").dump(), "schedules": schedules}}}
    )
    assert "training delays (dev)" in evergrow("schedule", "apply", "--env", "dev").out
    assert len(kubeflow.recurring_runs) == 1


def test_schedules_of_steps_in_pods_are_the_charts(evergrow, cluster, model_yaml):
    install(cluster, {**VALUES, "execution": {"namespace": "evergrow-dev", "pipelines": {"runner": "pods"}}})
    told = evergrow("schedule", "list", "--env", "dev")
    assert told.code == 2
    assert "models.<name>.schedules" in told.err


# -- status ------------------------------------------------------------------------------------------------------------


def route(weights):
    backends = [{"name": f"{name}-predictor", "port": 80, "weight": weight} for name, weight in weights.items()]
    labels = {"evergrow.dev/model": "arrival-delay", "evergrow.dev/environment": "dev"}
    metadata = {"name": "arrival-delay", "namespace": "evergrow-dev", "labels": labels}
    return {"metadata": metadata, "spec": {"rules": [{"backendRefs": backends}]}}


def test_an_environment_where_nothing_is_yet(evergrow):
    told = evergrow("status", "--env", "dev")
    assert told.code == 0
    assert "dev: namespace evergrow-dev, steps by kubeflow" in told.out
    assert told.out.rstrip().endswith("problems\nnone")


def test_status_tells_what_serves_runs_and_is_to_run_and_what_is_wrong(evergrow, cluster, kubeflow, submit, model_yaml):
    for name in ("arrival-delay-v2", "arrival-delay-v3"):
        cluster.put(INFERENCE_SERVICE, OBJECTS["services"][name])
    cluster.put(HTTP_ROUTE, route({"arrival-delay-v2": 1}))
    cluster.put(POD, OBJECTS["pods"]["predictor-v3"])
    submit()
    step_pod(cluster, kubeflow.runs[0]["run_id"], "", "no-key")
    event_now = {**OBJECTS["events"]["FailedCreate Job/over-quota"], "metadata": {"name": "quota"}}
    cluster.put(EVENT, event_now | {"lastTimestamp": datetime.now(UTC).isoformat()}, "evergrow-dev")
    evergrow("schedule", "create", "training", "-f", model_yaml, "--env", "dev", "--cron", "0 3 * * *")

    seen = evergrow("status", "--env", "dev", "-o", "json").value
    newest, serving = seen["models"]
    assert (newest["version"], newest["state"], newest["share"]) == ("3", "not ready", 0)
    assert (serving["version"], serving["state"], serving["share"]) == ("2", "Ready", 100)
    assert serving["url"] == "http://arrival-delay.evergrow-dev.example.com"
    assert [run["id"] for run in seen["runs"]] == [kubeflow.runs[0]["run_id"]]
    assert [s["name"] for s in seen["schedules"]] == ["training delays (dev)"]
    what = "\n".join(problem["what"] for problem in seen["problems"])
    assert "the object store does not accept the credentials" in what
    assert "the Secret evergrow-credentials has no key FEAST_REDIS" in what
    assert "the quota evergrow is used up" in what

    told = evergrow("status", "--env", "dev").out
    for word in ("100 %", "not ready", kubeflow.runs[0]["run_id"], "0 3 * * *", "fix:", "why:"):
        assert word in told


def test_status_shows_submitted_and_scheduled_runs_together_newest_first(evergrow, kubeflow, submit, model_yaml):
    submit()
    evergrow("schedule", "create", "training", "-f", model_yaml, "--env", "dev", "--cron", "0 3 * * *")
    (schedule,) = kubeflow.recurring_runs
    for minute in (0, 30):
        due = f"2026-11-25T03:{minute:02}:00+00:00"
        run = {"run_id": f"due-{minute}", "display_name": "trainingdelaysxk2p-1-94", "state": "FAILED"}
        times = {"created_at": due, "scheduled_at": due}
        kubeflow.runs.append({**run, **times, "recurring_run_id": schedule["recurring_run_id"]})

    seen = evergrow("status", "--env", "dev", "-o", "json").value

    assert [run["id"] for run in seen["runs"]] == ["due-30", "due-0", kubeflow.runs[0]["run_id"]]
    assert seen["runs"][0]["name"] == "training delays (dev) due 2026-11-25T03:30Z"


def test_what_cannot_be_looked_at_is_a_problem_and_the_rest_is_told_all_the_same(evergrow, cluster, kubeflow):
    cluster.put(INFERENCE_SERVICE, OBJECTS["services"]["arrival-delay-v2"])
    cluster.forbidden.add("events")
    del cluster.services["kubeflow"]
    seen = evergrow("status", "--env", "dev", "-o", "json").value
    assert [m["state"] for m in seen["models"]] == ["Ready"]
    assert {p["where"] for p in seen["problems"]} == {"events", "runs", "schedules"}
    assert all(p["fix"] for p in seen["problems"])


def test_other_environments_pods_in_kubeflows_namespace_are_none_of_ours(evergrow, cluster):
    step_pod(cluster, "a run of staging", "", "no-key")
    pod = cluster.objects["kubeflow", "pods", "training-train"]
    pod["metadata"]["labels"]["evergrow.dev/environment"] = "staging"
    assert evergrow("status", "--env", "dev", "-o", "json").value["problems"] == []
    pod["metadata"]["labels"]["evergrow.dev/environment"] = "dev"
    assert len(evergrow("status", "--env", "dev", "-o", "json").value["problems"]) == 1


def test_status_of_steps_in_pods_reads_jobs_and_cron_jobs_and_no_kubeflow(evergrow, cluster, kubeflow):
    install(cluster, {**VALUES, "execution": {"namespace": "evergrow-dev", "pipelines": {"runner": "pods"}}})
    labels = {"evergrow.dev/environment": "dev"}
    spec = {"schedule": "0 3 * * *", "suspend": True}
    metadata = {"name": "delays-training", "namespace": "evergrow-dev", "labels": labels}
    cluster.put(CRON_JOB, {"metadata": metadata, "spec": spec})
    seen = evergrow("status", "--env", "dev", "-o", "json").value
    (schedule,) = seen["schedules"]
    assert (schedule["cron"], schedule["suspended"], schedule["runner"]) == ("0 3 * * *", True, "pods")
    assert seen["runs"] == []
    assert seen["problems"] == []
    assert kubeflow.asked == []


def test_a_model_that_is_named_but_not_deployed_is_told():
    place = EnvironmentSpec.model_validate({**VALUES, "models": {"delays": {}, "arrival-delay": {}}})
    service = OBJECTS["services"]["arrival-delay-v2"]
    assert [(s.model, s.state) for s in served(place, [service], [])] == [
        ("arrival-delay", "Ready"),
        ("delays", "not deployed"),
    ]


def test_requests_that_two_versions_share_are_told_in_percent():
    place = EnvironmentSpec.model_validate(VALUES)
    services = [OBJECTS["services"]["arrival-delay-v2"], OBJECTS["services"]["arrival-delay-v3"]]
    found = served(place, services, [route({"arrival-delay-v2": 9, "arrival-delay-v3": 1})])
    assert [(s.version, s.share) for s in found] == [("3", 10), ("2", 90)]
    assert [s.share for s in served(place, services, [])] == [0, 0]
