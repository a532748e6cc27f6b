"""Runs on Kubeflow Pipelines, by the real kfp.Client against a stand-in of its API."""

import dataclasses
import ipaddress
import json
import os
import socket
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evergrow.errors import ClusterError, DataError, PipelineError, SpecError
from evergrow.integrations import kubeflow_client
from evergrow.integrations.kubeflow_api import Access, Unreachable, connect
from evergrow.integrations.kubeflow_client import KubeflowRuns
from evergrow.integrations.kubernetes import POD, Kubernetes
from evergrow.integrations.submission import Submission
from evergrow.journal import MARK
from evergrow.spec.environment import EnvironmentSpec
from tests.builders import document
from tests.unit.integrations.fake_kubeflow import FakeKubeflow
from tests.unit.integrations.fake_kubernetes import OBJECTS, FakeKubernetes

PLACE = EnvironmentSpec.model_validate(
    {
        "name": "dev",
        "execution": {
            "namespace": "evergrow-dev",
            "pipelines": {"kubeflow": {"ui": "https://kubeflow.example.com/"}},
        },
        "code": {"images": {"steps": "evergrow/steps-python:1.0"}},
        "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
    }
)
AS_OF = datetime(2013, 10, 1, tzinfo=UTC)
SUBMISSION = Submission(PLACE, "training", document(name="delays"), AS_OF)
SOON = timedelta(milliseconds=5)


def changed(place=PLACE, **images):
    dumped = place.dump()
    dumped["code"]["images"] |= images
    return EnvironmentSpec.model_validate(dumped)


@pytest.fixture(autouse=True)
def nowhere_in_particular(monkeypatch):
    """Nothing of this machine says where Kubeflow is."""
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with FakeKubeflow() as fake:
        yield fake


@pytest.fixture
def cluster(tmp_path):
    with FakeKubernetes() as fake:
        fake.config = fake.kubeconfig(tmp_path / "kubeconfig")
        yield fake


def kubernetes(cluster, namespace="kubeflow"):
    from kubernetes import config

    return Kubernetes(config.new_client_from_config(str(cluster.config)), namespace, patience=1)


@pytest.fixture
def runs(server, cluster):
    kubeflow = connect(PLACE, Access(endpoint=server.url))
    return KubeflowRuns(kubeflow, kubernetes(cluster), poll=SOON, stuck=timedelta(seconds=0.2))


@pytest.fixture
def failed_step(cluster):
    """Put the pod of a failed step there."""

    def put(run_id, log, name="training-1-train", step="train", pod="out-of-memory", **metadata):
        found = json.loads(json.dumps(OBJECTS["pods"][pod]))
        labels = {"pipeline/runid": run_id} | ({"evergrow.dev/step": step} if step else {})
        found["metadata"] |= {"name": name, "namespace": "kubeflow", "labels": labels, **metadata}
        cluster.put(POD, found)
        cluster.logs["kubeflow", name] = log

    return put


def event(what, step="train", **more):
    return MARK + json.dumps({"step": step, "process": 7, "at": 1.0, "what": what, **more})


# -- looking --------------------------------------------------------------------------------------------------------


def test_runs_of_a_schedule_are_called_by_it_and_by_when_they_were_due(server, runs):
    for schedule, due in (("nightly", "2026-11-25T03:00:00+00:00"), ("nightly", None), ("hourly", None)):
        made = {"run_id": f"{schedule}-{due}", "display_name": "trainingdelaysxk2p-1-94", "state": "SUCCEEDED"}
        times = {"created_at": "2026-11-24T03:00:07+00:00"} | ({"scheduled_at": due} if due else {})
        server.runs.append({**made, **times, "recurring_run_id": schedule})

    found = runs.of_schedule("nightly", "training delays (dev)")

    assert {run.id: run.name for run in found} == {
        "nightly-2026-11-25T03:00:00+00:00": "training delays (dev) due 2026-11-25T03:00Z",
        "nightly-None": "training delays (dev) due 2026-11-24T03:00:07Z",
    }


