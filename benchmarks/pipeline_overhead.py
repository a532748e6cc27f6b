"""What running the training pipeline in kfp.local costs beside calling the same step functions in one process."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Result, alternate, cpu_of

ROOT = Path(__file__).parent.parent
STEPS = 6
ROUNDS = 3
REACH = 2.0

# Both start from an empty home and do the same work: the toy model's, whose own computing is small.
PIPELINE = """
import json, sys
from evergrow.environment import Environment
from evergrow.integrations.kubeflow import LocalRunner
LocalRunner(Environment.read()).run("pipelines.training:training", json.loads(sys.argv[1]))
"""

IN_PROCESS = """
import json, os, sys
from pathlib import Path
arguments = json.loads(sys.argv[1])
spec, as_of = arguments["spec"], arguments["as_of"]
out = Path(os.environ["EVERGROW_HOME"]) / "out"
out.mkdir(parents=True)
place = lambda name: str(out / name)

class Silent:
    def __getattr__(self, name):
        return lambda *arguments: None

from components.ingest.step import main as ingest
ingest(spec, as_of, place("snapshot"))
from components.build_training_set.step import main as build
build(spec, as_of, place("snapshot"), place("training_set"), place("exploration"))
from components.train.step import main as train
train(spec, place("training_set"), place("model"), place("rivals"))
from components.evaluate.step import main as evaluate
made = [place(name) for name in ("training_set", "model", "rivals", "report", "page")]
judged = evaluate(spec, *made, Silent(), Silent())
assert judged == "pass", judged
from components.register.step import main as register
version = register(spec, place("model"), place("report"))
from components.deploy.step import main as deploy
deploy(spec, version, place("training_set"), place("model"), place("report"))
"""


def cpu_seconds(code: str) -> float:
    """CPU seconds of one run from an empty home."""
    from evergrow.spec import load

    model = load(ROOT / "tests/toy_model/model.yaml")
    arguments = json.dumps({"spec": json.dumps(model.dump()), "as_of": "2024-04-01T00:00:00+00:00"})
    with tempfile.TemporaryDirectory() as home:
        env = {
            "EVERGROW_HOME": home,
            "EVERGROW_FEATURE_REPO": str(ROOT / "tests/toy_model/toy_features"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        return cpu_of([sys.executable, "-c", code, arguments], env).cpu_seconds


def run() -> list[Result]:
    """Overhead per step: (pipeline − one process) / steps, medians."""
    samples = alternate(ROUNDS, pipeline=lambda: cpu_seconds(PIPELINE), in_process=lambda: cpu_seconds(IN_PROCESS))
    pipeline, in_process = statistics.median(samples["pipeline"]), statistics.median(samples["in_process"])
    overhead = (pipeline - in_process) / STEPS
    return [
        Result(
            name="overhead of the training pipeline over its functions in one process, per step",
            value=overhead,
            unit="CPU s",
            reach=f"≤ {REACH:g}",
            holds=overhead <= REACH,
            detail=f"{STEPS} steps: {pipeline:.1f} s as a pipeline, {in_process:.1f} in one process, imports included",
        )
    ]
