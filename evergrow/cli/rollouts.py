"""`evergrow rollout` and `rollback`: a new version takes over, step by step, and can be sent back."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from evergrow.cli.output import Output, OutputOption, show, show_table
from evergrow.environment import Environment
from evergrow.errors import RolloutError, SpecError

if TYPE_CHECKING:
    from evergrow.integrations.rollout_files import RolloutEvent
    from evergrow.ports import Rollouts
    from evergrow.rollout.attempt import Attempt
    from evergrow.rollout.machine import Order
    from evergrow.spec.rollout import ModelRollout

    class Kept(Rollouts, Protocol):
        """Rollouts, and what people want to know beyond what carries them out."""

        def models(self) -> list[str]:
            """Names of all models that are known."""
            ...

        def events(self, model: str) -> list[RolloutEvent]:
            """What was told of a model's attempts, oldest first."""
            ...


EVENTS = 10
"""So many, the newest, are shown."""
WATCH_SECONDS = 1.0

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
NameOrModel = Annotated[
    str, typer.Argument(help="Name of a rollout, or of a model: its newest that is not over.", show_default=False)
]
Env = Annotated[
    str | None,
    typer.Option("--env", "-e", help="The environment of a cluster, instead of this machine.", show_default=False),
]
Reason = Annotated[str, typer.Option(help="Why, for who reads the history.", show_default=False)]

app = typer.Typer(no_args_is_help=True, help="How a new version takes over: start, look, pause, promote, abort.")


def add_to(parent: typer.Typer) -> None:
    """Add this module's commands."""
    parent.add_typer(app, name="rollout")
    parent.command()(rollback)
    parent.command()(approve)
    app.command("rollback")(rollback)


def rollouts_of(env: str | None = None) -> Kept:
    """The rollouts of an environment; of this machine if None."""
    if env is None:
        from evergrow.integrations.rollout_files import RolloutFiles

        return RolloutFiles(Environment.read().home)
    from evergrow.integrations.clocks import OffsetClock
    from evergrow.integrations.environments import namespace_of, read_environment
    from evergrow.integrations.kubernetes import Kubernetes
    from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts

    kubernetes = Kubernetes.open(namespace_of(env))
    if not read_environment(env, kubernetes).execution.serving.rollouts:
        raise RolloutError(
            f"--env {env}: nobody carries rollouts out there: its operator is switched off",
            hint="set operator.enabled in the environment's values",
        )
    return KubernetesRollouts(kubernetes, OffsetClock())


# -- commands --


@app.command()
def start(
    model: Model,
    version: Annotated[
        list[int], typer.Option(help="The new version; several for a bandit.", min=1, show_default=False)
    ],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The model's document, to be kept.", show_default=False)
    ] = None,
    strategy_file: Annotated[
        Path | None,
        typer.Option(help="How, instead of `spec.rollout` of the model's document: YAML.", show_default=False),
    ] = None,
    reason: Reason = "",
    env: Env = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have a new version take over; what is under way of the model is superseded.

    Examples:
      evergrow rollout start arrival-delay --version 4 -f models/arrival_delay/model.yaml

      evergrow rollout start arrival-delay --version 4 --strategy-file canary.yaml --reason "new weather"
    """
    from evergrow.spec import load
    from evergrow.spec.rollout import Rollout

    rollouts = rollouts_of(env)
    if file is not None:
        _put(rollouts, model, file)
    if rollouts.model(model) is None:
        raise RolloutError(
            f"{model}: its document is not known here{_among(rollouts)}", hint="give it once with -f model.yaml"
        )
    _check_prepared(env, model, version)
    how = None if strategy_file is None else load(strategy_file, Rollout)
    wanted = _wanted(model, version, reason, how)
    rollouts.create(wanted)
    told = f"{wanted.name}: {_versions(version)} of {model} is to take over"
    show(
        {"rollout": wanted.name, "model": model, "candidates": version}, output, "\n".join([told, *_hints(env, model)])
    )


@app.command("list")
def list_rollouts(
    model: Annotated[str | None, typer.Argument(help="Of which model; of all if not given.")] = None,
    env: Env = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List rollouts, newest first: the history of what served. JSON has all of each, with why it ended so.

    Examples:
      evergrow rollout list

      evergrow rollout list arrival-delay -o json
    """
    rollouts = rollouts_of(env)
    names = rollouts.models() if model is None else [_known(rollouts, model)]
    found = [one for name in names for one in reversed(rollouts.attempts(name))]
    if output is Output.JSON:
        show([one.document.dump() for one in found], output, "")
        return
    show_table([_row(one) for one in found], output, "no rollouts yet; `evergrow rollout start` makes one")


