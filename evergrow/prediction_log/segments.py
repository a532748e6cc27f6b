"""The files that a server appends records to, and what is found of them after a kill.

    <root>/<writer>/lock                locked while the writer lives
    <root>/<writer>/00000001.sealed     complete: to be shipped
    <root>/<writer>/00000002.open       appended to

A record is with the operating system before its request is answered, so no death of the process loses it. When it is
on the disk, too, is the setting `durability`: what the machine's own death may cost. All slow work is a thread's: it
syncs, seals and measures; an append is one write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from evergrow.errors import EvergrowError
from evergrow.prediction_log.records import Header, header_line
from evergrow.spec.model import PredictionLogSpec

OPEN, SEALED, DAMAGED, LOCK = ".open", ".sealed", ".damaged", "lock"
SEGMENT_BYTES = 8 << 20
"""A segment is sealed when it is this long, or this old, or a record is of another day."""
SEGMENT_SECONDS = 60.0
MEASURE_SECONDS = 1.0
DAY_SECONDS = 86_400.0


class LogFull(EvergrowError):
    """Records could not be kept: the disk is full, or the log has all that it may have of it."""

    exit_code = 7


class _File:
    """A segment that is appended to.

    Attributes:
        starts: seconds since 1970, when the day of its records begins.
        ends: when it ends.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.starts = datetime.combine(header.day, datetime.min.time(), UTC).timestamp()
        self.ends = self.starts + DAY_SECONDS
        self.size = 0
        self.dirty = False
        self.begun = time.monotonic()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            self.append(header_line(header))
        except OSError:
            os.close(self._descriptor)
            path.unlink()
            raise

    def append(self, lines: bytes) -> None:
        """Hand lines to the operating system, all of them or none."""
        try:
            written = os.write(self._descriptor, lines)
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(lines)
        self.dirty = True

    def sync(self) -> None:
        """Have what was appended until now on the disk."""
        if self.dirty:
            self.dirty = False
            os.fdatasync(self._descriptor)

    def seal(self) -> None:
        """Nothing more will come."""
        os.fdatasync(self._descriptor)
        os.close(self._descriptor)
        seal(self.path)


@dataclass
class Counts:
    """What became of records since the start; `bytes` is what lies on disk now, of all writers."""

    recorded: int = 0
    dropped: int = 0
    bytes: int = 0
    failure: str | None = None
    """Why the last record was not kept; None if it was."""


