"""`evergrow submit`, `schedule`, `status` and their kin: pipelines on a cluster."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, Steps, show, show_table
from evergrow.cli.pipelines import AsOf, File, Pipeline, Policies, Shares, Suppose, read_as_of, read_policies
from evergrow.errors import SpecError

if TYPE_CHECKING:
    from evergrow.integrations.kubeflow_api import Access, Kubeflow
    from evergrow.integrations.kubeflow_schedules import KubeflowSchedules, ScheduledRun
    from evergrow.integrations.overview import Overview
    from evergrow.integrations.submission import Submission, SubmittedRun
    from evergrow.spec.environment import EnvironmentSpec

INTERRUPTED = 130
SHOWN_RUNS = 20
NEVER = datetime.min.replace(tzinfo=UTC)
PATIENCE = 10.0
"""Seconds for which somebody at a terminal waits for a cluster that does not answer."""


class RunnerOfSteps(StrEnum):
    """What carries out pipelines on a cluster."""

    KUBEFLOW = "kubeflow"
    PODS = "pods"


Env = Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="The environment's, if not evergrow-<env>.", show_default=False)
]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig. Default: the current one.", show_default=False)]
RunnerOption = Annotated[
    RunnerOfSteps | None, typer.Option(help="Default: what the environment says.", show_default=False)
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        help="URL of Kubeflow Pipelines. Default: through the Kubernetes API server.",
        envvar="KF_PIPELINES_ENDPOINT",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="Holds the bearer token for Kubeflow Pipelines.", show_default=False)
]
CaCert = Annotated[
    Path | None, typer.Option(help="Certificates that Kubeflow's TLS may be signed with.", show_default=False)
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not check Kubeflow's TLS certificate.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show the run until it is over.")]
Timeout = Annotated[str, typer.Option(help="How long to wait, such as 90m; the run itself goes on.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `evergrow status` shows it.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (submit, follow, terminate, status):
        app.command()(command)
    app.add_typer(schedules, name="schedule")


schedules = typer.Typer(no_args_is_help=True, help="Pipelines that Kubeflow runs again and again.")


@dataclass(frozen=True)
class Target:
    """Where a command goes: an environment, and how it is reached."""

    env: str
    namespace: str | None = None
    context: str | None = None
    runner: RunnerOfSteps | None = None
    endpoint: str | None = None
    token_file: Path | None = None
    ca_cert: Path | None = None
    insecure: bool = False

    def place(self) -> EnvironmentSpec:
        """What is installed there, with the runner that was asked for."""
        from evergrow.integrations.environments import namespace_of, read_environment

        place = read_environment(self.env, self.kubernetes(self.namespace or namespace_of(self.env)))
        return _changed(place, self.runner, None)

    def kubernetes(self, namespace: str) -> Any:
        """A namespace of the cluster."""
        from evergrow.integrations.kubernetes import Kubernetes

        return Kubernetes.open(namespace, self.context, patience=PATIENCE)

    def kubeflow(self, place: EnvironmentSpec) -> Kubeflow:
        """Its Kubeflow Pipelines."""
        from evergrow.integrations.kubeflow_api import connect

        return connect(place, self._access)

    def runs(self, place: EnvironmentSpec) -> Any:
        """Its runs: of its runner."""
        if place.execution.pipelines.runner == "pods":
            from evergrow.integrations.pods_submit import PodRuns

            return PodRuns(self.kubernetes(place.execution.namespace), place)
        from evergrow.integrations.kubeflow_client import KubeflowRuns

        return KubeflowRuns(self.kubeflow(place), self.kubernetes(place.steps_namespace))

    def schedules(self, place: EnvironmentSpec) -> KubeflowSchedules:
        """Its schedules, if they are Kubeflow's.

        Raises:
            SpecError: they are the chart's.
        """
        from evergrow.integrations.kubeflow_schedules import KubeflowSchedules

        if place.execution.pipelines.runner == "pods":
            raise SpecError(
                f"--env {self.env}: its steps run in pods, so its schedules are the chart's CronJobs",
                hint="change models.<name>.schedules in the environment's values, then `helm upgrade`",
            )
        return KubeflowSchedules(self.kubeflow(place))

    @property
    def arguments(self) -> str:
        """As they were given, for the commands that are suggested."""
        given = {
            "--env": self.env,
            "--namespace": self.namespace,
            "--context": self.context,
            "--runner": self.runner,
            "--endpoint": self.endpoint,
            "--token-file": self.token_file,
            "--ca-cert": self.ca_cert,
        }
        words = [f"{option} {value}" for option, value in given.items() if value is not None]
        return " ".join([*words, *(["--insecure"] if self.insecure else [])])

    @property
    def _access(self) -> Access:
        from evergrow.integrations.kubeflow_api import Access

        return Access(self.endpoint, self.token_file, self.ca_cert, not self.insecure, self.context)


def submit(
    pipeline: Annotated[Pipeline, typer.Argument(help="Which pipeline.", show_default=False)],
    file: File,
    env: Env,
    as_of: AsOf = None,
    image: Annotated[
        str | None, typer.Option(help="Run the steps in this one, name:tag[@digest].", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the run's name.")] = "manual",
    again: Annotated[bool, typer.Option("--again", help="Run it even if that was done.")] = False,
    policies: Policies = None,
    what_if: Suppose = None,
    shares: Shares = 4,
    wait: Wait = False,
    timeout: Timeout = "12h",
    namespace: NamespaceOption = None,
    context: Context = None,
    runner: RunnerOption = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a pipeline on a cluster, in an environment that is installed there.

    What determines a run (environment, pipeline, document, as-of, image) is its identity. Submitted again, the run of
    that identity is found; only one that failed, was terminated or brings the online store up to date is run anew.

    Examples:
      evergrow submit training -f models/arrival_delay/model.yaml --env dev --as-of 2013-10-01 --wait

      evergrow submit batch_scoring -f model.yaml --env production --endpoint https://kubeflow.example.com/pipeline
      --token-file token -o json

      evergrow submit backtest -f model.yaml --policies policies.yaml --env dev --as-of 2014-01-03 --wait

      evergrow submit training -f model.yaml --env dev --image registry.example.com/steps-python:1.4.0@sha256:...
    """
    target = Target(env, namespace, context, runner, endpoint, token_file, ca_cert, insecure)
    place = _changed(target.place(), None, image)
    runs, submission = target.runs(place), _submission(place, pipeline, file, as_of, reason)
    tried = read_policies(pipeline, policies, what_if or ())
    submission = dataclasses.replace(submission, policies=tried, shares=shares)
    run = runs.submit(submission, again)
    if not wait:
        show(dataclasses.asdict(run), output, _submitted(run, target))
        return
    _show_until_over(target, runs, run, _duration(timeout), output)