def test_a_run_that_is_over_shows_its_steps_in_the_order_in_which_they_began(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("SUCCEEDED", ("ingest", "SUCCEEDED"), ("train", "SUCCEEDED"), ("evaluate", "SUCCEEDED"))
    server.runs[0]["run_details"]["task_details"].reverse()

    told = []
    runs.wait(run, told.append, timedelta(seconds=5))

    assert [event.step for event in told if event.what == "ended"] == ["ingest", "train", "evaluate"]


# -- submitting --------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_why_and_belongs_to_its_models_experiment(server, runs):
    run = runs.submit(SUBMISSION)
    assert run.name == f"training delays as of 2013-10-01T00:00Z (manual) {SUBMISSION.identity[:8]}"
    assert (run.state, run.existing, run.runner) == ("pending", False, "kubeflow")
    assert run.link == f"https://kubeflow.example.com/#/runs/details/{run.id}"
    (made,), (experiment,) = server.runs, server.experiments
    assert experiment["display_name"] == "delays"
    assert made["experiment_id"] == experiment["experiment_id"]
    assert made["service_account"] == "evergrow-steps-dev"
    assert json.loads(made["runtime_config"]["parameters"]["spec"]) == document(name="delays").dump()
    assert made["runtime_config"]["parameters"]["as_of"] == "2013-10-01T00:00:00+00:00"


def test_without_a_user_interface_links_lead_to_the_endpoint(server):
    dumped = PLACE.dump()
    dumped["execution"]["pipelines"]["kubeflow"]["ui"] = ""
    kubeflow = connect(EnvironmentSpec.model_validate(dumped), Access(endpoint=server.url))
    assert kubeflow.link("7") == f"{server.url}/#/runs/details/7"


def test_what_kfp_prints_of_itself_is_not_in_the_way_of_json(runs, capsys):
    runs.submit(SUBMISSION)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_the_same_submitted_again_is_the_run_that_is_there(server, runs, state):
    first = runs.submit(SUBMISSION)
    server.becomes(state)
    again = runs.submit(dataclasses.replace(SUBMISSION, reason="again"))
    assert (again.id, again.existing) == (first.id, True)
    assert len(server.runs) == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_failed_is_started_anew(server, runs, state):
    first = runs.submit(SUBMISSION)
    server.becomes(state)
    again = runs.submit(SUBMISSION)
    assert again.id != first.id
    assert not again.existing
    assert len(server.experiments) == 1


def test_an_older_success_counts_even_after_a_newer_failure(server, runs):
    first = runs.submit(SUBMISSION)
    server.becomes("SUCCEEDED")
    runs.submit(SUBMISSION, again=True)
    server.becomes("FAILED")
    assert runs.submit(SUBMISSION).id == first.id


def test_a_run_that_was_archived_does_not_count(server, runs):
    runs.submit(SUBMISSION)
    server.becomes("SUCCEEDED")
    server.runs[-1]["storage_state"] = "ARCHIVED"
    assert not runs.submit(SUBMISSION).existing


@pytest.mark.parametrize(
    "other",
    [
        {"as_of": AS_OF + timedelta(hours=1)},
        {"document": document(name="delays", training={"seed": 8})},
        {"environment": changed(steps="evergrow/steps-python:1.1")},
        {"environment": changed(steps="evergrow/steps-python:1.0@sha256:" + "b" * 64)},
        {"environment": PLACE.model_copy(update={"name": "staging"})},
        {"pipeline": "batch_scoring"},
    ],
    ids=["as-of", "document", "image", "digest", "environment", "pipeline"],
)
def test_whatever_changes_what_a_run_does_makes_it_another_one(server, runs, other):
    first, second = runs.submit(SUBMISSION), runs.submit(dataclasses.replace(SUBMISSION, **other))
    assert first.id != second.id
    assert not second.existing


def test_what_does_not_change_what_a_run_does_does_not(runs):
    first = runs.submit(SUBMISSION)
    elsewhere = AS_OF.astimezone(datetime.fromisoformat("2013-10-01T02:00:00+02:00").tzinfo)
    assert runs.submit(dataclasses.replace(SUBMISSION, as_of=elsewhere)).id == first.id
    assert runs.submit(dataclasses.replace(SUBMISSION, environment=changed(pullPolicy="Always"))).id == first.id


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "FAILED"])
def test_a_run_is_found_by_its_name_however_it_ended_and_however_many_came_after_it(server, runs, state):
    name = "training delays as of 2013-10-01T00:00Z (loop)"
    elsewhere = dataclasses.replace(SUBMISSION, environment=PLACE.model_copy(update={"name": "staging"}))
    runs.submit(dataclasses.replace(elsewhere, reason="loop"))
    assert runs.find(name) is None
    first = runs.submit(dataclasses.replace(SUBMISSION, reason="loop"))
    server.becomes(state)
    for hours in range(1, 31):
        runs.submit(dataclasses.replace(SUBMISSION, as_of=AS_OF + timedelta(hours=hours), reason="loop"))
    found = runs.find(name)
    assert found is not None
    assert found.id == first.id
    assert first.id not in [run.id for run in runs.runs()]
    assert runs.find("training delays as of 2013-10-01T00:00Z (manual)") is None