class SegmentWriter:
    """Appends records. One for each process; its methods may be called from any thread."""

    def __init__(
        self,
        root: Path,
        describe: Callable[[str, int, date], Header],
        settings: PredictionLogSpec,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
    ) -> None:
        """Begin.

        Args:
            root: the log's folder on this machine; shared with other writers, and with who ships.
            describe: the header of a segment, from the writer's name, the segment's number and the day.
            settings: durability, bound, and what to do when that is reached.
            segment_bytes: a segment that is longer is sealed.
            segment_seconds: one that is older is, too.
        """
        self.root, self.describe, self.settings = root, describe, settings
        self.segment_bytes, self.segment_seconds = segment_bytes, segment_seconds
        self.counts = Counts()
        self.name = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self.folder = self.root / self.name
        self._lock = _locked_folder(self.folder)
        self._guard = threading.Lock()
        self._file: _File | None = None
        self._number = 0
        self._retired: list[_File] = []
        self._waits = settings.durability == "each"
        self._waiting: list[Future[None]] = []
        self._wanted = threading.Event()
        self._others = 0
        self._limit = int(settings.limit_mb * 1_000_000)
        self._closing = False
        self._measure()
        self._thread = threading.Thread(target=self._tend, name="prediction-log", daemon=True)
        self._thread.start()

    def append(self, lines: bytes, event: float, rows: int) -> Future[None] | None:
        """Keep records of one day: they are with the operating system when this returns.

        Args:
            lines: as `record_line` makes them.
            event: an instant of their day, in seconds since 1970.
            rows: how many predictions they hold.

        Returns:
            With durability `each`, what to await before the answers are sent; None otherwise.

        Raises:
            LogFull: they could not be kept. Nothing of them was.
        """
        with self._guard:
            try:
                file = self._file
                if file is None or file.size >= self.segment_bytes or not file.starts <= event < file.ends:
                    file = self._begin(event)
                if self._others + file.size + len(lines) > self._limit:
                    raise OSError(errno.EDQUOT, f"{self._limit:,} bytes wait to be shipped, the limit of serving.log")
                file.append(lines)
            except OSError as error:
                self.counts.failure = str(error.strerror)
                raise LogFull(f"the prediction log is full: {error.strerror}: {self.root}") from error
            counts = self.counts
            counts.recorded += rows
            counts.failure = None
            if not self._waits:
                return None
            waiting: Future[None] = Future()
            self._waiting.append(waiting)
        self._wanted.set()
        return waiting

    def close(self) -> None:
        """Seal what is there; what is appended after that is a mistake."""
        self._closing = True
        self._wanted.set()
        self._thread.join()
        with self._guard:
            self._retire()
        self._sync()
        os.close(self._lock)

    # -- the caller's side, guarded --

    def _begin(self, event: float) -> _File:
        self._retire()
        day = datetime.fromtimestamp(event, UTC).date()
        header = self.describe(self.name, self._number + 1, day)
        file = self._file = _File(self.folder / f"{self._number + 1:08d}{OPEN}", header)
        self._number += 1
        return file

    def _retire(self) -> None:
        if self._file is not None:
            self._retired.append(self._file)
            self._others += self._file.size
            self._file = None

    # -- the thread's side --

    def _tend(self) -> None:
        """Sync at the pace of the setting, seal what was retired, and measure, until told to end."""
        pause = self.settings.group_ms / 1000 if self.settings.durability == "group" else MEASURE_SECONDS
        measured = time.monotonic()
        while not self._closing:
            self._wanted.wait(min(pause, MEASURE_SECONDS))
            self._wanted.clear()
            self._sync()
            if time.monotonic() - measured >= MEASURE_SECONDS:
                measured = time.monotonic()
                self._measure()
                self._retire_old(measured)

    def _retire_old(self, now: float) -> None:
        with self._guard:
            if self._file is not None and now - self._file.begun > self.segment_seconds:
                self._retire()

    def _sync(self) -> None:
        with self._guard:
            waiting, self._waiting = self._waiting, []
            retired, self._retired = self._retired, []
            file = self._file
        try:
            while retired:
                retired[0].seal()
                del retired[0]
            if file is not None and self.settings.durability != "off":
                file.sync()
        except OSError as error:
            self._give_up(waiting, retired, error)
            return
        for one in waiting:
            one.set_result(None)

    def _give_up(self, waiting: list[Future[None]], retired: list[_File], error: OSError) -> None:
        """A disk that could not sync may have lost what it was given: who waits must not be told otherwise."""
        self.counts.failure = str(error.strerror)
        with self._guard:
            self._retired = [*retired, *self._retired]
            self._retire()
        for one in waiting:
            one.set_exception(LogFull(f"the prediction log cannot be synced: {error.strerror}: {self.root}"))

    def _measure(self) -> None:
        """How much lies on disk, but for the file that is open here."""
        with self._guard:
            mine = self._file.path if self._file else None
        total = sum(stat.st_size for path, stat in files(self.root, "*") if path != mine)
        with self._guard:
            if mine == (self._file.path if self._file else None):
                self._others = total
            self.counts.bytes = self._others + (self._file.size if self._file else 0)


def _locked_folder(folder: Path) -> int:
    """Make a writer's folder, which has its lock from the moment it is there."""
    aside = folder.with_name(f".{folder.name}")
    aside.mkdir(parents=True)
    lock = os.open(aside / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    aside.rename(folder)
    return lock


def seal(path: Path) -> Path:
    """Give a complete segment its name, for good."""
    sealed = path.with_suffix(SEALED)
    path.rename(sealed)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return sealed


def recover(root: Path) -> Iterator[Path]:
    """Seal what dead writers left open; yields it."""
    for folder in _writers(root):
        with _dead(folder) as dead:
            if not dead:
                continue
            for path in sorted(folder.glob(f"*{OPEN}")):
                yield seal(path)


def sweep(root: Path) -> None:
    """Remove the folders of dead writers that hold nothing any more."""
    for folder in _writers(root):
        with _dead(folder) as dead:
            if dead and not any(path.name != LOCK for path in folder.iterdir()):
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()


def sealed(root: Path) -> list[Path]:
    """What is to be shipped, oldest first."""
    return [path for _, path in sorted((stat.st_mtime, path) for path, stat in files(root, f"*{SEALED}"))]


def files(root: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    """Files of all writers, but for those that are renamed, shipped or swept away meanwhile."""
    for folder in _writers(root):
        with contextlib.suppress(FileNotFoundError):
            for path in folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()


def is_written(root: Path) -> bool:
    """Whether a writer lives."""
    for folder in _writers(root):
        with _dead(folder) as dead:
            if not dead:
                return True
    return False


def _writers(root: Path) -> list[Path]:
    """Folders of writers, but for one that is being made."""
    return sorted(path for path in root.glob("[!.]*") if path.is_dir())


@contextlib.contextmanager
def _dead(folder: Path) -> Iterator[bool]:
    """Whether a folder's writer is dead; while the block runs, nobody else finds it so."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        yield False  # it is being made, or removed
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
