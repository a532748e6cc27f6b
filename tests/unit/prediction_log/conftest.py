"""Headers, records and writers to try the log with."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from evergrow.prediction_log.records import Asked, Column, Header, Record, record_line
from evergrow.prediction_log.segments import SegmentWriter
from evergrow.spec.model import PredictionLogSpec

DAY = datetime(2013, 10, 1, tzinfo=UTC)
COLUMNS = (
    Column(name="tailnum", type="STRING"),
    Column(name="seats", type="INT64"),
    Column(name="wind", type="DOUBLE"),
    Column(name="heavy", type="BOOL"),
    Column(name="due", type="UNIX_TIMESTAMP"),
)


def header(writer: str = "w", number: int = 1, day: date | None = None, columns=COLUMNS) -> Header:
    """Of a segment of `delays`, version 3."""
    return Header(
        writer=writer,
        number=number,
        model="delays",
        version=3,
        day=day or DAY.date(),
        columns=columns,
        views=("planes", "weather"),
        offset=-0.5,
        retention=timedelta(days=400),
    )


def record(name: str = "r", rows: int = 1, seconds: float = 0.0) -> Record:
    """A request of some rows, so long after midnight."""
    at = DAY.timestamp() + seconds
    values = [f"N{name}", 2, 0.1, True, datetime(2013, 10, 1, 9, 30, tzinfo=UTC)]
    return Record(
        asked=Asked(name, "v1", "champion", 0.9),
        event=at,
        seconds=0.0004,
        values=[values] * rows,
        times=[(at - 60.0, None)] * rows,
        scores=[0.25] * rows,
        flags=[("stale:weather",)] * rows,
    )


@pytest.fixture
def writer(tmp_path: Path):
    """Writers of a folder, ended when the test is."""
    made: list[SegmentWriter] = []

    def make(root: Path = tmp_path / "log", segment_bytes: int = 8 << 20, **settings) -> SegmentWriter:
        def describe(name: str, number: int, day: date) -> Header:
            return header(name, number, day)

        spec = PredictionLogSpec.model_validate(settings)
        made.append(SegmentWriter(root, describe, spec, segment_bytes=segment_bytes))
        return made[-1]

    yield make
    for one in made:
        if not one._closing:
            one.close()


def kill(writer: SegmentWriter) -> None:
    """What the death of its process does to a writer: nothing is sealed, and the lock is free."""
    writer._closing = True
    writer._wanted.set()
    writer._thread.join()
    for file in [*writer._retired, *filter(None, [writer._file])]:
        os.close(file._descriptor)
    os.close(writer._lock)


def append(writer: SegmentWriter, made: Record):
    """Keep a record."""
    return writer.append(record_line(*made), made.event, len(made.scores))
