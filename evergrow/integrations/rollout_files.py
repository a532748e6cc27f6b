"""Rollouts on one machine: files that the command line and the serving process share.

    <home>/rollouts/<model>/model.json          the ContinualModel
    <home>/rollouts/<model>/model.status.json   what has become of it
    <home>/rollouts/<model>/<attempt>.json      a ModelRollout with its status, as a cluster would keep it
    <home>/rollouts/<model>/events.jsonl        what was told of attempts, oldest first

A file is written aside and renamed: a reader finds the old content or the new one, whole. Who writes holds the folder's
lock from reading to renaming, so no two writers lose each other's changes; a lock ends with the process that holds it.

To delete an attempt is to remove its file: it is forgotten, and so is that its version served. Nothing waits for it to
end, as a finalizer does on a cluster; an attempt that is under way is aborted first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evergrow.contracts import Instant, Value, instant
from evergrow.errors import ConflictError, RolloutError, SpecError
from evergrow.rollout.attempt import ORDER, ORDERED_BY, REQUESTED, Attempt
from evergrow.rollout.machine import Order
from evergrow.spec import ContinualModel, parse
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import ModelRollout, RolloutStatus

MODEL, STATUS, EVENTS, LOCK = "model.json", "model.status.json", "events.jsonl", ".lock"


class RolloutEvent(Value):
    """What was told of an attempt."""

    at: Instant
    name: str
    """Of the attempt."""
    reason: str
    message: str
    warning: bool = False


class RolloutFiles:
    """`evergrow.ports.Rollouts` in a folder."""

    def __init__(self, home: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """The rollouts below a folder, which is made when something is first written.

        Args:
            home: an environment's.
            now: the instant of what is asked for and told here.
        """
        self.root = home / "rollouts"
        self.now = now

    # -- models --

    def models(self) -> list[str]:
        """Names of the models of which there is a document or an attempt, in their order."""
        return sorted(folder.name for folder in self.root.glob("*") if next(folder.glob("[a-z]*.json"), None))

    def model(self, name: str) -> ContinualModel | None:
        """The model's document; None if there is none.

        Raises:
            SpecError: it cannot be read.
        """
        path = self.folder(name) / MODEL
        return parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else None

    def put_model(self, document: ContinualModel) -> None:
        """Keep a model's document, in place of the one before."""
        with self._locked(document.name) as folder:
            _replace(folder / MODEL, _written(document.dump()))

    def report(self, model: str, status: ModelStatus) -> None:
        """Say what has become of a model; again changes nothing."""
        content = _written(status.dump())
        with self._locked(model) as folder:
            if _read(folder / STATUS) != content:
                _replace(folder / STATUS, content)

    def reported(self, model: str) -> ModelStatus | None:
        """What was said last; None if nothing was, or it cannot be read."""
        content = _read(self.folder(model) / STATUS)
        try:
            return None if content is None else ModelStatus.model_validate_json(content)
        except ValidationError:
            return None

    # -- attempts --

    def attempts(self, model: str) -> Sequence[Attempt]:
        """All that are known of a model, in the order in which they were asked for.

        Raises:
            SpecError: one cannot be read. Nobody can say what it would have ordered, so nothing goes on without it.
        """
        found = (_attempt(path) for path in _documents(self.folder(model)))
        return sorted((one for one in found if one is not None), key=_requested)

    def create(self, attempt: ModelRollout) -> None:
        """Ask for one.

        Raises:
            ConflictError: there is one of that name.
            SpecError: the name is that of the model's document.
        """
        if attempt.name == Path(MODEL).stem:
            raise SpecError(f"metadata.name: must not be {attempt.name!r}: its file is the model's document")
        model = attempt.spec.model
        with self._locked(model) as folder:
            path = folder / f"{attempt.name}.json"
            if path.exists():
                raise ConflictError(f"{model}: there is a rollout {attempt.name} already", hint="choose another name")
            _replace(path, _written(_annotated(attempt, {REQUESTED: self._next(model).isoformat()}).dump()))

    def order(self, model: str, name: str, order: Order, by: str) -> None:
        """Order something of one, in place of what was ordered before.

        Raises:
            RolloutError: there is none of that name.
        """
        with self._locked(model) as folder:
            found = _attempt(folder / f"{name}.json")
            if found is None:
                raise RolloutError(f"{model} has no rollout {name}", hint=f"`evergrow rollout list {model}` shows all")
            ordered = _annotated(found.document, {ORDER: order, ORDERED_BY: by})
            _replace(folder / f"{name}.json", _written(ordered.dump()))

    def write(self, attempt: Attempt, status: RolloutStatus) -> Attempt:
        """Replace the status that was read; returns the attempt as it is now.

        Raises:
            ConflictError: it has changed since, or is gone.
        """
        with self._locked(attempt.document.spec.model) as folder:
            path = folder / f"{attempt.name}.json"
            content = _read(path)
            if content is None or _revision(content) != attempt.revision:
                what = "was removed" if content is None else "has changed"
                raise ConflictError(f"{path}: {what} since it was read", hint="look again", retriable=True)
            after = attempt.becoming(status).document
            written = _written(after.dump())
            _replace(path, written)
        return Attempt(after, _revision(written))

    def fulfil(self, attempt: Attempt) -> None:
        """Take away the order that was read, unless another has come since."""
        with self._locked(attempt.document.spec.model) as folder:
            path = folder / f"{attempt.name}.json"
            found = _attempt(path)
            if found is not None and (ordered := _ordered(found)) and ordered == _ordered(attempt):
                _replace(path, _written(_annotated(found.document, dict.fromkeys(ordered)).dump()))

    def release(self, attempt: Attempt) -> None:
        """Nothing: a file is removed when somebody removes it."""

    # -- events --

    def tell(self, attempt: Attempt, reason: str, message: str, *, warning: bool = False) -> None:
        """Add an event, unless it is what was told last of the attempt."""
        model = attempt.document.spec.model
        event = RolloutEvent(at=self.now(), name=attempt.name, reason=reason, message=message, warning=warning)
        with self._locked(model) as folder:
            before = [one for one in self.events(model) if one.name == attempt.name]
            if not before or before[-1].model_copy(update={"at": event.at}) != event:
                _append(folder / EVENTS, event.model_dump_json().encode() + b"\n")

    def events(self, model: str) -> list[RolloutEvent]:
        """What was told of a model's attempts, oldest first."""
        content = _read(self.folder(model) / EVENTS) or b""
        return [RolloutEvent.model_validate_json(line) for line in _whole(content).splitlines()]

    # -- how --

    def folder(self, model: str) -> Path:
        """Where all of a model's files are; its modification time changes with each document."""
        return self.root / model

    @contextmanager
    def _locked(self, model: str) -> Iterator[Path]:
        folder = self.folder(model)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(descriptor)

    def _next(self, model: str) -> datetime:
        """Now, or the instant after the newest attempt's if the clock was set back: no two have the same."""
        asked = (_requested(one)[0] for one in self.attempts(model))
        return max([self.now(), *(at + timedelta(microseconds=1) for at in asked)])


