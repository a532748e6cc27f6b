"""The same pipeline by processes and by pods: the same artifacts, the same model, the same answers."""

import hashlib
import json
import shutil
import subprocess
import sys
import urllib.request
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from components.score.step import read_predictions
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations.kubernetes import INFERENCE_SERVICE, JOB, POD, Kind
from evergrow.integrations.object_store import fetch
from evergrow.integrations.pods_submit import PodRuns
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.learning.bundle import bundle_digest
from evergrow.monitoring.watch import Watch
from models.arrival_delay.demo import _sendable, free_port, wait_until_ready
from tests.cluster.conftest import (
    AS_OF,
    DEV,
    MODEL,
    NAME,
    ROOT,
    SERVICE,
    Dev,
    Here,
    command,
    eventually,
    evergrow,
    post,
)

pytestmark = pytest.mark.cluster

SERVING_RUNTIME = Kind("ServingRuntime", "servingruntimes", "v1alpha1", "serving.kserve.io")
TRAINING, DONE = f"training {NAME} as of {AS_OF}", "succeeded"
NOW = "2013-10-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def pods(dev: Dev, tmp_path_factory) -> Path:
    """The artifacts of the training run that the installation made, copied here."""
    jobs = [run.id for run in PodRuns(dev.kubernetes, dev.place).runs() if TRAINING in run.name and run.state == DONE]
    steps = dev.kubernetes.search(POD, {"evergrow.dev/job": jobs[-1]})
    (run,) = {step["metadata"]["labels"]["evergrow.dev/run"] for step in steps}
    return dev.store().download(f"runs/{run}", tmp_path_factory.mktemp("pods"))


@pytest.fixture(scope="module")
def processes(here: Here) -> Path:
    """The artifacts of the run on this machine."""
    (run,) = [p for p in (here.environment.home / "runs/training").iterdir() if p.name != "done"]
    return run / "artifacts"


def artifact(root: Path, step: str, name: str) -> Path:
    (found,) = root.glob(f"*/{step}/{name}")
    return found


def test_pods_and_processes_train_the_same_model_byte_for_byte(pods, processes):
    ours, theirs = (artifact(root, "train", "model") for root in (pods, processes))
    assert files(ours) == files(theirs)
    assert bundle_digest(ours) == bundle_digest(theirs)


def test_pods_and_processes_build_the_same_training_set(pods, processes):
    ours, theirs = (artifact(root, "build-training-set", "training_set") for root in (pods, processes))
    abouts = [json.loads((folder / "training_set.json").read_text()) for folder in (ours, theirs)]
    assert abouts[0]["data_digest"] == abouts[1]["data_digest"]
    assert abouts[0] == abouts[1]
    assert files(ours).keys() == files(theirs).keys()


def test_pods_and_processes_judge_alike(pods, processes):
    ours, theirs = (
        json.loads((artifact(root, "evaluate", "report") / "report.json").read_text()) for root in (pods, processes)
    )
    assert ours["metrics"] == theirs["metrics"]
    assert ours["verdict"]["outcome"] == theirs["verdict"]["outcome"] == "pass"


def test_pods_and_processes_ingest_the_same_lake(dev: Dev, here: Here, tmp_path):
    """Both up to 2013-10-01 and then, as the installation does, up to now."""
    shutil.copytree(here.environment.home, tmp_path / "copy", symlinks=True)
    copy = Environment.read({"EVERGROW_HOME": str(tmp_path / "copy")})
    Here(copy).evergrow("run", "materialization", "-f", str(MODEL))
    mirrored = copy.model_copy(update={"home": tmp_path / "there", "store": str(dev.place.data.store)})
    dev.store()  # its credentials
    fetch(mirrored, f"data/{NAME}")
    assert Lake(mirrored.data(NAME)).raw_digest() == Lake(copy.data(NAME)).raw_digest()


def files(folder: Path) -> dict[str, str]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture(scope="module")
def materialized(dev: Dev) -> None:
    """When what is online is that of then. The installation brought it to now: without its record it may go back."""
    dev.store().delete("features/materialized/index.json")
    evergrow("submit", "materialization", "-f", str(MODEL), "--env", "dev", "--as-of", AS_OF, "--wait")


