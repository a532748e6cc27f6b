"""What a run tells of its steps: lines appended to one file by every step's own process, or lines of a pod's log."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError

import evergrow.errors
from evergrow import logs
from evergrow.errors import EvergrowError, PipelineError, as_text, public, without
from evergrow.redaction import Redaction

FOLDER = "EVERGROW_RUN"
"""Variable that names the run's folder; STDOUT in a pod, whose log is all that it shares with who watches."""
NAME = "EVERGROW_RUN_NAME"
"""Variable with the run's name, where its folder does not have it."""
STDOUT = "stdout"
MARK = "::evergrow:: "
"""What a line of a pod's log begins with that is an event, unless the pod logs JSON."""
TERMINATION = Path("/dev/termination-log")
"""What a container leaves there, Kubernetes shows as the reason of its end."""
FINAL = "not worth trying again"
"""What that begins with if so. Argo, which runs Kubeflow's steps, heeds it: manifests/platform/kubeflow-pipelines."""

logger = logging.getLogger("evergrow.step")

P = ParamSpec("P")
R = TypeVar("R")


class Event(BaseModel):
    """One thing that happened in one step. `process` tells apart the steps of one name that run side by side."""

    step: str
    process: int
    at: float
    """Seconds since the epoch: for showing, never for deciding."""
    what: Literal["started", "noted", "ended", "failed"]
    text: str = ""
    """Of "noted" the note, of "ended" what the step returned, of "failed" the error's message."""
    error: str = ""
    """Of "failed": name of the error's class."""
    hint: str = ""
    retriable: bool = False
    """Of "failed": whether trying again is worth it."""
    passing: bool = False
    """Of "noted": what the step is doing, of no interest once it has gone on."""

    def as_error(self) -> EvergrowError:
        """The error a failed step raised, as far as another process can raise it again."""
        kind = getattr(evergrow.errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, EvergrowError):
            return kind(f"step {self.step}: {self.text}", hint=self.hint, retriable=self.retriable)
        return PipelineError(f"step {self.step}: {self.error}: {self.text}")


class Journal:
    """The events of one run, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"

    def write(self, event: Event) -> None:
        """Append an event: one write of one line, so that steps side by side never mix theirs."""
        line = event.model_dump_json(exclude_defaults=True) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self, skip: int = 0) -> Iterator[Event]:
        """Events after the first `skip`; a line still being written is left for the next time."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        for line in lines[skip:]:
            if line.endswith("\n"):
                yield Event.model_validate(json.loads(line))


def event_of(line: str) -> Event | None:
    """The event that a line of a pod's log holds; None if it holds none, or was cut off.

    >>> event_of(MARK + '{"step": "ingest", "process": 7, "at": 1.5, "what": "started"}').what
    'started'
    """
    _, mark, told = line.partition(MARK)
    try:
        if mark:
            return Event.model_validate_json(told)
        return Event.model_validate(_json(line)["event"])
    except (ValidationError, KeyError):
        return None


def as_read(line: str) -> str:
    """A line of a pod's log as people read it: of one in JSON, what it says."""
    return str(_json(line).get("message", line))


def _json(line: str) -> Mapping[str, Any]:
    try:
        read = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _tell(name: str, what: Literal["started", "noted", "ended", "failed"], **more: Any) -> None:
    folder, is_json = os.environ.get(FOLDER), logs.is_json()
    event = Event(step=name, process=os.getpid(), at=time.time(), what=what, **more)
    if folder and folder != STDOUT:
        Journal(Path(folder)).write(event)
    if is_json:
        told = {"event": event.model_dump(exclude_defaults=True)} if folder == STDOUT else {}
        level = logging.ERROR if what == "failed" else logging.INFO
        logger.log(level, "%s", event.text or what, extra={"step": name, **told})
    elif folder == STDOUT:
        print(f"{MARK}{event.model_dump_json(exclude_defaults=True)}", flush=True)
    if folder == STDOUT and what == "failed":
        leave_word(as_text(event.text, event.hint, event.error), event.retriable)


def leave_word(why: str, retriable: bool) -> None:
    """Have Kubernetes show why this container ends, if this process is in one; `retriable` as of errors."""
    if TERMINATION.exists():
        why = Redaction(os.environ)(why)
        TERMINATION.write_text(why if retriable else f"{FINAL}\n{why}", encoding="utf-8")


def exit_code_of(program: Callable[[], None]) -> int:
    """As `errors.exit_code_of`, of a program that may log JSON: its last line is one then, and Kubernetes has text."""
    try:
        program()
    except EvergrowError as error:
        why = as_text(public(error), error.hint)
        if logs.is_json():
            logs.logger.critical("%s", error, extra={"hint": error.hint})
            leave_word(why, retriable=True)
        else:
            print(Redaction(os.environ)(why), file=sys.stderr)
        return error.exit_code
    return 0


def step_name(main: Callable[..., object]) -> str:
    """What a step's function is called: a folder of `components/`, or, where that has several, the function."""
    return main.__module__.split(".")[-2] if main.__name__ == "main" else main.__name__


def step(main: Callable[P, R]) -> Callable[P, R]:
    """Make a function of `components/<name>/step.py` tell the run it is part of when it starts, ends and fails."""
    name = step_name(main)

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        if logs.is_json():
            _log_json(name, args)
        _tell(name, "started")
        try:
            result = main(*args, **kwargs)
        except Exception as error:
            _tell(name, "failed", error=type(error).__name__, **_described(error))
            raise
        _tell(name, "ended", text=str(result) if isinstance(result, str | int) else "")
        return result

    return told


def _described(error: Exception) -> dict[str, Any]:
    """What is told of an error: where others collect what is told, nothing of the data that it is about."""
    if isinstance(error, EvergrowError):
        text = public(error) if logs.is_json() else str(error)
        return {"text": text, "hint": error.hint, "retriable": error.retriable}
    return {"text": "its message may quote data; the log says where it was raised" if logs.is_json() else str(error)}


def _log_json(name: str, args: tuple[Any, ...]) -> None:
    """Log what this process says from here on as JSON, what libraries print included."""
    folder = os.environ.get(FOLDER, "")
    run = os.environ.get(NAME) or ("" if folder == STDOUT else Path(folder).name)
    # A step's first argument is the model's document.
    model = _json(args[0]).get("metadata", {}).get("name", "") if args and isinstance(args[0], str) else ""
    logs.configure(sys.__stdout__, step=name, run=run, model=model)
    sys.stdout, sys.stderr = logs.Printed("stdout"), logs.Printed("stderr")


def note(step: str, text: str, *, passing: bool = False, data: Iterable[str] = ()) -> None:
    """Say something of a step to whoever watches the run, and to the log; `passing` if only until it goes on.

    Of the text, `data` are the parts that are values of rows: logs in JSON, which others collect, do not get them.
    """
    if logs.is_json():
        text = without(text, data)
    else:
        print(f"{step}: {text}", flush=True)
    _tell(step, "noted", text=text, passing=passing)


def returned(events: list[Event]) -> Mapping[str, str]:
    """What each step returned that ended."""
    return {event.step: event.text for event in events if event.what == "ended"}


def failure(events: list[Event]) -> EvergrowError | None:
    """Why a run failed: the first step that said so, else the one that started and was never heard of again."""
    for event in events:
        if event.what == "failed":
            return event.as_error()
    over = {event.process for event in events if event.what == "ended"}
    for event in events:
        if event.what == "started" and event.process not in over:
            return PipelineError(
                f"step {event.step}: its process ended without a word",
                hint="it was killed; if the machine ran out of memory, the kernel's log says so",
            )
    return None
