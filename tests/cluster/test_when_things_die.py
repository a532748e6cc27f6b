"""Whatever dies while a run is under way, the run ends well, and nothing is lost or done twice."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evergrow.audit import AuditLog
from evergrow.environment import Environment
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, EVENT, HTTP_ROUTE, INFERENCE_SERVICE, JOB, POD
from evergrow.integrations.labels import MODEL as MODEL_LABEL
from evergrow.integrations.object_store import fetch
from evergrow.journal import Event, Journal
from tests.cluster.conftest import DEV, NAME, PLATFORM, ROOT, Dev, command, eventually, evergrow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900, func_only=True)]

ELECTRICITY = ROOT / "models/electricity_demand/model.yaml"
DEMAND = "electricity-demand"
VICTIMS = ("redis-0", "seaweedfs-0")


class Wire:
    """A connection to the API server that can be cut: what is under way breaks, what is new is refused."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.cut_until = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        self.cut_until = time.monotonic() + seconds
        for one in list(self.open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return
            if time.monotonic() < self.cut_until:
                here.close()
                continue
            there = socket.create_connection(self.target)
            self.open |= {here, there}
            for a, b in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for one in (a, b):
            one.close()
            self.open.discard(one)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[tuple[Wire, Path]]:
    """A cuttable connection to the API server, and the kubeconfig that goes through it."""
    config = yaml.safe_load(command("kubectl", "config", "view", "--raw", "--minify", "--flatten"))
    cluster = config["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    wire = Wire(host, int(port or 443))
    cluster |= {"server": f"https://127.0.0.1:{wire.port}", "tls-server-name": host}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    yield wire, path
    wire.listener.close()


def kill(pods: tuple[str, ...]) -> None:
    """End pods of the platform at once, as a lost node would."""
    command("kubectl", "-n", PLATFORM, "delete", "pod", "--grace-period=0", "--force", *pods, check=False)


def mlflow(dev: Dev) -> str:
    (pod,) = [p["metadata"]["name"] for p in dev.platform.search(POD) if p["metadata"]["name"].startswith("mlflow-")][
        :1
    ]
    return str(pod)


def test_redis_mlflow_s3_and_the_api_servers_connection_die_at_each_step_and_the_run_ends_well(
    dev: Dev, wire, tmp_path: Path
):
    """When the pods of Redis, MLflow and S3 are killed, and the API server's connection is cut, as each step begins."""
    assert served(dev, DEMAND) == [], "a champion would be one to beat: this test wants a fresh installation"
    cut, kubeconfig = wire
    home = tmp_path / "driver"
    place = dev.place.model_dump(mode="json", by_alias=True)
    place["execution"]["pipelines"]["steps"]["retries"] = 6
    variables = {
        **os.environ,
        **dev.variables,
        "EVERGROW_ENVIRONMENT": json.dumps(place),
        "EVERGROW_HOME": str(home),
        "EVERGROW_FEATURE_REPO": str(ROOT / "feature_repo"),
        "KUBECONFIG": str(kubeconfig),
    }
    variables.pop("EVERGROW_RUN")
    arguments = ["run", "training", "-f", str(ELECTRICITY), "--as-of", "2014-11-01", "--runner", "pods", "-o", "json"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "evergrow", *arguments],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    struck: list[str] = []
    while driver.poll() is None:
        for event in begun(home):
            if event.step not in struck:
                struck.append(event.step)
                kill((*VICTIMS, mlflow(dev)))
                cut.cut(5)
        time.sleep(0.1)
    out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert struck == ["ingest", "build_training_set", "train", "evaluate", "register", "deploy"]
    summary = json.loads(out)
    assert summary["verdict"]["outcome"] == "pass"
    eventually(lambda: answers_from_the_registry(dev), 120)
    versions = dev.versions(DEMAND)
    assert [(v["version"], v["aliases"]) for v in versions] == [(summary["version"], ["champion"])]
    assert [r.version for r in audit(dev, tmp_path) if r.model == DEMAND] == [summary["version"]]
    assert served(dev, DEMAND) == [f"{DEMAND}-v{summary['version']}"]
    assert routed(dev, DEMAND) == [f"{DEMAND}-v{summary['version']}-predictor"]


def begun(home: Path) -> list[Event]:
    runs = sorted((home / "runs/training").glob("*/"))
    return [e for run in runs for e in Journal(run).read() if e.what == "started"]


def answers_from_the_registry(dev: Dev) -> bool:
    return "champion" in evergrow("models", "list", DEMAND, "-o", "json", check=False, **dev.variables)


def audit(dev: Dev, folder: Path) -> list:
    dev.store()  # its credentials
    environment = Environment(
        home=folder / "audit", feature_repo=ROOT, tracking_uri="", store=str(dev.place.data.store)
    )
    fetch(environment, "audit")
    return AuditLog(environment.audit).records()


def served(dev: Dev, model: str) -> list[str]:
    return [s["metadata"]["name"] for s in dev.kubernetes.search(INFERENCE_SERVICE, {MODEL_LABEL: model})]


def routed(dev: Dev, model: str) -> list[str]:
    """Who answers callers that ask for no version by its number: the first rule."""
    route = dev.kubernetes.get(HTTP_ROUTE, model)
    return [b["name"] for b in route["spec"]["rules"][0]["backendRefs"]]


def test_a_nodes_worth_of_pods_is_evicted_and_the_run_ends_well(dev: Dev, tmp_path: Path):
    """When all pods of the environment are evicted while a step runs: the driver, the step and the servers."""
    told = json.loads(
        evergrow("submit", "training", "-f", str(ELECTRICITY), "--env", "dev", "--as-of", "2014-12-01", "-o", "json")
    )
    eventually(lambda: running(dev, told["id"], "train"), 300)
    before = {p["metadata"]["name"] for p in dev.kubernetes.search(POD, {"job-name": told["id"]})}
    evict_all(dev)
    evergrow("follow", told["id"], "--env", "dev")
    drivers = {p["metadata"]["name"] for p in dev.kubernetes.search(POD, {"job-name": told["id"]})}
    assert drivers - before, "another driver took over"
    assert dev.kubernetes.get(JOB, told["id"])["status"].get("succeeded") == 1
    versions = dev.versions(DEMAND)
    assert len({v["identity"] for v in versions}) == len(versions)
    champions = [v["version"] for v in versions if "champion" in v["aliases"]]
    assert routed(dev, DEMAND) == [f"{DEMAND}-v{champions[0]}-predictor"]
    records = audit(dev, tmp_path)
    assert len({(r.model, r.version, r.replaced) for r in records}) == len(records)
    assert not running(dev, told["id"])
    eventually(lambda: "True" in command("kubectl", "-n", DEV, "get", "isvc", f"{NAME}-v1"), 120)


def test_what_the_loop_decides_is_begun_once_though_the_step_that_decides_is_killed(dev: Dev, tmp_path: Path):
    """Somebody asks with kubectl; monitoring hears it, trains and tells; then somebody freezes it."""
    file = tmp_path / "model.yaml"
    text = ELECTRICITY.read_text(encoding="utf-8").rstrip()
    file.write_text(text + "\n  retraining:\n    triggers: [{kind: asked}]\n", encoding="utf-8")
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["retraining"]
    command("kubectl", "-n", DEV, "annotate", "continualmodel", DEMAND, "evergrow.dev/ask=new meters")
    look = look_at_service(dev, file, "2014-12-05")
    eventually(lambda: running(dev, look["id"], "decide"), 300)
    for pod in running(dev, look["id"], "decide"):
        command("kubectl", "-n", DEV, "delete", "pod", pod, "--grace-period=0", "--force")
    evergrow("follow", look["id"], "--env", "dev")

    (job,) = trainings_of_the_loop(dev)
    found = dev.kubernetes.get(CONTINUAL_MODEL, DEMAND) or {}
    assert "evergrow.dev/ask" not in found["metadata"].get("annotations", {})
    assert found["status"]["loop"]["training"].startswith("2014-12-05")
    assert found["status"]["phase"] == "Serving", "the operator's part of the status stays"
    evergrow("follow", job, "--env", "dev")

    evergrow("loop", "freeze", "-f", str(file), "--env", "dev", "--reason", "audit")
    evergrow("loop", "ask", "-f", str(file), "--env", "dev")
    evergrow("follow", look_at_service(dev, file, "2014-12-06")["id"], "--env", "dev")
    assert trainings_of_the_loop(dev) == [job]
    told = json.loads(evergrow("loop", "status", "-f", str(file), "--env", "dev", "-o", "json"))
    assert (told["trainings"], told["training"], told["train"]) == (1, None, False)
    assert told["ended"].partition(":")[0] in ("promoted", "rejected")
    assert "audit" in told["frozen"]
    book = dev.store().read(f"loops/{DEMAND}/book.jsonl")
    kinds = [json.loads(line)["kind"] for line in (book or (b"",))[0].splitlines()]
    assert kinds == ["asked", "decided", "began", "asked", "froze", "ended", "decided"]
    events = {e["reason"] for e in dev.kubernetes.search(EVENT) if e["involvedObject"]["name"] == DEMAND}
    assert {"TrainingBegun", "TrainingEnded"} <= events


def look_at_service(dev: Dev, file: Path, as_of: str) -> dict:
    told = evergrow("submit", "monitoring", "-f", str(file), "--env", "dev", "--as-of", as_of, "-o", "json")
    return dict(json.loads(told))


def trainings_of_the_loop(dev: Dev) -> list[str]:
    jobs = dev.kubernetes.search(JOB, {MODEL_LABEL: DEMAND, "evergrow.dev/pipeline": "training"})
    return [j["metadata"]["name"] for j in jobs if "(loop)" in j["metadata"]["annotations"]["evergrow.dev/run-name"]]


def running(dev: Dev, job: str, step: str | None = None) -> list[str]:
    labels = {"evergrow.dev/job": job, **({"evergrow.dev/step": step} if step else {})}
    found = dev.kubernetes.search(POD, labels)
    return [p["metadata"]["name"] for p in found if p.get("status", {}).get("phase") == "Running"]


def evict_all(dev: Dev) -> None:
    """By the eviction API, as `kubectl drain` does; what a disruption budget protects is left."""
    for pod in dev.kubernetes.search(POD):
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": DEV}}
        subprocess.run(
            ["kubectl", "create", "--raw", f"/api/v1/namespaces/{DEV}/pods/{name}/eviction", "-f", "-"],
            input=json.dumps(body),
            text=True,
            capture_output=True,
            check=False,
        )
