"""What a run on this machine tells of its steps: lines appended to one file, by every step's own process."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from pydantic import BaseModel

import evergrow.errors
from evergrow.errors import EvergrowError, PipelineError

FOLDER = "EVERGROW_RUN"
"""Variable that names the run's folder; STDOUT in a pod, whose log is all that it shares with who watches."""
STDOUT = "stdout"
MARK = "::evergrow:: "
"""What a line of a pod's log begins with that is an event."""
TERMINATION = Path("/dev/termination-log")
"""What a container leaves there, Kubernetes shows as the reason of its end."""
FINAL = "not worth trying again"
"""What that begins with if so. Argo, which runs Kubeflow's steps, heeds it: manifests/platform/kubeflow-pipelines."""

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


def _tell(name: str, what: Literal["started", "noted", "ended", "failed"], **more: Any) -> None:
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    event = Event(step=name, process=os.getpid(), at=time.time(), what=what, **more)
    if folder != STDOUT:
        Journal(Path(folder)).write(event)
        return
    print(f"{MARK}{event.model_dump_json(exclude_defaults=True)}", flush=True)
    if what == "failed":
        leave_word(evergrow.errors.as_text(event.text, event.hint, event.error), event.retriable)


def leave_word(why: str, retriable: bool) -> None:
    """Have Kubernetes show why this container ends, if this process is in one; `retriable` as of errors."""
    if TERMINATION.exists():
        TERMINATION.write_text(why if retriable else f"{FINAL}\n{why}", encoding="utf-8")


def step(main: Callable[P, R]) -> Callable[P, R]:
    """Make a function of `components/<name>/step.py` tell the run it is part of when it starts, ends and fails."""
    name = main.__module__.split(".")[-2] if main.__name__ == "main" else main.__name__

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        _tell(name, "started")
        try:
            result = main(*args, **kwargs)
        except Exception as error:
            ours = {"hint": error.hint, "retriable": error.retriable} if isinstance(error, EvergrowError) else {}
            _tell(name, "failed", text=str(error), error=type(error).__name__, **ours)
            raise
        _tell(name, "ended", text=str(result) if isinstance(result, str | int) else "")
        return result

    return told


def note(step: str, text: str, *, passing: bool = False) -> None:
    """Say something of a step to whoever watches the run, and to the log; `passing` if only until it goes on."""
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
