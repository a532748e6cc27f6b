"""From segments on a server's disk to the store: each once, whoever is killed when.

A segment is one object, whose name and bytes follow from the segment alone. It is written in one piece, then the
segment is deleted; a kill between the two has the same object written once more, over itself.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from evergrow.errors import EvergrowError
from evergrow.prediction_log import tables
from evergrow.prediction_log.records import Header, parse
from evergrow.prediction_log.segments import DAMAGED, is_written, recover, sealed, sweep

PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
EXPIRE_SECONDS = 3600.0

Expire = Callable[[str, timedelta], Sequence[str]]
"""Deletes a model's predictions that are older than its retention; returns the names of what it deleted."""
Put = Callable[[str, bytes], None]
"""Writes an object, whole or not at all. Raises an EvergrowError, retriable if the store may be back."""

logger = logging.getLogger("evergrow.predictions")


@dataclass(frozen=True)
class Shipped:
    """A segment that is in the store.

    Attributes:
        name: of the object; empty if the segment held no prediction.
        rows: predictions.
        damaged: lines that the disk damaged, or records that no Parquet can be made of; the segment is kept beside the
            others for who wants to look.
    """

    name: str
    rows: int
    damaged: int


class Shipper:
    """Ships the segments below `root`, one at a time: memory is bounded by one of them."""

    def __init__(
        self,
        root: Path,
        put: Put,
        expire: Expire,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.put = put
        self.expire = expire
        self.sleep = sleep
        self.clock = clock
        self._expired: dict[str, float] = {}

    def ship(self) -> Iterator[Shipped]:
        """Ship everything that is complete.

        Raises:
            EvergrowError: the store refused or does not answer; what was not shipped is still there.
        """
        for path in recover(self.root):
            logger.warning("%s was left open by a server that was killed", path)
        for path in sealed(self.root):
            with contextlib.suppress(FileNotFoundError):  # another shipper was faster
                yield self._ship(path)
        sweep(self.root)

    def run(self, is_told_to_stop: Callable[[], bool], beat: Callable[[], None] = lambda: None) -> None:
        """Ship until told to stop and every writer is gone and everything shipped; `beat` is called each round.

        A store that is away is asked again, at growing intervals, for as long as it takes: the writers' bound is what
        keeps the disk from filling.
        """
        pause = PAUSE_SECONDS
        while True:
            beat()
            is_last = is_told_to_stop() and not is_written(self.root)
            try:
                for shipped in self.ship():
                    logger.info("shipped %d predictions as %s", shipped.rows, shipped.name)
                pause = PAUSE_SECONDS
                if is_last:
                    return
            except EvergrowError as error:
                logger.warning("%s; trying again in %.0f s", error, pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self.sleep(pause)

    def _ship(self, path: Path) -> Shipped:
        segment = parse(path.read_bytes())
        try:
            content = tables.parquet(segment) if segment.header and segment.records else None
        except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
            # What cannot be converted now never can: it must not hold up what can.
            _set_aside(path, f"cannot be made Parquet of: {type(error).__name__}")  # its message quotes values
            return Shipped("", 0, len(segment.records))
        name = ""
        if segment.header and content:
            name = segment.header.name
            self.put(name, content)
            self._expire(segment.header)
        if segment.damaged:
            _set_aside(path, f"{segment.damaged} damaged lines")
        else:
            path.unlink(missing_ok=True)
        return Shipped(name, sum(len(record.scores) for _, record in segment.records), segment.damaged)

    def _expire(self, header: Header) -> None:
        """Now and then, delete what the model's document says is too old."""
        now = self.clock()
        if now - self._expired.get(header.model, -EXPIRE_SECONDS) >= EXPIRE_SECONDS:
            for name in self.expire(header.model, header.retention):
                logger.warning("%s/%s: older than %s: deleted", header.model, name, header.retention)
            self._expired[header.model] = now


def _set_aside(path: Path, why: str) -> None:
    logger.error("%s: %s; kept as %s", path, why, path.with_suffix(DAMAGED).name)
    path.rename(path.with_suffix(DAMAGED))