def follow(
    run: RunId,
    env: Env,
    timeout: Timeout = "12h",
    namespace: NamespaceOption = None,
    context: Context = None,
    runner: RunnerOption = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a run until it is over. Ctrl-C ends the following, not the run.

    Examples:
      evergrow follow 5f2c9e1a-... --env dev
    """
    target = Target(env, namespace, context, runner, endpoint, token_file, ca_cert, insecure)
    runs = target.runs(target.place())
    _show_until_over(target, runs, runs.get(run), _duration(timeout), output)


def terminate(
    run: RunId,
    env: Env,
    namespace: NamespaceOption = None,
    context: Context = None,
    runner: RunnerOption = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stop a run. What its steps have published stays; submitted again, it is run anew.

    Examples:
      evergrow terminate 5f2c9e1a-... --env dev
    """
    target = Target(env, namespace, context, runner, endpoint, token_file, ca_cert, insecure)
    runs = target.runs(target.place())
    found = runs.get(run)
    runs.cancel(found)
    show({"terminated": found.id}, output, f"terminated: {found.name}")


def status(
    env: Env,
    namespace: NamespaceOption = None,
    context: Context = None,
    runner: RunnerOption = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell what serves in an environment, what runs, what is to run, and what is wrong and how to fix it.

    Examples:
      evergrow status --env production

      evergrow status --env dev -o json | jq '.problems[].fix'
    """
    from evergrow.integrations.overview import cron_jobs, look

    target = Target(env, namespace, context, runner, endpoint, token_file, ca_cert, insecure)
    place = target.place()
    models, steps = target.kubernetes(place.execution.namespace), target.kubernetes(place.steps_namespace)
    is_pods = place.execution.pipelines.runner == "pods"
    scheduled = (lambda: cron_jobs(models, place)) if is_pods else (lambda: target.schedules(place).list())
    runs = (lambda: target.runs(place).runs()) if is_pods else (lambda: _newest_runs(target, place))
    seen = look(place, models, steps, runs, scheduled, datetime.now(UTC))
    if output is Output.JSON:
        show({"environment": place.name, **dataclasses.asdict(seen)}, output, "")
        return
    _show_overview(place, seen)


@schedules.command("create")
def create_schedule(
    pipeline: Annotated[Pipeline, typer.Argument(help="Which pipeline.", show_default=False)],
    file: File,
    env: Env,
    cron: Annotated[
        str, typer.Option(help="When: minute, hour, day of month, month, day of week; UTC.", show_default=False)
    ],
    suspended: Annotated[bool, typer.Option("--suspended", help="Let it rest at first.")] = False,
    image: Annotated[str | None, typer.Option(help="Run the steps in this one.", show_default=False)] = None,
    namespace: NamespaceOption = None,
    context: Context = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a pipeline again and again, each time as of the time it is due.

    A schedule keeps the document and the environment's image, resources and timeouts as they are now. Created again,
    it is brought up to date; one that is up to date stays as it is.

    Examples:
      evergrow schedule create training -f models/arrival_delay/model.yaml --env dev --cron "0 3 * * *"
    """
    from evergrow.spec import load

    target = Target(env, namespace, context, None, endpoint, token_file, ca_cert, insecure)
    if pipeline is Pipeline.BACKTEST:
        raise SpecError("a backtest is not run again and again", hint="`evergrow submit backtest` runs it once")
    place = _changed(target.place(), None, image)
    made = target.schedules(place).create(pipeline, load(file), cron, suspended)
    show(dataclasses.asdict(made), output, _scheduled(made))


@schedules.command("apply")
def apply_schedules(
    env: Env,
    prune: Annotated[bool, typer.Option("--prune", help="Delete those that the environment does not name.")] = False,
    namespace: NamespaceOption = None,
    context: Context = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make Kubeflow's schedules what the environment's values say: models.<name>.schedules.

    Examples:
      helm upgrade evergrow charts/evergrow -f values-dev.yaml && evergrow schedule apply --env dev
    """
    target = Target(env, namespace, context, None, endpoint, token_file, ca_cert, insecure)
    place = target.place()
    made = target.schedules(place).apply(prune)
    show_table([_row_of_schedule(s) for s in made], output, f"{place.name} names no schedules: models.<name>.schedules")


@schedules.command("list")
def list_schedules(
    env: Env,
    namespace: NamespaceOption = None,
    context: Context = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List an environment's schedules.

    Examples:
      evergrow schedule list --env dev
    """
    target = Target(env, namespace, context, None, endpoint, token_file, ca_cert, insecure)
    found = target.schedules(target.place()).list()
    show_table([_row_of_schedule(s) for s in found], output, "no schedules; `evergrow schedule create` makes one")


@schedules.command("suspend")
def suspend_schedule(
    schedule: Annotated[str, typer.Argument(help="Its name or id.", show_default=False)],
    env: Env,
    resume: Annotated[bool, typer.Option("--resume", help="Wake it instead.")] = False,
    namespace: NamespaceOption = None,
    context: Context = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let a schedule rest, or wake it. Runs that it has started go on.

    Examples:
      evergrow schedule suspend "training arrival-delay (dev)" --env dev

      evergrow schedule suspend "training arrival-delay (dev)" --env dev --resume
    """
    target = Target(env, namespace, context, None, endpoint, token_file, ca_cert, insecure)
    found = target.schedules(target.place()).suspend(schedule, not resume)
    show(dataclasses.asdict(found), output, _scheduled(found))


@schedules.command("delete")
def delete_schedule(
    schedule: Annotated[str, typer.Argument(help="Its name or id.", show_default=False)],
    env: Env,
    namespace: NamespaceOption = None,
    context: Context = None,
    endpoint: Endpoint = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    insecure: Insecure = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a schedule. Runs that it has started go on.

    Examples:
      evergrow schedule delete "training arrival-delay (dev)" --env dev
    """
    target = Target(env, namespace, context, None, endpoint, token_file, ca_cert, insecure)
    gone = target.schedules(target.place()).delete(schedule)
    show({"deleted": gone.id}, output, f"deleted: {gone.name}")


def _newest_runs(target: Target, place: EnvironmentSpec) -> list[SubmittedRun]:
    """The newest runs of an environment in Kubeflow, which keeps those of schedules apart from those submitted."""
    runs = target.runs(place)
    found = [*runs.runs(SHOWN_RUNS)]
    for schedule in target.schedules(place).list():
        found += runs.of_schedule(schedule.id, schedule.name)
    return sorted(found, key=lambda run: run.created or NEVER, reverse=True)[:SHOWN_RUNS]


def _submission(place: EnvironmentSpec, pipeline: Pipeline, file: Path, as_of: str | None, reason: str) -> Submission:
    from evergrow.contracts import instant
    from evergrow.integrations.submission import Submission
    from evergrow.spec import load

    given = instant(read_as_of(as_of))
    # What is now needs no microseconds in its name.
    return Submission(place, str(pipeline), load(file), given if as_of else given.replace(microsecond=0), reason)


def _changed(place: EnvironmentSpec, runner: RunnerOfSteps | None, image: str | None) -> EnvironmentSpec:
    """An environment with what an option says in the place of what is installed.

    Raises:
        SpecError: the image is none.
    """
    from pydantic import ValidationError

    from evergrow.spec.environment import EnvironmentSpec

    dumped = place.dump()
    if runner is not None:
        dumped["execution"]["pipelines"]["runner"] = str(runner)
    if image is not None:
        dumped["code"]["images"]["steps"] = image
    try:
        return EnvironmentSpec.model_validate(dumped)
    except ValidationError as error:
        raise SpecError(f"--image: must be name:tag or name:tag@sha256:digest, found {image!r}") from error


def _duration(text: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from evergrow.spec.base import Duration

    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise SpecError(f'--timeout: must be a duration such as "90m" or "12h", found {text!r}') from error


def _show_until_over(target: Target, runs: Any, run: SubmittedRun, timeout: timedelta, output: Output) -> None:
    try:
        with Steps(run.name) as steps:
            if run.existing:
                steps.say(f"is there already, {run.state} (--again runs it anew)")
            run = dataclasses.replace(_waited(runs, run, timeout, steps), existing=run.existing)
    except KeyboardInterrupt:
        print(_interrupted(run, target), file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    returned = runs.returned(run) if run.runner == "kubeflow" else {}
    show({**dataclasses.asdict(run), "returned": returned}, output, _over(run, returned))


def _waited(runs: Any, run: SubmittedRun, timeout: timedelta, steps: Steps) -> SubmittedRun:
    is_pods = run.runner == "pods"  # whose driver says itself how its steps get on
    over: SubmittedRun = runs.wait(run, steps.say, timeout) if is_pods else runs.wait(run, steps, timeout, steps.say)
    return over


def _interrupted(run: SubmittedRun, target: Target) -> str:
    return "\n".join(
        [
            f"no longer followed; it goes on: {run.name}",
            f"  follow it: evergrow follow {run.id} {target.arguments}",
            f"  stop it:   evergrow terminate {run.id} {target.arguments}",
        ]
    )


def _submitted(run: SubmittedRun, target: Target) -> str:
    said = "is there already (--again runs it anew)" if run.existing else "submitted"
    lines = [f"{said}: {run.name}", f"  state:  {run.state}", f"  see:    {run.link}" * bool(run.link)]
    return "\n".join([*filter(None, lines), f"  follow: evergrow follow {run.id} {target.arguments}"])


def _over(run: SubmittedRun, returned: Mapping[str, str]) -> str:
    said = [f"{step}: {text}" for step, text in returned.items() if text]
    return "\n".join([f"{run.state}: {run.name}", *said, *filter(None, [run.link])])


def _scheduled(made: ScheduledRun) -> str:
    said = "is as it should be" if made.existing else "is scheduled"
    return f"{made.name} {said}: {made.cron} (UTC){', suspended' if made.suspended else ''}"


def _row_of_schedule(schedule: ScheduledRun) -> dict[str, Any]:
    state = "suspended" if schedule.suspended else "active"
    return {"schedule": schedule.name, "cron (UTC)": schedule.cron, "state": state, "id": schedule.id}


def _show_overview(place: EnvironmentSpec, seen: Overview) -> None:
    execution = place.execution
    print(f"{place.name}: namespace {execution.namespace}, steps by {execution.pipelines.runner}")
    _show_part(
        "models",
        [
            {"model": s.model, "version": s.version, "state": s.state, "requests": f"{s.share} %", "url": s.url}
            for s in seen.models
        ],
        "none; `evergrow submit training` deploys the first version that passes its gate",
    )
    runs = (
        f"{r.state:<10} {f'{r.created:%m-%d %H:%M}' if r.created else '':<12} {r.name}\n  id {r.id}" for r in seen.runs
    )
    print("\nruns", *runs or ["none"], sep="\n")
    _show_part("schedules", [_row_of_schedule(s) for s in seen.schedules], "none")
    print(f"\nproblems\n{_told(seen) or 'none'}")


def _show_part(title: str, rows: list[dict[str, Any]], empty: str) -> None:
    print(f"\n{title}")
    show_table(rows, Output.TEXT, empty)


def _told(seen: Overview) -> str:
    indent: Callable[[str], str] = lambda text: text.replace("\n", "\n          ")  # noqa: E731
    return "\n".join(
        f"  {p.where}: {p.what}\n    why:  {indent(p.why)}\n    fix:  {indent(p.fix)}" for p in seen.problems
    )