def test_a_run_is_submitted_all_the_same_if_that_is_wanted(runs):
    assert runs.submit(SUBMISSION).id != runs.submit(SUBMISSION, again=True).id


def test_a_materialization_that_succeeded_is_done_anew_and_one_that_runs_is_not(server, runs):
    submission = dataclasses.replace(SUBMISSION, pipeline="materialization")
    first = runs.submit(submission)
    assert runs.submit(submission).id == first.id
    server.becomes("SUCCEEDED")
    assert runs.submit(submission).id != first.id


def test_the_environments_runs_are_listed_newest_first_and_no_others(server, runs):
    first = runs.submit(SUBMISSION)
    runs.submit(dataclasses.replace(SUBMISSION, environment=PLACE.model_copy(update={"name": "staging"})))
    server.runs[-1]["description"] = server.runs[-1]["description"].replace("=dev", "=staging")
    last = runs.submit(SUBMISSION, again=True)
    assert [run.id for run in runs.runs()] == [last.id, first.id]
    assert all(run.created is not None for run in runs.runs())


def test_a_run_is_terminated(server, runs):
    run = runs.submit(SUBMISSION)
    runs.cancel(run)
    assert runs.get(run.id).state == "canceled"
    assert not runs.submit(SUBMISSION).existing


# -- watching ----------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_step_by_step_until_it_is_over(server, runs, cluster, failed_step):
    run = runs.submit(SUBMISSION)
    server.script(
        ("PENDING",),
        ("RUNNING", ("root", "RUNNING"), ("ingest-driver", "SUCCEEDED"), ("ingest", "RUNNING")),
        ("RUNNING", ("root", "RUNNING"), ("ingest-driver", "SUCCEEDED"), ("ingest", "SUCCEEDED"),
         ("build-training-set", "RUNNING")),
        ("SUCCEEDED", ("root", "SUCCEEDED"), ("ingest-driver", "SUCCEEDED"), ("ingest", "SUCCEEDED"),
         ("build-training-set", "SUCCEEDED"), ("deploy", "SKIPPED")),
    )  # fmt: skip
    told = []
    over = runs.wait(run, lambda e: told.append((e.step, e.what)), timedelta(seconds=5))
    assert over.state == "succeeded"
    assert told == [
        ("ingest", "started"),
        ("ingest", "ended"),
        ("build_training_set", "started"),
        ("build_training_set", "ended"),
    ]


def test_what_a_step_has_said_of_its_work_is_told_when_it_ends(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.script(("RUNNING", ("ingest", "RUNNING")), ("SUCCEEDED", ("ingest", "SUCCEEDED")))
    passing = event("noted", "ingest", text="reading flights", passing=True)
    log = "\n".join([passing, event("noted", "ingest", text="12 new rows"), event("ended", "ingest")])
    failed_step(run.id, log, "i", "ingest", pod="fine")
    told = []
    runs.wait(run, lambda e: told.append((e.what, e.text)), timedelta(seconds=5))
    assert told == [("started", ""), ("noted", "12 new rows"), ("ended", "")]


def test_steps_side_by_side_are_told_apart(server, runs):
    run = runs.submit(dataclasses.replace(SUBMISSION, pipeline="batch_scoring"))
    server.script(("SUCCEEDED", ("score", "SUCCEEDED"), ("score", "SUCCEEDED")))
    told = []
    runs.wait(run, told.append, timedelta(seconds=5))
    assert len({e.process for e in told}) == 2
    assert [e.step for e in told] == ["score"] * 4


def test_a_failed_step_comes_out_as_its_own_error_with_its_hint_and_the_end_of_its_log(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED", ("train", "FAILED"))
    failure = event("failed", error="DataError", text="rows: must be at least 1, found 0", hint="look at the source")
    failed_step(run.id, f"reading\n{event('started')}\n{failure}\nTraceback\n")
    said = []
    with pytest.raises(DataError) as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=5), said.append)
    assert str(caught.value) == "step train: rows: must be at least 1, found 0"
    assert caught.value.hint.splitlines() == ["look at the source", f"the run: {run.link}"]
    assert said == ["the end of the log of train (pod training-1-train):\nreading\nTraceback"]