@pytest.fixture(scope="module")
def replayed(dev: Dev, materialized) -> str:
    """When the version is served as if it were then: an InferenceService as the deploy step's, on a runtime told so."""
    runtime = dev.kubernetes.get(SERVING_RUNTIME, "evergrow-server")
    spec = runtime["spec"]
    spec["containers"][0]["args"].append(f"--now={NOW}")
    metadata = {"name": "evergrow-server-replay"}
    dev.kubernetes.apply(SERVING_RUNTIME, {"metadata": metadata, "spec": spec})
    served = dev.kubernetes.get(INFERENCE_SERVICE, f"{NAME}-v1")
    predictor = served["spec"]["predictor"]
    predictor["model"]["runtime"] = "evergrow-server-replay"
    name = f"{NAME}-replay"
    labels = {k: v for k, v in served["metadata"]["labels"].items() if not k.startswith("evergrow.dev")}
    labels.pop("networking.kserve.io/visibility")  # so that KServe makes a route
    dev.kubernetes.apply(
        INFERENCE_SERVICE, {"metadata": {"name": name, "labels": labels}, "spec": {"predictor": predictor}}
    )
    eventually(lambda: ready(dev, name), 120)
    yield f"{name}-{DEV}.example.com"
    dev.kubernetes.delete(INFERENCE_SERVICE, name)
    dev.kubernetes.delete(SERVING_RUNTIME, "evergrow-server-replay")


def ready(dev: Dev, name: str) -> bool:
    found = dev.kubernetes.get(INFERENCE_SERVICE, name) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@pytest.fixture(scope="module")
def flights(here: Here) -> list[dict]:
    """Flights about to leave."""
    examples = Lake(here.environment.data(NAME)).read("examples")
    soon = examples[examples["event_timestamp"] > pd.Timestamp(NOW)].sort_values("event_timestamp").head(200)
    names = ["carrier", "origin", "route", "tailnum", "scheduled_departure", "scheduled_minutes", "distance"]
    return [_sendable(row) for row in soon[names].to_dict("records")]


@pytest.fixture(scope="module")
def served_here(here: Here):
    port = free_port()
    directory = here.environment.serving(NAME) / "current"
    server = [sys.executable, "-m", "components.server", "--model-dir", str(directory), "--host", "127.0.0.1"]
    server += ["--http-port", str(port), "--grpc-port", "0", "--now", NOW]
    log = here.environment.home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(server, cwd=ROOT, stdout=output, stderr=output)
    wait_until_ready(f"http://127.0.0.1:{port}/v2/models/{NAME}/ready", process, log)
    yield f"http://127.0.0.1:{port}/v1/models/{NAME}:predict"
    process.terminate()
    process.wait(timeout=30)


def test_a_prediction_through_the_gateway_is_the_one_made_here_bit_for_bit(dev: Dev, replayed, served_here, flights):
    there = eventually(lambda: answer(dev, flights, replayed), 30)
    local = post(served_here, {"instances": flights})
    assert there["flags"] == local["flags"]
    assert there["predictions"] == local["predictions"]
    assert len(set(local["predictions"])) > 100
    assert sum(map(bool, local["flags"])) < len(flights) / 2


def answer(dev: Dev, rows: list[dict], host: str):
    try:
        return dev.ask(rows, to=host)
    except OSError:  # a route takes a second or two to be everywhere
        return None


def test_the_version_in_service_answers_through_its_route(dev: Dev, flights):
    answer = dev.ask(flights[:3])
    assert answer["model_version"] == "1"
    assert len(answer["predictions"]) == 3


def test_a_batch_scored_by_pods_is_the_one_scored_here(dev: Dev, here: Here, tmp_path):
    evergrow("submit", "batch_scoring", "-f", str(MODEL), "--env", "dev", "--as-of", AS_OF, "--wait")
    here.run("batch_scoring")
    folder = f"predictions/{NAME}/as_of=2013-10-01T000000Z"
    there = read_predictions(dev.store().download(folder, tmp_path))
    local = read_predictions(here.environment.home / folder)
    keys = ["event_timestamp", "carrier", "tailnum", "route", "scheduled_departure"]
    columns = [c for c in local.columns if c != "version"]
    pd.testing.assert_frame_equal(
        there.sort_values(keys, ignore_index=True)[columns], local.sort_values(keys, ignore_index=True)[columns]
    )
    assert len(local) > 500


