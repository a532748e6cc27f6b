"""`evergrow loop`: a model is trained again whenever its document says so, on this machine."""

from __future__ import annotations

import getpass
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, show, show_table
from evergrow.cli.pipelines import KILLED, File, read_as_of
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, SpecError

if TYPE_CHECKING:
    from evergrow.integrations.loop_kubernetes import ModelObject
    from evergrow.loop.book import Entry
    from evergrow.loop.ports import Book
    from evergrow.loop.state import Training
    from evergrow.loop.tick import Loop
    from evergrow.spec import ContinualModel
    from evergrow.spec.model import LoopStatus
    from evergrow.spec.retraining import Retraining

POLL_SECONDS = 0.5
AGAIN = timedelta(minutes=1)
"""After so long it looks again if something did not answer."""
SHOWN = 10
"""Trainings of the table; JSON has all."""

Reason = Annotated[str, typer.Option(help="Why, for who reads the book.", show_default=False)]
At = Annotated[
    str | None,
    typer.Option("--as-of", help="As if it were then, for a past that is replayed. Default: now.", show_default=False),
]

Env = Annotated[
    str | None,
    typer.Option("--env", "-e", help="The environment of a cluster, instead of this machine.", show_default=False),
]

app = typer.Typer(
    no_args_is_help=True, help="Train a model again whenever its document says so: run, look, have a say."
)


# -- commands --