def _documents(folder: Path) -> list[Path]:
    """Files of attempts: no attempt's name has a dot."""
    return [path for path in folder.glob("[a-z]*.json") if path.name not in (MODEL, STATUS) and "." not in path.stem]


def _attempt(path: Path) -> Attempt | None:
    content = _read(path)
    if content is None:
        return None
    return Attempt(parse(content.decode(errors="replace"), str(path), ModelRollout), _revision(content))


def _requested(attempt: Attempt) -> tuple[datetime, str]:
    """One that was put there by hand, without the annotation, counts as older than all others."""
    at = attempt.document.metadata.annotations.get(REQUESTED)
    try:
        return instant(at) if at else datetime.min.replace(tzinfo=UTC), attempt.name
    except ValueError as error:
        told = f"rollout {attempt.name}: annotation {REQUESTED}: must be ISO 8601, found {at!r}"
        raise SpecError(told, hint="take the annotation out of its file") from error


def _ordered(attempt: Attempt) -> dict[str, str]:
    """What is ordered and by whom; empty if nothing is."""
    annotations = attempt.document.metadata.annotations
    return {name: annotations[name] for name in (ORDER, ORDERED_BY) if name in annotations and ORDER in annotations}


def _annotated(document: ModelRollout, changes: Mapping[str, str | None]) -> ModelRollout:
    """With annotations set, or taken away where None."""
    annotations = {**document.metadata.annotations, **changes}
    kept = {name: value for name, value in annotations.items() if value is not None}
    return document.model_copy(update={"metadata": document.metadata.model_copy(update={"annotations": kept})})


def _written(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _revision(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write it aside, and rename it into place. The lock is held: what lies aside is of a writer that was killed."""
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    _sync(path.parent)


def _append(path: Path, line: bytes) -> None:
    """Add a line, after dropping one that a writer on a machine that went down left torn."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(len(_whole(file.read())))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _whole(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
