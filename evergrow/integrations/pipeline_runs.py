"""A pipeline run on this machine, and what came of it."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evergrow import runs
from evergrow.contracts import EvaluationReport
from evergrow.environment import Environment
from evergrow.errors import PipelineError
from evergrow.integrations.kubeflow import LocalRunner, Run
from evergrow.integrations.submission import SHARES, arguments
from evergrow.journal import Event
from evergrow.spec import ContinualModel
from evergrow.spec.environment import EnvironmentSpec
from evergrow.spec.policies import PolicySet

ONCE = ("training", "batch_scoring")
"""What need not run again if nothing that it reads has changed. What is online has no as-of of its own: another
materialization may have come in between. Nor has what was answered: predictions of the past are still being shipped."""


class Watching(Protocol):
    """Who is told of a run while it runs."""

    def say(self, text: str) -> None:
        """Something of the run as a whole."""
        ...

    def __call__(self, event: Event) -> None:
        """What happened in a step."""
        ...


def run_pipeline(
    environment: Environment,
    pipeline: str,
    document: ContinualModel,
    as_of: str,
    watching: Watching,
    *,
    again: bool = False,
    place: EnvironmentSpec | None = None,
    inherits: Sequence[int] = (),
    policies: PolicySet | None = None,
    shares: int = SHARES,
) -> dict[str, Any]:
    """Run a pipeline, and say what came of it; what was done already is told, not done again.

    Args:
        environment: where state lives.
        pipeline: its name.
        document: the model's.
        as_of: ISO 8601.
        watching: is told of steps.
        again: run it even if nothing it reads has changed.
        place: the environment of a cluster in whose pods the steps run; None: in processes here.
        inherits: file descriptors that the run keeps open, however this process ends: locks that it holds.
        policies: what a backtest tries.
        shares: into which a backtest is dealt.

    Raises:
        PipelineError: a step failed; or the gate passed and yet nothing was deployed.
    """
    # In an environment of a cluster nothing here outlives the run; whoever submits it finds out whether it was done.
    once = pipeline in ONCE and environment.store is None
    if once and not again:
        told = runs.recall(environment, pipeline, document, as_of, _champion(environment, document))
        if told:
            watching.say(f"done already, in {told['run']}: nothing that it reads has changed (--again runs it anyway)")
            return told
    used = children_cpu_seconds()
    done = LocalRunner(environment, place, inherits).run(
        f"pipelines.{pipeline}:{pipeline}", arguments(document, as_of, policies, shares), watching
    )
    took = {"seconds": round(done.seconds, 1), "cpu_seconds": round(children_cpu_seconds() - used, 1)}
    summary: dict[str, Any] = {"pipeline": str(pipeline), "model": document.name, "as_of": as_of, **took}
    summary |= {"run": str(done.folder), **_came_of(environment, pipeline, document, as_of, done)}
    if once:
        runs.remember(environment, pipeline, document, as_of, summary, _made(summary))
    return summary


def children_cpu_seconds() -> float:
    """What processes used that this one has started and waited for, and theirs in turn."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _came_of(
    environment: Environment, pipeline: str, document: ContinualModel, as_of: str, done: Run
) -> dict[str, Any]:
    if pipeline == "training":
        return _trained(environment, document, as_of, done)
    if pipeline == "batch_scoring":
        return _scored(environment, Path(done.returned["commit"]))
    if pipeline == "backtest":
        return {"results": f"{environment.store or environment.home}/{done.returned['recommend']}"}
    return _watched(environment, done) if pipeline == "monitoring" else {}


def _champion(environment: Environment, document: ContinualModel) -> Callable[[], int | None]:
    def ask() -> int | None:
        from evergrow.integrations.mlflow import MlflowRegistry

        champion = MlflowRegistry(environment).resolve(document.name, "champion")
        return champion.version if champion else None

    return ask


def _made(summary: Mapping[str, Any]) -> list[Path]:
    named = [Path(summary[key]) for key in ("report", "serving", "predictions") if summary.get(key)]
    return [*named, *(part for path in named if path.is_dir() for part in path.rglob("*") if part.is_file())]


def _watched(environment: Environment, done: Run) -> dict[str, Any]:
    from evergrow import reports
    from evergrow.monitoring.watch import Watch, decide

    watch = Watch.load(done.artifact("observe", "watch"))
    kept = reports.keep_watch(environment, watch, decide(watch), done.artifact("decide", "page").read_text("utf-8"))
    return {
        "action": done.returned["decide"],
        "alarms": int(done.returned["observe"]),
        "reasons": list(decide(watch).reasons),
        "numbers": watch.numbers(),
        "report": str(kept[-1]),
    }


def _scored(environment: Environment, predictions: Path) -> dict[str, Any]:
    from evergrow.integrations.object_store import copy_here

    marker = predictions / "_SUCCESS"
    copy_here(environment, marker)
    plan = json.loads(marker.read_text(encoding="utf-8"))["plan"]
    return {"predictions": str(predictions), "champion": plan["version"]}


def _trained(environment: Environment, document: ContinualModel, as_of: str, done: Run) -> dict[str, Any]:
    judged = EvaluationReport.model_validate_json((done.artifact("evaluate", "report") / "report.json").read_bytes())
    # A branch that KFP could not decide is skipped, and the run is green all the same.
    if judged.verdict.outcome == "pass" and "deploy" not in done.returned:
        raise PipelineError(
            "the gate passed, and yet the deploy step did not run", hint=f"see {done.folder / 'log.txt'}"
        )
    version = int(done.returned["register"])
    champion = version if "deploy" in done.returned else int(judged.champion) if judged.champion.isdigit() else None
    pages = done.artifact("evaluate", "page"), done.artifact("build_training_set", "exploration")
    return {
        "version": version,
        "champion": champion,
        "identity": done.returned["train"],
        "verdict": judged.verdict.model_dump(),
        "metrics": _metrics(judged),
        "serving": done.returned.get("deploy"),
        "report": str(_kept(environment, document, as_of, *pages)),
    }


def _kept(environment: Environment, document: ContinualModel, as_of: str, *pages: Path) -> Path:
    from evergrow import reports
    from evergrow.integrations.object_store import publish

    report = reports.keep(environment, document.name, as_of, *pages)
    for page in report.parent.iterdir():
        publish(environment, page)
    return report


def _metrics(judged: EvaluationReport) -> dict[str, dict[str, float]]:
    return {m.name: {"value": m.value, "low": m.low, "high": m.high} for m in judged.metrics}