def test_the_same_training_submitted_again_is_the_run_there_was(dev: Dev):
    before = len(dev.kubernetes.search(JOB))
    told = json.loads(
        evergrow("submit", "training", "-f", str(MODEL), "--env", "dev", "--as-of", AS_OF, "--wait", "-o", "json")
    )
    assert told["existing"] is True
    assert len(dev.kubernetes.search(JOB)) == before


def test_kubectl_tells_version_and_state_at_a_glance(dev: Dev):
    columns = "-Levergrow.dev/model,evergrow.dev/version"
    told = command("kubectl", "-n", DEV, "get", "inferenceservices", columns)
    header, *rows = told.splitlines()
    assert header.split()[-2:] == ["MODEL", "VERSION"]
    (row,) = [r for r in rows if r.startswith(f"{NAME}-v1 ")]
    assert row.split()[-2:] == [NAME, "1"]
    assert "True" in row


def test_what_was_answered_there_is_watched_there_and_its_features_are_what_training_would_see(dev: Dev, replayed):
    """The answers of the replay, judged the day after; the answers that were shipped since count, too."""
    day = date(2013, 10, 1)
    eventually(lambda: day in PredictionStore(dev.store()).days(NAME), 120)
    evergrow("submit", "monitoring", "-f", str(MODEL), "--env", "dev", "--as-of", "2013-10-02", "--wait")
    content = dev.store().read(f"reports/{NAME}/watch=2013-10-02T000000Z/watch.json")
    assert content is not None
    seen = Watch.model_validate_json(content[0])

    assert [(one.day, one.version) for one in seen.traffic] == [(day, 1)]
    assert seen.traffic[0].rows >= 200
    skew = {one.subject: one.verdict for one in seen.observations if one.kind == "skew"}
    assert {verdict.outcome for verdict in skew.values()} == {"pass"}, skew
    assert dev.store().read(f"reports/{NAME}/watch=2013-10-02T000000Z/report.html") is not None

    # By the triggers of the document, with what it goes by.
    decided = json.loads(evergrow("loop", "status", "-f", str(MODEL), "--env", "dev", "-o", "json"))
    assert (decided["train"], decided["trainings"]) == (False, 0)
    assert "schedule: due next at 2013-11-01 00:00" in decided["reason"]


def test_the_page_that_watches_shows_on_the_cluster_what_monitoring_saw(dev: Dev):
    """After the look above. This machine reaches Services; a user forwards a port."""
    command("helm", "-n", DEV, "upgrade", "evergrow", "charts/evergrow", "--reuse-values",
            "--set", "observability.watch.enabled=true")  # fmt: skip
    command("kubectl", "-n", DEV, "rollout", "status", "deployment/evergrow-watch", "--timeout=180s")
    found = dev.kubernetes.get(SERVICE, "evergrow-watch")
    assert found is not None
    page = f"http://{found['spec']['clusterIP']}:{found['spec']['ports'][0]['port']}"

    def read(path: str, holds: str) -> str:
        """A page in which it holds; empty if there is none yet: a Service answers moments after its pods are ready."""
        try:
            with urllib.request.urlopen(f"{page}{path}", timeout=10) as answer:
                told: str = answer.read().decode()
        except OSError:
            return ""
        # The first connections of a new pod may be before the network knows its policy: then it is read again.
        return told if holds in told and "Not all could be read" not in told else ""

    told = eventually(lambda: read(f"/models/{NAME}", "2013-10-02 00:00 UTC"), 120)
    assert "version 1" in told
    assert "Rollout of version 1 by single begun" in told
    for stored, holds in (
        ("watch=2013-10-02T000000Z/report.html", "Monitoring report"),
        ("version=1/report.html", "evaluation"),
        ("version=1/card.html", "Model card"),
    ):
        assert eventually(lambda path=f"/reports/{NAME}/{stored}", holds=holds: read(path, holds), 60)
    metric = f'evergrow_monitoring_last_success_timestamp_seconds{{model="{NAME}"}}'
    assert read("/metrics", metric)