def test_a_step_that_could_say_nothing_is_explained_by_its_pod(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")
    failed_step(run.id, "")
    with pytest.raises(PipelineError, match="step train: it ran out of memory") as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=5))
    assert "memoryLimit" in caught.value.hint


def test_of_several_attempts_the_last_one_speaks_and_of_several_steps_the_one_that_failed_first(
    server, runs, failed_step
):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")

    def log(text, step="train"):
        return event("failed", step, error="DataError", text=text)

    failed_step(run.id, log("second"), "b", creationTimestamp="2026-11-25T00:02:00Z")
    failed_step(run.id, log("first"), "a", creationTimestamp="2026-11-25T00:01:00Z")
    failed_step(run.id, log("later", "deploy"), "c", "deploy", creationTimestamp="2026-11-25T00:01:30Z")
    failed_step(run.id, "driver", "d", "", creationTimestamp="2026-11-25T00:00:00Z")
    failed_step("another run", log("other"), "e", creationTimestamp="2026-11-25T00:00:00Z")
    with pytest.raises(DataError, match="step train: second"):
        runs.wait(run, lambda _: None, timedelta(seconds=5))


def test_kubeflows_own_pods_are_explained_where_no_step_failed(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")
    failed_step(run.id, "F1125 KFP driver: forbidden", "training-driver", "", pod="too-long")
    said = []
    with pytest.raises(PipelineError, match="Kubeflow's own pod training-driver"):
        runs.wait(run, lambda _: None, timedelta(seconds=5), said.append)
    assert "KFP driver: forbidden" in said[0]


def test_pods_that_must_not_be_read_are_said_to_be_so(server, cluster, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")
    cluster.forbidden.add("pods")
    with pytest.raises(PipelineError, match="failed") as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=5))
    assert "its pods cannot be read" in caught.value.hint
    assert "forbidden" in caught.value.hint
    assert run.link in caught.value.hint


def test_a_log_that_must_not_be_read_is_said_to_be_so(server, cluster, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")
    failed_step(run.id, "")
    cluster.forbidden.add("pods/log")
    with pytest.raises(PipelineError, match="step train: failed, and its log cannot be read"):
        runs.wait(run, lambda _: None, timedelta(seconds=5))


def test_pods_that_are_gone_are_said_to_be_so(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("FAILED")
    with pytest.raises(PipelineError) as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=5))
    assert "its pods are gone" in caught.value.hint


def test_a_terminated_run_ends_the_waiting(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("CANCELED")
    with pytest.raises(PipelineError, match="was terminated"):
        runs.wait(run, lambda _: None, timedelta(seconds=5))


def test_waiting_ends_in_time_and_says_that_the_run_goes_on(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("RUNNING")
    with pytest.raises(PipelineError, match="is running still after 0:00:00.05") as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=0.05))
    assert "the run goes on" in caught.value.hint
    assert runs.get(run.id).state == "running"