@app.command()
def status(
    name: NameOrModel,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again until it is over.")] = False,
    env: Env = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a rollout: who answers, what it waits for, by which evidence, and what happened.

    Examples:
      evergrow rollout status arrival-delay --watch

      evergrow rollout status arrival-delay-v4-x7f3 -o json
    """
    rollouts, shown = rollouts_of(env), ""
    found = _found(rollouts, name)
    while True:
        events = [one for one in rollouts.events(found.document.spec.model) if one.name == found.name]
        text = _described(found, events)
        if text != shown:
            value = {**found.document.dump(), "events": [one.model_dump(mode="json") for one in events]}
            show(value, output, text if not shown else f"\n{text}")
            shown = text
        if not watch or found.over:
            return
        time.sleep(WATCH_SECONDS)
        found = _named(rollouts, found.document.spec.model, found.name)


@app.command()
def pause(name: NameOrModel, env: Env = None, output: OutputOption = Output.TEXT) -> None:
    """Have shares stay as they are; guardrails still watch.

    Examples:
      evergrow rollout pause arrival-delay
    """
    _order(env, name, "pause", output)


@app.command()
def resume(name: NameOrModel, env: Env = None, output: OutputOption = Output.TEXT) -> None:
    """Go on with one that is paused; it has all the time again.

    Examples:
      evergrow rollout resume arrival-delay
    """
    _order(env, name, "resume", output)


@app.command()
def promote(name: NameOrModel, env: Env = None, output: OutputOption = Output.TEXT) -> None:
    """Give all traffic to the candidate now, whatever the evidence says.

    Examples:
      evergrow rollout promote arrival-delay
    """
    _order(env, name, "promote", output)


@app.command()
def abort(name: NameOrModel, env: Env = None, output: OutputOption = Output.TEXT) -> None:
    """Send everyone back to the version that served before.

    Examples:
      evergrow rollout abort arrival-delay
    """
    _order(env, name, "abort", output)


def approve(name: NameOrModel, env: Env = None, output: OutputOption = Output.TEXT) -> None:
    """Approve of a version that passed its gate, where the environment asks for that: it takes over as it should.

    Who approved is on record in the rollout's history. `evergrow rollout abort` refuses it.

    Examples:
      evergrow approve arrival-delay --env production
    """
    from evergrow.rollout.asking import awaits_approval

    found = _found(rollouts_of(env), name)
    if not awaits_approval(found):
        status = found.status
        raise RolloutError(
            f"{found.name} waits for no approval: {status.phase}: {status.reason}",
            hint="`evergrow rollout resume` goes on with one that somebody paused" if not found.over else "",
        )
    _order(env, found.name, "resume", output)


def rollback(
    model: Annotated[str, typer.Argument(help="Name of a model, or of its rollout.", show_default=False)],
    to: Annotated[
        int | None, typer.Option(help="The version. Default: the one that served before.", min=1, show_default=False)
    ] = None,
    reason: Reason = "",
    env: Env = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Go back to the version that served before: at once if its servers are still warm.

    A rollout that is under way is aborted; after one that promoted a version, what served before it takes over.

    Examples:
      evergrow rollback arrival-delay

      evergrow rollback arrival-delay --to 3 --reason "late flights are missed"
    """
    rollouts = rollouts_of(env)
    if to is not None and model in rollouts.models():
        version = to
    else:
        newest = _found(rollouts, model)
        model = newest.document.spec.model
        if to is None and not newest.over:
            _order(env, newest.name, "abort", output)
            return
        version = to if to is not None else _served_before(rollouts, newest)
    _check_prepared(env, model, [version])
    wanted = _wanted(model, [version], reason or f"rolled back to version {version}", _at_once())
    rollouts.create(wanted)
    warm, why = _is_warm(rollouts.attempts(model), version, _now(env, model))
    told = f"{wanted.name}: {model} goes back to version {version}, which is {why}"
    show({"rollout": wanted.name, "version": version, "warm": warm}, output, "\n".join([told, *_hints(env, model)]))


# -- finding --


def _known(rollouts: Kept, model: str) -> str:
    if model not in rollouts.models():
        raise RolloutError(f"{model}: no such model{_among(rollouts)}", hint=f"`evergrow rollout start {model} -f ...`")
    return model


def _among(rollouts: Kept) -> str:
    known = rollouts.models()
    return f"; known: {', '.join(known)}" if known else "; none is known yet"


def _found(rollouts: Kept, name: str) -> Attempt:
    """The rollout of that name, or a model's newest that is not over; else its newest."""
    if name in rollouts.models():
        attempts = rollouts.attempts(name)
        if not attempts:
            raise RolloutError(f"{name} has no rollouts yet", hint=f"`evergrow rollout start {name} --version ...`")
        return next((one for one in reversed(attempts) if not one.over), attempts[-1])
    for model in rollouts.models():
        for one in rollouts.attempts(model):
            if one.name == name:
                return one
    raise RolloutError(f"{name}: no such rollout or model{_among(rollouts)}", hint="`evergrow rollout list` shows all")


def _named(rollouts: Kept, model: str, name: str) -> Attempt:
    found = next((one for one in rollouts.attempts(model) if one.name == name), None)
    if found is None:
        raise RolloutError(f"{model} has no rollout {name} any more")
    return found


def _served_before(rollouts: Kept, newest: Attempt) -> int:
    """What served before the version that the rollouts put into service last."""
    model = newest.document.spec.model
    promoted = next((one.status for one in reversed(rollouts.attempts(model)) if one.status.winner is not None), None)
    if promoted is None or promoted.stable is None:
        why = "no rollout promoted a version" if promoted is None else f"nothing did before version {promoted.winner}"
        raise RolloutError(f"{model}: which version served before is not known: {why}", hint="name it with --to")
    return promoted.stable


# -- asking --


def _put(rollouts: Kept, model: str, file: Path) -> None:
    from evergrow.spec import load

    document = load(file)
    if document.name != model:
        raise SpecError(f"{file}: metadata.name: must be {model}, found {document.name}")
    rollouts.put_model(document)


def _wanted(model: str, candidates: Sequence[int], reason: str, how: Any) -> ModelRollout:
    from evergrow.spec import parse
    from evergrow.spec.rollout import ModelRollout

    spec = {"model": model, "candidates": list(candidates), "reason": reason, "requestedBy": _actor()}
    return parse(
        {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": f"{model}-v{candidates[0]}-{secrets.token_hex(2)}"},
            "spec": {**spec, "rollout": None if how is None else how.dump()},
        },
        "rollout",
        ModelRollout,
    )


def _at_once() -> Any:
    from evergrow.spec.rollout import Rollout, Single

    return Rollout(strategy=Single())


def _check_prepared(env: str | None, model: str, versions: Sequence[int]) -> None:
    """Refuse a version that this machine has nothing to serve of, before anybody waits for it."""
    from evergrow.integrations.server_processes import version_directory

    if env is not None:
        return
    root = Environment.read().serving(model)
    for version in versions:
        if version_directory(root, version) is None:
            raise RolloutError(
                f"{model}: version {version} is not prepared on this machine",
                hint="the training pipeline's deploy step prepares a version; `evergrow models list` shows all",
            )


def _order(env: str | None, name: str, order: Order, output: Output) -> None:
    rollouts = rollouts_of(env)
    found = _found(rollouts, name)
    model = found.document.spec.model
    if found.over:
        raise RolloutError(f"{found.name} is over: {found.status.phase}: {found.status.reason}", hint=_instead(found))
    rollouts.order(model, found.name, order, _actor())
    told = [f"{found.name}: {order} is ordered; now {found.status.phase}: {found.status.reason}", *_hints(env, model)]
    show({"rollout": found.name, "order": order, "phase": found.status.phase}, output, "\n".join(told))


def _instead(over: Attempt) -> str:
    spec = over.document.spec
    if over.status.phase == "Promoted":
        return f"`evergrow rollback {spec.model}` goes back to what served before"
    return f"`evergrow rollout start {spec.model} --version {spec.candidates[0]}` tries again"


def _actor() -> str:
    return os.environ.get("EVERGROW_ACTOR") or getpass.getuser()


# -- telling --


def _hints(env: str | None, model: str) -> list[str]:
    """What else there is to do: a file carries out nothing."""
    from evergrow.integrations.rollouts_local import served_by

    if env is not None or served_by(Environment.read().home, model) is not None:
        return []
    return [f"  hint: nobody carries it out yet: `evergrow serve {model} --rollout`"]


def _now(env: str | None, model: str) -> datetime | None:
    """The present as who serves the model has it; None if nobody does."""
    from evergrow.integrations.rollouts_local import served_by

    if env is not None:
        return datetime.now(UTC)
    by = served_by(Environment.read().home, model)
    return None if by is None else by.now


def _is_warm(attempts: Sequence[Attempt], version: int, now: datetime | None) -> tuple[bool, str]:
    """Whether a version's server runs by what the rollouts before say, and why."""
    for one in reversed(attempts):
        ended, how = one.status.ended, one.status.rollout
        if one.status.winner is not None and one.status.stable == version and ended is not None and how is not None:
            until = ended + how.keep_warm
            if now is not None and now < until:
                return True, f"warm until {until:%Y-%m-%d %H:%M} UTC: it takes seconds"
            break
    return False, "not warm: it is started first, which takes a while"


def _versions(versions: Sequence[int]) -> str:
    return ("version " if len(versions) == 1 else "versions ") + ", ".join(map(str, versions))


def _strategy(one: Attempt) -> str:
    how = one.status.rollout or one.document.spec.rollout
    return how.strategy.kind if how else "as the document says"


def _row(one: Attempt) -> dict[str, Any]:
    return {
        "rollout": one.name,
        "version": ", ".join(map(str, one.document.spec.candidates)),
        "strategy": _strategy(one),
        "phase": one.status.phase,
        "answers": one.status.split,
        "started": f"{one.status.started:%Y-%m-%d %H:%M}" if one.status.started else "",
    }


def _described(one: Attempt, events: Sequence[RolloutEvent]) -> str:
    """A rollout in words, each check a line."""
    from evergrow.integrations.rollouts_local import told
    from evergrow.rollout.attempt import ORDER

    spec, status = one.document.spec, one.status
    instead = f"version {status.stable}" if status.stable else "none"
    ordered = one.document.metadata.annotations.get(ORDER)
    lines = [
        f"{one.name}: {status.phase}{_step(one)}",
        f"what      {_versions(spec.candidates)} of {spec.model} after {instead}, {_strategy(one)}",
        f"asked     by {spec.requested_by or 'somebody'}{f': {spec.reason}' if spec.reason else ''}",
        f"answers   {status.split or 'as before'}",
        f"why       {status.reason or 'it has not begun'}",
        *([f"ordered   {ordered}"] if ordered else []),
        *(f"          v{f.candidate} {f.check:<13} {f.outcome:<13} {f.reason}" for f in status.findings),
        *(told(event) for event in events[-EVENTS:]),
    ]
    return "\n".join(lines)


def _step(one: Attempt) -> str:
    from evergrow.rollout.machine import moves_of

    how = one.status.rollout
    if one.over or how is None or one.status.step_started is None:
        return ""
    return f", step {one.status.step + 1} of {len(moves_of(how, one.status))}"