@app.command()
def run(
    file: File,
    since: Annotated[str | None, typer.Option(help="Replay time from here on: ISO 8601.", show_default=False)] = None,
    until: Annotated[str | None, typer.Option(help="No decision is later.", show_default=False)] = None,
    every: Annotated[str, typer.Option(help="How often is decided: 1d, 6h, 15m.")] = "1d",
    output: OutputOption = Output.TEXT,
) -> None:
    """Decide every so often whether to train, train, and put what passes its gate into service.

    Goes on until it is told to stop, or to the end of the time that it replays. It may be killed at any point: the next
    run finishes what was begun, and what was decided is not decided again.

    Examples:
      evergrow loop run -f models/arrival_delay/model.yaml --every 6h

      evergrow loop run -f models/arrival_delay/model.yaml --since 2013-04-01 --until 2013-12-31
    """
    from evergrow.integrations.loop_local import book_of, claimed
    from evergrow.spec import load

    document, environment, pause = load(file), Environment.read(), read_every(every)
    replayed = read_times(since, until, pause)
    check(document, environment)
    book = book_of(environment, document.name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by Ctrl-C: what was started is stopped
    try:
        with claimed(environment, document.name, say) as lock:
            if replayed is None:
                _live(document, environment, book, lock, pause)
            else:
                _replay(document, environment, book, lock, replayed)
    except KeyboardInterrupt:
        say("stopped; the next `evergrow loop run` goes on from here")
        if replayed is not None:
            sys.exit(KILLED)
    _show(document, environment, replayed[-1] if replayed else datetime.now(UTC), output)


@app.command()
def status(file: File, env: Env = None, as_of: At = None, output: OutputOption = Output.TEXT) -> None:
    """Tell what the loop does, what it decided last, and how its trainings ended.

    Examples:
      evergrow loop status -f models/arrival_delay/model.yaml

      evergrow loop status -f models/arrival_delay/model.yaml -o json | jq .trainings

      evergrow loop status -f models/arrival_delay/model.yaml --env dev
    """
    from evergrow.spec import load

    document = load(file)
    if env is None:
        _show(document, Environment.read(), _instant(as_of), output)
        return
    told = _object(document, env, as_of).reported()
    show(None if told is None else told.model_dump(mode="json"), output, _reported(document, env, told))


@app.command()
def ask(file: File, reason: Reason = "", env: Env = None, as_of: At = None, output: OutputOption = Output.TEXT) -> None:
    """Ask for a training: it waits for no cooldown and no quiet hours, but for a budget and a freeze.

    Examples:
      evergrow loop ask -f models/arrival_delay/model.yaml --reason "new weather station"

      evergrow loop ask -f models/arrival_delay/model.yaml --env dev --reason "new weather station"
    """
    from evergrow.loop.book import Asked
    from evergrow.loop.state import Wish
    from evergrow.spec import load

    document = load(file)
    if not any(one.kind == "asked" for one in document.spec.retraining.triggers):
        raise SpecError(
            f"{file}: spec.retraining.triggers: nobody can ask for a training, for none of them is of kind asked",
            hint="add `- kind: asked` to them",
        )
    told = "a training is asked for"
    if env is None:
        _note(document, Asked(at=_instant(as_of), by=_actor(), reason=reason), told, output)
        return
    _object(document, env, as_of).ask(Wish(_actor(), reason))
    _annotated(document, env, told, output)


@app.command()
def freeze(
    file: File, reason: Reason = "", env: Env = None, as_of: At = None, output: OutputOption = Output.TEXT
) -> None:
    """Have nothing begun from now on, whatever is wanted. A training that is under way comes to its end.

    Examples:
      evergrow loop freeze -f models/arrival_delay/model.yaml --reason "audit until Friday"

      evergrow loop freeze -f models/arrival_delay/model.yaml --env production --reason "audit until Friday"
    """
    from evergrow.loop.book import Froze
    from evergrow.loop.state import Wish
    from evergrow.spec import load

    document, told = load(file), "frozen: nothing is begun"
    if env is None:
        _note(document, Froze(at=_instant(as_of), by=_actor(), reason=reason), told, output)
        return
    _object(document, env, as_of).freeze(Wish(_actor(), reason))
    _annotated(document, env, told, output)


@app.command()
def thaw(
    file: File, reason: Reason = "", env: Env = None, as_of: At = None, output: OutputOption = Output.TEXT
) -> None:
    """Let trainings be begun again.

    Examples:
      evergrow loop thaw -f models/arrival_delay/model.yaml

      evergrow loop thaw -f models/arrival_delay/model.yaml --env production
    """
    from evergrow.loop.book import Thawed
    from evergrow.spec import load

    document, told = load(file), "trainings are begun again"
    if env is None:
        _note(document, Thawed(at=_instant(as_of), by=_actor(), reason=reason), told, output)
        return
    _object(document, env, as_of).thaw()
    _annotated(document, env, told, output)


# -- what is given --


def read_every(text: str) -> timedelta:
    """How often is decided.

    Raises:
        SpecError: it is no length of time, or none at all.
    """
    from pydantic import TypeAdapter, ValidationError

    from evergrow.spec.base import Duration

    try:
        every: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        every = timedelta()
    if not every:
        raise SpecError(f"--every: must be a length of time, found {text!r}", hint='such as "1d", "6h" or "15m"')
    return every


def read_times(since: str | None, until: str | None, every: timedelta) -> list[datetime] | None:
    """The instants that are replayed; None: time is not replayed.

    Raises:
        SpecError: one is given without the other, is no instant, or they are the wrong way round.
    """
    from evergrow.contracts import instant

    if since is None and until is None:
        return None
    if since is None or until is None:
        raise SpecError("--since and --until: give both to replay time, or neither to live in the present")
    first, last = (instant(read_as_of(text, name)) for text, name in ((since, "--since"), (until, "--until")))
    if last < first:
        raise SpecError(f"--until: must not be before --since, found {until} before {since}")
    return [first + number * every for number in range((last - first) // every + 1)]


def check(document: ContinualModel, environment: Environment) -> None:
    """Refuse what no loop on this machine can go by.

    Raises:
        SpecError: the document has no trigger, or this is an environment of a cluster.
    """
    if not document.spec.retraining.triggers:
        raise SpecError(
            f"{document.name}: spec.retraining.triggers: there must be one for a loop to go by, found none",
            hint="such as `- {kind: data-volume, rows: 10000}`; docs/how-to/run-the-loop.md has them all",
        )
    if environment.store is not None:
        raise SpecError(
            "EVERGROW_STORE is set: in an environment of a cluster the pipeline `monitoring` runs the loop",
            hint="schedule it: docs/how-to/run-the-loop-on-a-cluster.md",
        )


def _instant(as_of: str | None) -> datetime:
    from evergrow.contracts import instant

    return instant(read_as_of(as_of))


def _actor() -> str:
    return os.environ.get("EVERGROW_ACTOR") or getpass.getuser()


# -- the loop --


def _replay(
    document: ContinualModel, environment: Environment, book: Book, lock: int, instants: Sequence[datetime]
) -> None:
    from evergrow.integrations.loop_local import LocalWorld
    from evergrow.integrations.memory import FixedClock
    from evergrow.loop.state import newest_decision
    from evergrow.loop.tick import Loop

    last = newest_decision(book.entries())
    if last is not None and last.as_of >= instants[0]:
        say(f"the book has decided up to {last.as_of:%Y-%m-%d %H:%M}: going on from there")
    clock = FixedClock(instants[0])
    world = LocalWorld(environment, document, lock, say)
    loop = Loop(document, book, world, clock, _teller(document, book))
    for now in instants:
        clock.move_to(now)
        loop.tick()


def _live(document: ContinualModel, environment: Environment, book: Book, lock: int, every: timedelta) -> None:
    from evergrow.integrations.clocks import OffsetClock
    from evergrow.integrations.loop_local import LocalWorld
    from evergrow.loop.tick import Loop

    world = LocalWorld(environment, document, lock, say)
    loop = Loop(document, book, world, OffsetClock(), _teller(document, book))
    while True:
        until = _next(document.spec.retraining, datetime.now(UTC), every)
        try:
            loop.tick()
        except EvergrowError as error:
            if not error.retriable:
                raise
            until = datetime.now(UTC) + AGAIN
            say(f"warning: {error}; tried again at {until:%H:%M:%S}")
        _rest(loop, until)


def _next(retraining: Retraining, now: datetime, every: timedelta) -> datetime:
    """When to look again: after a while, or once a schedule is due."""
    due = next_scheduled(retraining, now)
    return min(now + every, due) if due else now + every


def next_scheduled(retraining: Retraining, now: datetime) -> datetime | None:
    """The next instant of any schedule, in UTC; None: there is none."""
    from evergrow.spec.retraining import OnSchedule
    from evergrow.triggers.schedule import next_due

    due = [next_due(one, now) for one in retraining.triggers if isinstance(one, OnSchedule)]
    return min((at.astimezone(UTC) for at in due if at is not None), default=None)


def _rest(loop: Loop, until: datetime) -> None:
    """Wait until it is time to look again, or somebody has said something that was not heeded yet."""
    from evergrow.loop.state import unheard

    while (now := datetime.now(UTC)) < until and not unheard(loop.book.entries(), now):
        time.sleep(POLL_SECONDS)


# -- what is told --


def say(text: str) -> None:
    """Tell something for people to read."""
    print(text, file=sys.stderr, flush=True)


def line(entry: Entry) -> str:
    """An entry as a line."""
    from evergrow.loop.book import Began, Decided, Ended, SentBack

    at = f"{entry.at:%Y-%m-%d %H:%M}"
    if isinstance(entry, Decided):
        return f"{at} {'yes' if entry.decision.train else 'no'}: {entry.decision.reason}"
    if isinstance(entry, Began):
        return f"{at} training {entry.number} is begun"
    if isinstance(entry, SentBack):
        return f"{at} version {entry.version} of training {entry.number} is sent back: {entry.reason}"
    if isinstance(entry, Ended):
        version = f", version {entry.version}" if entry.version else ""
        return f"{at} training {entry.number} {entry.outcome}{version}: {entry.reason}"
    return f"{at} {entry.kind} by {entry.by}"


def _teller(document: ContinualModel, book: Book) -> Callable[[Entry], None]:
    def tell(entry: Entry) -> None:
        from evergrow.loop.state import warning

        say(line(entry))
        if entry.kind in ("ended", "sent-back") and (told := warning(document.spec.retraining, book.entries())):
            say(f"warning: {told}")

    return tell


def _note(document: ContinualModel, entry: Any, told: str, output: Output) -> None:
    """Write an entry into the book, and tell who acts on it."""
    from evergrow.integrations.loop_local import book_of, run_by

    environment = Environment.read()
    book_of(environment, document.name).append(entry)
    pid = run_by(environment, document.name)
    heard = f"process {pid} heeds it at once" if pid else "`evergrow loop run` heeds it, which does not run now"
    show(entry.model_dump(mode="json"), output, f"{document.name}: {told}; {heard}")


def _object(document: ContinualModel, env: str, as_of: str | None) -> ModelObject:
    """The model's object in an environment, which lives in the present."""
    from evergrow.integrations.environments import namespace_of
    from evergrow.integrations.kubernetes import Kubernetes
    from evergrow.integrations.loop_kubernetes import ModelObject

    if as_of is not None:
        raise SpecError("--as-of: is for a past that is replayed on this machine, not for an environment")
    return ModelObject(Kubernetes.open(namespace_of(env)), document.name)


def _annotated(document: ContinualModel, env: str, told: str, output: Output) -> None:
    text = f"{document.name}: {told}; the next run of the pipeline `monitoring` in {env} heeds it"
    show({"model": document.name, "environment": env, "told": told}, output, text)


def _reported(document: ContinualModel, env: str, told: LoopStatus | None) -> str:
    """What a loop on a cluster has come to, a line each."""
    if told is None or told.decided is None:
        return f"{document.name}: nothing was decided in {env} yet: the pipeline `monitoring` does so when it runs"
    state = f"training as of {_short(told.training)} is under way" if told.training else "idle"
    lines = [f"{document.name} in {env}: {state}; {told.trainings} trainings so far"]
    lines += [f"frozen {told.frozen}"] if told.frozen else []
    lines += [f"decided last: {_short(told.decided)} {'yes' if told.train else 'no'}: {told.reason}"]
    lines += [f"trained last: {told.ended}"] if told.ended else []
    if told.fruitless:
        until = f"; nothing is begun before {_short(told.not_before)}" if told.not_before else ""
        lines += [f"{told.fruitless} trainings in a row have brought no champion{until}"]
    return "\n".join(lines)


def _show(document: ContinualModel, environment: Environment, now: datetime, output: Output) -> None:
    from evergrow.integrations.loop_local import book_of, run_by
    from evergrow.loop.state import trainings

    entries, pid = book_of(environment, document.name).entries(), run_by(environment, document.name)
    found = summary(document, entries, now) | {"process": None if pid == os.getpid() else pid}
    rows = [_row(one) for one in trainings(entries)]
    if output is Output.JSON:
        show({**found, "trainings": rows}, output, "")
        return
    show(None, output, _text(found))
    shown = [{name: value for name, value in row.items() if name != "reason"} for row in rows[-SHOWN:]]
    show_table(shown, output, "nothing was trained yet")


def summary(document: ContinualModel, book: Sequence[Entry], now: datetime) -> dict[str, Any]:
    """What a book says as of an instant, by name; of JSON."""
    from evergrow.loop.state import frozen, fruitless, newest_decision, not_before, under_way, warning

    retraining = document.spec.retraining
    began, last, rests = under_way(book), newest_decision(book), not_before(retraining, book)
    ended = [line(one) for one in book if one.kind in ("ended", "sent-back")]
    due = next_scheduled(retraining, now)
    return {
        "model": document.name,
        "state": f"training {began.number} is under way since {began.at:%Y-%m-%d %H:%M}" if began else "idle",
        "frozen": frozen(book, now),
        "decision": None if last is None else {**last.model_dump(mode="json"), "train": last.train},
        "ended": ended[-1] if ended else "",
        "schedule": due.isoformat() if due else None,
        "fruitless": fruitless(book),
        "not_before": rests.isoformat() if rests else None,
        "warning": warning(retraining, book),
    }


def _row(training: Training) -> dict[str, Any]:
    began, ended, back = training.began, training.ended, training.back
    if ended is None:
        told: dict[str, Any] = {"ended": None, "outcome": "under way", "version": None, "cpu_hours": 0.0, "reason": ""}
    else:
        told = ended.model_dump(mode="json", exclude={"kind", "number", "at"}) | {"ended": _short(ended.at)}
    if back is not None:
        told |= {"outcome": "sent back", "reason": back.reason}
    names = ("ended", "outcome", "version", "cpu_hours", "reason")
    return {"number": began.number, "began": _short(began.at), **{name: told[name] for name in names}}


def _short(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _text(found: dict[str, Any]) -> str:
    """Of `summary`, what is worth a line each."""
    decision = found["decision"]
    runs = f"process {found['process']} runs its loop" if found["process"] else "no process runs its loop"
    lines = [f"{found['model']}: {found['state']}; {runs}"]
    lines += [f"frozen {found['frozen']}"] if found["frozen"] else []
    if decision:
        lines += [f"decided last: {decision['as_of']} {'yes' if decision['train'] else 'no'}: {decision['reason']}"]
    lines += [f"trained last: {found['ended']}"] if found["ended"] else []
    lines += [f"schedule: due next at {found['schedule']}"] if found["schedule"] else []
    lines += [f"warning: {found['warning']}"] if found["warning"] else []
    return "\n".join([*lines, ""])