def test_a_pod_that_is_stuck_is_shown_and_ends_the_waiting_before_kubeflow_would(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.becomes("RUNNING", ("train", "RUNNING"))
    failed_step(run.id, "", pod="no-key")
    told = []
    with pytest.raises(PipelineError, match="step train: the Secret evergrow-credentials has no key FEAST_REDIS") as e:
        runs.wait(run, told.append, timedelta(seconds=5))
    assert [x.text for x in told if x.what == "noted"] == ["the Secret evergrow-credentials has no key FEAST_REDIS"]
    assert "patch secret" in e.value.hint
    assert "goes on waiting" in e.value.hint


def test_a_pod_that_was_stuck_for_a_moment_does_not(server, cluster, runs, failed_step):
    run = runs.submit(SUBMISSION)
    server.script(*[("RUNNING", ("train", "RUNNING"))] * 5, ("SUCCEEDED", ("train", "SUCCEEDED")))
    failed_step(run.id, "", pod="no-key")
    assert runs.wait(run, lambda _: None, timedelta(seconds=5)).state == "succeeded"


def test_an_interruption_ends_the_waiting_and_not_the_run(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("RUNNING", ("train", "RUNNING"))

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.wait(run, interrupt, timedelta(seconds=5))
    assert runs.get(run.id).state == "running"


def test_a_server_that_is_away_for_a_while_is_waited_for_and_said_so_once(server, runs):
    run = runs.submit(SUBMISSION)
    server.becomes("SUCCEEDED")
    server.down = 3
    said = []
    assert runs.wait(run, lambda _: None, timedelta(seconds=5), said.append).state == "succeeded"
    (text,) = said
    assert "no endpoints available" in text
    assert "trying again" in text


def test_a_server_that_stays_away_is_told(server, runs, monkeypatch):
    run = runs.submit(SUBMISSION)
    monkeypatch.setattr(kubeflow_client, "PATIENCE", timedelta(seconds=0.05))
    server.stop()
    with pytest.raises(Unreachable, match="does not answer") as caught:
        runs.wait(run, lambda _: None, timedelta(seconds=5))
    assert "port-forward svc/ml-pipeline-ui 8888:80" in caught.value.hint


def test_what_steps_returned_is_read_from_their_logs(server, runs, failed_step):
    run = runs.submit(SUBMISSION)
    failed_step(run.id, event("ended", "evaluate", text="pass"), "e", "evaluate", pod="fine")
    failed_step(run.id, event("ended", "register", text="3"), "r", "register", pod="fine")
    failed_step("another", event("ended", "deploy", text="x"), "d", "deploy", pod="fine")
    assert runs.returned(run) == {"evaluate": "pass", "register": "3"}


def test_without_the_right_to_read_logs_nothing_is_known_to_be_returned(server, cluster, runs, failed_step):
    run = runs.submit(SUBMISSION)
    failed_step(run.id, event("ended", "evaluate", text="pass"), "e", "evaluate", pod="fine")
    cluster.forbidden.add("pods/log")
    assert runs.returned(run) == {}
    server.becomes("SUCCEEDED", ("evaluate", "SUCCEEDED"))
    assert runs.wait(run, lambda _: None, timedelta(seconds=5)).state == "succeeded"


# -- reaching Kubeflow -------------------------------------------------------------------------------------------------


def test_nobody_there_is_told_with_how_to_get_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="does not answer") as caught:
        connect(PLACE, Access(endpoint=endpoint))
    assert "kubectl --namespace kubeflow port-forward svc/ml-pipeline-ui 8888:80" in caught.value.hint


def test_a_token_is_asked_for_given_and_read_again(tmp_path):
    token = tmp_path / "token"
    with FakeKubeflow(token="secret") as server:
        with pytest.raises(ClusterError, match="401") as caught:
            connect(PLACE, Access(endpoint=server.url))
        assert "--token-file" in caught.value.hint
        token.write_text("wrong")
        with pytest.raises(ClusterError, match="401"):
            connect(PLACE, Access(endpoint=server.url, token_file=token))
        token.write_text("secret\n")
        runs = KubeflowRuns(connect(PLACE, Access(endpoint=server.url, token_file=token)), None)
        server.token = "renewed"
        with pytest.raises(ClusterError, match="401"):
            runs.submit(SUBMISSION)
        token.write_text("renewed")
        assert runs.submit(SUBMISSION).state == "pending"


def test_a_token_file_that_is_not_there_is_told():
    with pytest.raises(SpecError, match="/nowhere/token does not exist"):
        connect(PLACE, Access(endpoint="http://127.0.0.1:1", token_file=Path("/nowhere/token")))


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1 that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubeflow")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    return path


def test_a_certificate_is_checked_unless_that_is_not_wanted(certificate):
    fake = FakeKubeflow()
    fake.certificate = certificate
    with fake as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ClusterError, match="certificate is not trusted") as caught:
            connect(PLACE, Access(endpoint=server.url))
        assert "--ca-cert FILE" in caught.value.hint
        for access in (
            Access(endpoint=server.url, ca_cert=certificate),
            Access(endpoint=server.url, verify=False),
        ):
            assert KubeflowRuns(connect(PLACE, access), None).submit(SUBMISSION).link
    with pytest.raises(SpecError, match="--ca-cert: /nowhere does not exist"):
        connect(PLACE, Access(endpoint="https://127.0.0.1:1", ca_cert=Path("/nowhere")))


