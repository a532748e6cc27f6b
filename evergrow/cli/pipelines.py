"""`evergrow run`, `score` and `report`: pipelines on this machine and the pages they leave."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, Steps, show
from evergrow.environment import Environment
from evergrow.errors import SpecError

if TYPE_CHECKING:
    from evergrow.spec import ContinualModel
    from evergrow.spec.environment import EnvironmentSpec
    from evergrow.spec.policies import PolicySet

GATE_DID_NOT_PASS = 10
KILLED = 128 + signal.SIGTERM


class Runner(StrEnum):
    """What carries out the steps of a pipeline that this process drives."""

    PROCESSES = "processes"
    PODS = "pods"


class Pipeline(StrEnum):
    """The pipelines there are."""

    TRAINING = "training"
    MATERIALIZATION = "materialization"
    BATCH_SCORING = "batch_scoring"
    MONITORING = "monitoring"
    BACKTEST = "backtest"


File = Annotated[Path, typer.Option("--file", "-f", help="The model's document.", show_default=False)]
Policies = Annotated[
    Path | None, typer.Option(help="Of a backtest: the policies to try, a PolicySet.", show_default=False)
]
Suppose = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        help="Of a backtest: labelDelay=14d, takes=6h, cpuHoursPerMillionRows=2, or a key of every policy's spec, such "
        "as retraining.budget.trainings=1: as if it had been so. Repeatable.",
        show_default=False,
    ),
]
Shares = Annotated[int, typer.Option(help="Of a backtest: so many steps replay policies side by side.", min=1)]
AsOf = Annotated[
    str | None,
    typer.Option(help="As if it were then: ISO 8601, UTC without an offset. Default: now.", show_default=False),
]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(run)
    app.command()(score)
    app.command()(report)


def run(
    pipeline: Annotated[Pipeline, typer.Argument(help="Which pipeline.", show_default=False)],
    file: File,
    as_of: AsOf = None,
    require_pass: Annotated[
        bool, typer.Option("--require-pass", help=f"Exit with {GATE_DID_NOT_PASS} unless the gate passes.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Run even if nothing that it reads has changed.")] = False,
    runner: Annotated[
        Runner, typer.Option(help="What runs the steps: processes here, or Pods of the environment we run in.")
    ] = Runner.PROCESSES,
    policies: Policies = None,
    what_if: Suppose = None,
    shares: Shares = 4,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a pipeline here, each step in its own process, as Kubeflow would on a cluster.

    Training ends with a verdict: pass puts the new version into service; with any other the champion goes on
    serving, and the exit code is 0 all the same, for the pipeline did its work.

    Examples:
      evergrow run training -f models/arrival_delay/model.yaml --as-of 2013-10-01

      evergrow run materialization -f models/arrival_delay/model.yaml

      evergrow run training -f model.yaml --require-pass -o json | jq .verdict.reason
    """
    from evergrow.spec import load

    document = load(file)
    environment = Environment.read()
    place = _place(environment) if runner is Runner.PODS else None
    # As by Ctrl-C: what was started is stopped. The first process of a container would not hear it otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(KILLED))
    tried = read_policies(pipeline, policies, what_if or ())
    summary = run_pipeline(environment, pipeline, document, read_as_of(as_of), again, place, tried, shares)
    show(summary, output, _told(summary))
    if require_pass and pipeline is Pipeline.TRAINING and summary["verdict"]["outcome"] != "pass":
        raise typer.Exit(GATE_DID_NOT_PASS)


