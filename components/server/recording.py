"""What the server tells the prediction log, and what it does when that cannot be kept."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from components.server import metrics
from components.server.refusal import Refusal
from components.server.serving_directory import ServingDirectory
from evergrow.headers import DRAWN, PROPENSITY, REQUEST_ID, ROUTE
from evergrow.integrations.feast_online import FeatureRow
from evergrow.prediction_log.records import Asked, Header, Layout, record_line, views
from evergrow.prediction_log.segments import LogFull, SegmentWriter

TRACEPARENT = "traceparent"
"""Header of the W3C's trace context (2021): version-trace-span-flags. It names a request that has no other name."""

_SPAN = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32}-[0-9a-f]{16})-[0-9a-f]{2}")

_PREFIX, _COUNT = secrets.token_hex(10), itertools.count()
"""Of names for requests that have none: this process's, and how many there were."""


def asked_by(protocol: str, headers: Mapping[str, str], version: str) -> Asked:
    """A request as its headers say: a copy, if another version than this one is to answer it.

    A propensity that is no probability was set by no route and says nothing.
    """
    request_id, route = headers.get(REQUEST_ID) or _name(headers), headers.get(ROUTE, "")
    if headers.get(DRAWN, version) != version:
        return Asked(request_id, protocol, "shadow", None)
    return Asked(request_id, protocol, route, _probability(headers[PROPENSITY]) if PROPENSITY in headers else None)


def _name(headers: Mapping[str, str]) -> str:
    """Of a request that has none: its trace and the caller's span, or one of ours."""
    span = _SPAN.fullmatch(headers[TRACEPARENT]) if TRACEPARENT in headers else None
    # No other process has the prefix: as good as a UUID of its own, which costs each request a system call.
    return span[1] if span else f"{_PREFIX}{next(_COUNT):012x}"


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
        metrics.watch_log(writer)

    @classmethod
    def open(cls, root: Path, served: ServingDirectory, offset: timedelta, key: bytes | None) -> Self:
        """Of a served version, in a folder of this machine.

        Args:
            root: the folder.
            served: the version.
            offset: by how much the server takes the present for later than its clock does.
            key: secret of columns that are hashed.

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
            offset=offset.total_seconds(),
            retention=log.retention,
        )
        writer = SegmentWriter(
            root, lambda name, number, day: about.model_copy(update={"writer": name, "number": number, "day": day}), log
        )
        return cls(writer, layout)

    def keep(
        self, asked: Asked, event: float, seconds: float, found: Sequence[FeatureRow], scores: list[float]
    ) -> asyncio.Future[None] | None:
        """Keep an answered request, before it is answered.

        Args:
            asked: the request.
            event: to which instant its features were looked up, in seconds since 1970.
            seconds: how long it took until its answer was made.
            found: per row what was.
            scores: per row the answer.

        Returns:
            What to await before answering; None where nothing is.

        Raises:
            Refusal: it cannot be kept, and the model's document says to refuse then.
        """
        keep = self.layout.values
        values = [keep(row.values) for row in found]
        line = record_line(
            asked, event, seconds, values, [row.times for row in found], scores, [row.flags for row in found]
        )
        try:
            waiting = self.writer.append(line, event, len(scores))
        except LogFull as error:
            self._give_up(error, len(scores))
            return None
        return None if waiting is None else asyncio.ensure_future(self._synced(waiting, len(scores)))

    async def _synced(self, waiting: concurrent.futures.Future[None], rows: int) -> None:
        try:
            await asyncio.wrap_future(waiting)
        except LogFull as error:
            self._give_up(error, rows)

    def _give_up(self, error: LogFull, rows: int) -> None:
        if self._refuses:
            raise Refusal(503, f"{error}; try again", "log") from error
        self.writer.counts.dropped += rows

    def close(self) -> None:
        """Seal what is there."""
        self.writer.close()