def test_a_login_page_is_not_taken_for_kubeflow(server):
    server.healthz = "<html><body>Log in to Your Account</body></html>"
    with pytest.raises(ClusterError, match="login page") as caught:
        connect(PLACE, Access(endpoint=server.url))
    assert "--token-file" in caught.value.hint


def test_another_address_of_the_same_server_is_told(server):
    with pytest.raises(ClusterError, match="404") as caught:
        connect(PLACE, Access(endpoint=f"{server.url}/elsewhere"))
    assert "without /apis" in caught.value.hint


def test_a_run_that_does_not_exist_is_told_by_what_kubeflow_says(runs):
    with pytest.raises(ClusterError, match="404: runs nowhere not found"):
        runs.get("nowhere")


def test_a_refusal_comes_with_kubeflows_reason(runs):
    pipeline = {"pipeline_spec": {"root": {"dag": {"tasks": {}}}}, "platform_spec": {}}
    run = {"pipeline_spec": pipeline, "runtime_config": {"parameters": {"as_off": "now"}}}
    with pytest.raises(ClusterError, match=r"400: input parameter\(s\) \['as_off'\] not found in pipeline"):
        runs.kubeflow.call(runs.kubeflow.client.runs.run_service_create_run, run=run)


def test_without_an_endpoint_the_way_leads_through_the_kubernetes_api(server, cluster, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.config))
    cluster.services["kubeflow"] = server
    runs = KubeflowRuns(connect(PLACE, Access()), kubernetes(cluster))
    assert runs.submit(SUBMISSION).state == "pending"
    assert ("POST", "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1/runs") in cluster.asked
    del cluster.services["kubeflow"]
    with pytest.raises(ClusterError, match="404") as caught:
        connect(PLACE, Access())
    assert "is it installed?" in caught.value.hint
    with pytest.raises(SpecError, match="--token-file: needs --endpoint"):
        connect(PLACE, Access(token_file=cluster.config))


def test_the_variable_that_kfp_knows_is_heard(server, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    assert connect(PLACE, Access()).way.name == server.url


def test_in_a_pod_the_environments_endpoint_counts(server, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    dumped = PLACE.dump()
    dumped["execution"]["pipelines"]["kubeflow"]["endpoint"] = server.url
    assert connect(EnvironmentSpec.model_validate(dumped), Access()).way.name == server.url


def test_an_endpoint_that_is_no_services_name_counts_everywhere(server):
    dumped = PLACE.dump()
    dumped["execution"]["pipelines"]["kubeflow"]["endpoint"] = server.url
    assert connect(EnvironmentSpec.model_validate(dumped), Access()).way.name == server.url


def test_runs_of_a_multi_user_installation_are_kept_by_namespace(server):
    server.healthz = {"multi_user": True}
    dumped = PLACE.dump()
    dumped["execution"]["pipelines"]["kubeflow"]["namespace"] = "evergrow-dev"
    place = EnvironmentSpec.model_validate(dumped)
    runs = KubeflowRuns(connect(place, Access(endpoint=server.url)), None)
    runs.submit(dataclasses.replace(SUBMISSION, environment=place))
    assert server.experiments[0]["namespace"] == "evergrow-dev"
    assert server.runs[0]["service_account"] == "evergrow-steps"


def test_every_error_of_the_libraries_becomes_one_of_ours():
    """A class that a new version of a library adds is one of those that are translated."""
    import kfp_server_api.exceptions
    import urllib3.exceptions

    unsupported = urllib3.exceptions.ProxySchemeUnsupported
    ours = (kfp_server_api.OpenApiException, urllib3.exceptions.HTTPError, unsupported, OSError, Warning)
    for module in (kfp_server_api.exceptions, urllib3.exceptions):
        classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Exception)]
        assert len(classes) >= 5
        foreign = [c for c in classes if c.__module__ == module.__name__ and not issubclass(c, ours)]
        assert foreign == [], foreign


def test_kfps_own_settings_of_this_user_are_left_alone(server, monkeypatch, tmp_path):
    connect(PLACE, Access(endpoint=server.url))
    assert not (Path(os.environ.get("HOME", "/")) / ".config/kfp/context.json").exists()