def score(
    file: File,
    as_of: AsOf = None,
    again: Annotated[bool, typer.Option("--again", help="Score even if that was done.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Score the rows that come up next with the champion: the batch_scoring pipeline.

    Examples:
      evergrow score -f models/arrival_delay/model.yaml --as-of 2013-10-01
    """
    run(Pipeline.BATCH_SCORING, file, as_of, require_pass=False, again=again, output=output)


def report(
    model: Annotated[str | None, typer.Argument(help="Of which model; of any if not given.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell where the newest report is: one HTML page that needs no network.

    Examples:
      evergrow report arrival-delay --open
    """
    from evergrow.reports import newest

    path = newest(Environment.read(), model)
    show({"report": str(path)}, output, str(path))
    if open_it:
        typer.launch(path.as_uri())


def read_policies(pipeline: Pipeline, policies: Path | None, what_if: Sequence[str]) -> PolicySet | None:
    """The policies that a backtest tries, and what it supposes.

    Raises:
        SpecError: it is a backtest and they are not given, or the other way round; what is supposed cannot be.
    """
    from evergrow.backtest.policies import supposed
    from evergrow.spec import load
    from evergrow.spec.policies import PolicySet

    if (policies is None) is (pipeline is Pipeline.BACKTEST):
        told = "a backtest needs it" if policies is None else f"is for a backtest, found with {pipeline}"
        raise SpecError(f"--policies: {told}", hint="such as --policies models/arrival_delay/policies.yaml")
    if policies is None and what_if:
        raise SpecError(f"--what-if: is for a backtest, found with {pipeline}")
    return None if policies is None else supposed(load(policies, PolicySet), what_if)


def read_as_of(text: str | None, option: str = "--as-of") -> str:
    """The instant an option names, or now; as ISO 8601 in UTC.

    Raises:
        SpecError: it is no instant.
    """
    from evergrow.contracts import instant

    try:
        return (instant(text) if text else datetime.now(UTC)).isoformat()
    except ValueError as error:
        raise SpecError(
            f"{option}: must be ISO 8601, found {text!r}", hint='such as "2013-10-01" or "2013-10-01T12:00:00+02:00"'
        ) from error


def run_pipeline(
    environment: Environment,
    pipeline: Pipeline,
    document: ContinualModel,
    as_of: str,
    again: bool = False,
    place: EnvironmentSpec | None = None,
    policies: PolicySet | None = None,
    shares: int = 4,
) -> dict[str, Any]:
    """Run a pipeline with its steps shown, and say what came of it; what was done already is told, not done again.

    Args:
        environment: where state lives.
        pipeline: which one.
        document: the model's.
        as_of: ISO 8601.
        again: run it even if nothing it reads has changed.
        place: the environment of a cluster in whose pods the steps run; None: in processes here.
        policies: what a backtest tries.
        shares: into which a backtest is dealt.

    Raises:
        PipelineError: a step failed; or the gate passed and yet nothing was deployed.
    """
    from evergrow.integrations import pipeline_runs

    with Steps(f"{pipeline} of {document.name} as of {as_of}") as steps:
        return pipeline_runs.run_pipeline(
            environment, pipeline, document, as_of, steps, again=again, place=place, policies=policies, shares=shares
        )


def _place(environment: Environment) -> EnvironmentSpec:
    """The environment of a cluster that this process runs in.

    Raises:
        SpecError: it does not run in one.
    """
    from evergrow.integrations.places import place_of

    place = place_of(environment)
    if place is None:
        raise SpecError(
            "--runner pods: EVERGROW_ENVIRONMENT and EVERGROW_STORE are not set: this is no environment of a cluster",
            hint="from outside of a cluster: `evergrow submit ... --env dev --runner pods`",
        )
    return place


def _told(summary: dict[str, Any]) -> str:
    lines = []
    if "verdict" in summary:
        lines += [
            f"{name} {m['value']:.4f} [{m['low']:.4f}, {m['high']:.4f}]" for name, m in summary["metrics"].items()
        ]
        lines += [f"verdict: {summary['verdict']['outcome']}: {summary['verdict']['reason']}"]
        serving = summary["serving"] or "not deployed; the champion goes on serving"
        lines += [f"version {summary['version']}: {serving}", f"report: {summary['report']}"]
    if "predictions" in summary:
        lines += [f"predictions: {summary['predictions']}"]
    if "results" in summary:
        lines += [f"results and page: {summary['results']}"]
    if "action" in summary:
        lines += [f"{summary['action']}: {reason}" for reason in summary["reasons"]]
        lines += [f"report: {summary['report']}"]
    return "\n".join([*lines, f"done in {summary['seconds']} s, log and artifacts in {summary['run']}"])
