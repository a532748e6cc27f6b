"""What the server tells the prediction log, and what it does when that cannot be kept."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

from components.server import metrics
from components.server.refusal import Refusal
from components.server.serving_directory import ServingDirectory
from evergrow.integrations.feast_online import FeatureRow
from evergrow.prediction_log.records import Header, Layout, Record, views
from evergrow.prediction_log.segments import LogFull, SegmentWriter

REQUEST_ID, ROUTE, PROPENSITY = "x-request-id", "x-evergrow-route", "x-evergrow-propensity"
"""Headers: the caller's name for a request, and which arm of the model's route it took with which probability."""


class Asked(NamedTuple):
    """A request, as far as it is not its rows."""

    request_id: str
    protocol: str
    route: str
    propensity: float | None
    started: float
    """Of the performance counter."""

    @classmethod
    def by(cls, protocol: str, headers: Mapping[str, str], started: float | None = None) -> Self:
        """As its headers say. A propensity that is no probability was not set by a route of ours, and says nothing."""
        request_id, route = headers.get(REQUEST_ID) or uuid4().hex, headers.get(ROUTE, "")
        propensity = _probability(headers.get(PROPENSITY, ""))
        return cls(request_id, protocol, route, propensity, started or time.perf_counter())


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 < value <= 1 else None


class Recorder:
    """Keeps answered requests."""

    def __init__(self, writer: SegmentWriter, layout: Layout) -> None:
        self.writer = writer
        self.layout = layout
        self._refuses = writer.settings.when_full == "refuse"
        metrics.watch_log(writer.counts)

    @classmethod
    def open(cls, root: Path, served: ServingDirectory, key: bytes | None) -> Self:
        """Of a served version, in a folder of this machine.

        Raises:
            ServingError: the version's document wants something hashed or left out that is not there.
        """
        log = served.log
        layout = Layout.of(served.plan, served.fields, log.hashed, log.left_out, key)
        about = Header(
            writer="",
            number=0,
            model=served.model,
            version=int(served.version),
            day=datetime.min.date(),
            columns=layout.columns,
            views=views(served.plan),
            retention=log.retention,
        )
        writer = SegmentWriter(
            root, lambda name, number, day: about.model_copy(update={"writer": name, "number": number, "day": day}), log
        )
        return cls(writer, layout)

    async def keep(self, asked: Asked, now: datetime, found: Sequence[FeatureRow], scores: list[float]) -> None:
        """Keep an answered request, before it is answered.

        Raises:
            Refusal: it cannot be kept, and the model's document says to refuse then.
        """
        keep = self.layout.values
        record = Record(
            request_id=asked.request_id,
            event=now.timestamp(),
            created=time.time(),
            protocol=asked.protocol,
            route=asked.route,
            propensity=asked.propensity,
            latency_ms=round(1000 * (time.perf_counter() - asked.started), 3),
            values=[keep(row.values) for row in found],
            times=[row.times for row in found],
            scores=scores,
            flags=[row.flags for row in found],
        )
        try:
            waiting = self.writer.append(record)
            if waiting is not None:
                await asyncio.wrap_future(waiting)
        except LogFull as error:
            if self._refuses:
                raise Refusal(503, f"{error}; try again", "log") from error
            self.writer.counts.dropped += len(scores)

    def close(self) -> None:
        """Seal what is there."""
        self.writer.close()
