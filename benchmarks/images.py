"""Each image's size, and the CPU it takes until it answers, in a Pod as restricted as those of the charts.

The images are those that the cluster has: `python -m components.build --load kind` builds and loads them.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Skipped
from benchmarks.serving_world import NOW, feature_store, serving_directory
from components.build import IMAGES
from evergrow.errors import ClusterError
from evergrow.integrations.feast_online import plan
from evergrow.integrations.kubernetes import CONFIG_MAP, POD, Kubernetes, Object

TAG = "0.1.0"
MODELS = "/mnt/models"
PATIENCE = 300.0
REACH_MB, REACH_CPU_SECONDS = 600, 3.0
"""Of the server; the other images' figures are stated."""

# Run in the image: adds up its root file system, starts what it runs, and asks until that answers. A start that needs
# no question ends by itself.
_MEASURE = """
import json, os, resource, subprocess, sys, time, urllib.request

def size(place, device):
    found = {}
    for folder, below, files in os.walk(place):
        stats = [os.lstat(os.path.join(folder, name)) for name in files]
        found.update({s.st_ino: s.st_size for s in stats if s.st_dev == device})
        below[:] = [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
    return sum(found.values()) / 1e6

def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False

def cpu(pid):
    ticks = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

command, url = json.loads(sys.argv[1]), sys.argv[2]
megabytes, started = size("/", os.lstat("/").st_dev), time.monotonic()
process = subprocess.Popen(command, stdout=sys.stderr)
if url:
    while process.poll() is None and not answers(url):
        time.sleep(0.02)
    used = sum(cpu(pid) for pid in os.listdir("/proc") if pid.isdecimal() and int(pid) != os.getpid())
else:
    process.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = usage.ru_utime + usage.ru_stime
code = process.poll()
process.kill()
print(json.dumps({"megabytes": megabytes, "cpu": used, "seconds": time.monotonic() - started}))
sys.exit(code or 0)
"""


@dataclass(frozen=True)
class Start:
    """How an image's start is measured.

    Attributes:
        what: what it is measured to.
        command: what runs; as the image would by itself.
        url: what is asked until it answers 200; "" for a command that ends.
        variables: of its environment.
    """

    what: str
    command: Sequence[str]
    url: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


STARTS: Mapping[str, Start] = {
    "steps": Start(
        "a step's code is imported",
        ["python", "-c", "import kfp.dsl.executor_main, components.build_training_set.step"],
    ),
    "operator": Start("its code is imported", ["python", "-c", "import components.operator.run"]),
    "server": Start(
        "Ready",
        ["python", "-m", "components.server", "--now", NOW.isoformat()],
        "http://localhost:8080/v2/health/ready",
    ),
    "mlflow": Start(
        "it answers, its database made",
        ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"],
        "http://localhost:5000/health",
        {"MLFLOW_BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": "/tmp/artifacts"},
    ),
    "feast": Start(
        "it answers, its registry made",
        ["python", "-m", "components.feast", "serve"],
        "http://localhost:6566/health",
        {"FEAST_REGISTRY_URL": "sqlite:////tmp/registry.db", "FEAST_REDIS": "localhost:6379"},
    ),
}


def pod(name: str, image: str, start: Start) -> Object:
    """A Pod that measures an image, with what the charts' Pods may and no more."""
    mounts = {"tmp": "/tmp", "state": "/home/evergrow/state", "models": f"{MODELS}/bundle", "about": MODELS}
    served = {"name": f"{name}-models", "optional": True}
    bundle = [{"key": key, "path": key} for key in ("bundle.json", "golden.json", "model.onnx")]
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", _MEASURE, json.dumps(list(start.command)), start.url],
        "env": [{"name": key, "value": value} for key, value in start.variables.items()],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "state", "emptyDir": {}},
                {"name": "models", "configMap": {**served, "items": bundle}},
                {"name": "about", "configMap": served},
            ],
        },
    }


def serving_files() -> dict[str, str]:
    """A small version to serve, with its online store: Base64 by file name."""
    with tempfile.TemporaryDirectory() as folder:
        online = Path(folder) / "online.db"
        described = plan(feature_store(Path(folder) / "repo", {"type": "sqlite", "path": str(online)}), "flights_v1")
        described = {**described, "store": {**described["store"], "path": f"{MODELS}/online.db"}}
        version = serving_directory(Path(folder) / "serving", described)
        files = [*version.glob("*.json"), *(version / "bundle").iterdir(), online]
        kept = [f for f in files if f.name not in ("model.skops", "background.npy")]  # nothing of a start reads them
        return {f.name: base64.b64encode(f.read_bytes()).decode() for f in kept}


def measure(kubernetes: Kubernetes, image: str, start: Start, files: Mapping[str, str]) -> Mapping[str, float]:
    """Run one image's Pod to its end: its megabytes, CPU seconds and seconds.

    Raises:
        Skipped: the cluster does not have the image.
        RuntimeError: what it runs does not start; shows its log.
    """
    name = f"evergrow-image-{uuid.uuid4().hex[:8]}"
    kubernetes.create(CONFIG_MAP, {"metadata": {"name": f"{name}-models"}, "binaryData": dict(files)})
    kubernetes.create(POD, pod(name, image, start))
    try:
        phase = _end(kubernetes, name, image)
        log = kubernetes.log(name)
    finally:
        kubernetes.delete(POD, name)
        kubernetes.delete(CONFIG_MAP, f"{name}-models")
    if phase != "Succeeded":
        raise RuntimeError(f"{image} does not start:\n{log[-3000:]}")
    measured: Mapping[str, float] = json.loads(next(line for line in log.splitlines() if line.startswith('{"megab')))
    return measured


def _end(kubernetes: Kubernetes, name: str, image: str) -> str:
    """The phase that a Pod ends in."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status: Mapping[str, Any] = (kubernetes.get(POD, name) or {}).get("status", {})
        if status.get("phase") in ("Succeeded", "Failed"):
            return str(status["phase"])
        waiting = [c["state"].get("waiting", {}).get("reason") for c in status.get("containerStatuses", ())]
        if "ErrImageNeverPull" in waiting:
            raise Skipped(f"the cluster does not have {image}: python -m components.build --load kind, or minikube")
        time.sleep(0.5)
    return "Unknown"


def run() -> list[Result]:
    """Two numbers an image.

    Raises:
        Skipped: there is no cluster, or it does not have the images.
    """
    if not os.environ.get("KUBECONFIG"):
        raise Skipped("KUBECONFIG names no cluster")
    try:
        kubernetes = Kubernetes.open("default", patience=5)
        files, results = serving_files(), []
        for name, start in STARTS.items():
            image = f"{IMAGES[name].name}:{TAG}"
            results += rows(name, start, measure(kubernetes, image, start, files))
    except ClusterError as error:
        raise Skipped(str(error)) from error
    return results


def rows(name: str, start: Start, measured: Mapping[str, float]) -> list[Result]:
    """What is recorded of one image."""
    size, used = measured["megabytes"], measured["cpu"]
    limits: tuple[float, float] | None = (REACH_MB, REACH_CPU_SECONDS) if name == "server" else None
    reach = [f"≤ {limit:g}" for limit in limits] if limits else ["stated", "stated"]
    return [
        Result(f"size of the image {name}, unpacked", size, "MB", reach[0], not limits or size <= limits[0]),
        Result(
            f"start of the image {name} until {start.what}",
            used,
            "CPU s",
            reach[1],
            not limits or used <= limits[1],
            f"{measured['seconds']:.1f} s in a Pod",
        ),
    ]
