"""The book of a model's loop: what was decided and what became of it, one JSON line each, oldest first.

A line counts once it is whole. What a writer that was killed left of one is no entry, and is cut off before the next is
added. Nothing is ever changed: the state is what all lines together say.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from evergrow.contracts import Instant, Value
from evergrow.errors import LoopError
from evergrow.triggers.decide import Retrain
from evergrow.triggers.history import Ending


class Decided(Value):
    """Whether to train was decided, with a yes or a no."""

    kind: Literal["decided"] = "decided"
    decision: Retrain

    @property
    def at(self) -> datetime:
        """As of when."""
        return self.decision.as_of


class Began(Value):
    """A training was begun; it is as of this instant."""

    kind: Literal["began"] = "began"
    number: PositiveInt
    at: Instant
    by: Instant = Field(description="as of when it was decided")


class Ended(Value):
    """A training ended."""

    kind: Literal["ended"] = "ended"
    number: PositiveInt
    at: Instant
    outcome: Ending
    version: int | None = Field(description="that it made; None: none")
    cpu_hours: float
    reason: str = Field(description="the gate's verdict, or what went wrong")


class SentBack(Value):
    """The version that a training made was promoted by the gate, and its rollout has taken it back."""

    kind: Literal["sent-back"] = "sent-back"
    number: PositiveInt = Field(description="of the training")
    at: Instant
    version: int
    reason: str = Field(description="the rollout's")


class Asked(Value):
    """Somebody asked for a training."""

    kind: Literal["asked"] = "asked"
    at: Instant
    by: str
    reason: str = ""


class Froze(Value):
    """Somebody wants nothing to be begun from now on."""

    kind: Literal["froze"] = "froze"
    at: Instant
    by: str
    reason: str = ""


class Thawed(Value):
    """Somebody lets trainings be begun again."""

    kind: Literal["thawed"] = "thawed"
    at: Instant
    by: str
    reason: str = ""


Said = Asked | Froze | Thawed
"""What people write."""
Entry = Annotated[Decided | Began | Ended | SentBack | Asked | Froze | Thawed, Field(discriminator="kind")]
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


class BookFile:
    """A book in a file, which is made when something is first written: `evergrow.loop.ports.Book`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[Entry] = []
        self._read = 0

    def entries(self) -> Sequence[Entry]:
        """All of them, oldest first; a line that is being written is not there yet.

        Raises:
            LoopError: a line is no entry; says which.
        """
        if not self.path.exists():
            return ()
        with self.path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._entries += read(whole, str(self.path), len(self._entries))
        self._read += len(whole)
        return tuple(self._entries)

    def append(self, entry: Entry) -> None:
        """Add an entry. On return it is on disk; a kill before leaves the book without it."""
        with self._locked() as descriptor:
            _cut_torn_line(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, written(entry))
            os.fsync(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_new:
                _sync(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)


def read(lines: bytes, where: str, before: int = 0) -> list[Entry]:
    """The entries of whole lines.

    Args:
        lines: each with its end.
        where: they are from, for errors.
        before: how many lines come before them.

    Raises:
        LoopError: a line is no entry; says which.
    """
    entries = []
    for number, line in enumerate(lines.splitlines(), start=before + 1):
        try:
            entries.append(_ENTRY.validate_json(line))
        except ValidationError as error:
            told = f"{where}: line {number} is no entry: {error.errors()[0]['msg']}"
            raise LoopError(told, hint="somebody has changed it; restore it from a backup") from error
    return entries


def written(entry: Entry) -> bytes:
    """An entry as its line.

    >>> from evergrow.contracts import instant
    >>> written(Began(number=1, at=instant("2024-03-01"), by=instant("2024-03-01")))
    b'{"kind":"began","number":1,"at":"2024-03-01T00:00:00Z","by":"2024-03-01T00:00:00Z"}\\n'
    """
    return entry.model_dump_json().encode() + b"\n"


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        content = os.pread(descriptor, size, 0)
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
