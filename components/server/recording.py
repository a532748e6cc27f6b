"""What the server tells the prediction log, and what it does when that cannot be kept."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from components.server import metrics
from components.server.refusal import Refusal
from components.server.serving_directory import ServingDirectory
from evergrow.headers import DRAWN, PROPENSITY, REQUEST_ID, ROUTE
from evergrow.integrations.feast_online import FeatureRow
from evergrow.prediction_log.records import Asked, Header, Layout, record_line, views
from evergrow.prediction_log.segments import DAY_SECONDS, LogFull, SegmentWriter

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


class _Answered(NamedTuple):
    """A request that is to be kept."""

    asked: Asked
    event: float
    seconds: float
    found: Sequence[FeatureRow]
    scores: list[float]
    kept: asyncio.Future[None]


class Recorder:
    """Keeps answered requests.

    What is answered in one iteration of the event loop is encoded and written in one go: code that runs for several
    records in a row costs each a fraction of what it costs when it runs now and then. A request that is alone does not
    wait for the next iteration.
    """

    def __init__(self, writer: SegmentWriter, layout: Layout) -> None:
        self.writer = writer
        self.layout = layout
        self._pending: list[_Answered] = []
        self._refuses = writer.settings.when_full == "refuse"
        self._waits = writer.settings.durability == "each"

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
        metrics.watch_log(writer)
        return cls(writer, layout)

    def keep(
        self,
        asked: Asked,
        event: float,
        seconds: float,
        found: Sequence[FeatureRow],
        scores: list[float],
        *,
        alone: bool = False,
    ) -> asyncio.Future[None] | None:
        """Keep an answered request, before it is answered.

        Args:
            asked: the request.
            event: to which instant its features were looked up, in seconds since 1970.
            seconds: how long it took until its answer was made.
            found: per row what was.
            scores: per row the answer.
            alone: no other request is being answered, so it is written at once.

        Returns:
            What to await before answering; None where nothing is.

        Raises:
            Refusal: it cannot be kept, and the model's document says to refuse then. So may what is returned.
        """
        if alone and not self._waits:
            self._keep_now(asked, event, seconds, found, scores)
            return None
        loop = asyncio.get_running_loop()
        one = _Answered(asked, event, seconds, found, scores, loop.create_future())
        if alone:
            self._append([one])
            return one.kept
        if not self._pending:
            loop.call_soon(self._write)
        self._pending.append(one)
        return one.kept

    def _keep_now(
        self, asked: Asked, event: float, seconds: float, found: Sequence[FeatureRow], scores: list[float]
    ) -> None:
        """Without anything that only several at once need: a lone request waits for this."""
        try:
            self.writer.append(self._line(asked, event, seconds, found, scores), event, len(scores))
        except LogFull as error:
            refusal = self._refusal(error, len(scores))
            if refusal is not None:
                raise refusal from error

    def _write(self) -> None:
        """Append what is pending, a write for each day of it."""
        pending, self._pending = self._pending, []
        for _, answered in itertools.groupby(pending, lambda one: one.event // DAY_SECONDS):
            self._append(list(answered))

    def _append(self, answered: list[_Answered]) -> None:
        try:
            lines = b"".join([self._line(*one[:-1]) for one in answered])
            synced = self.writer.append(lines, answered[0].event, sum(len(one.scores) for one in answered))
        except Exception as error:  # who waits is told, whatever it was
            self._settle(answered, error)
            return
        if synced is None:
            self._settle(answered, None)
        else:
            asyncio.wrap_future(synced).add_done_callback(lambda done: self._settle(answered, done.exception()))

    def _line(
        self, asked: Asked, event: float, seconds: float, found: Sequence[FeatureRow], scores: list[float]
    ) -> bytes:
        keep = self.layout.values
        values = [keep(row.values) for row in found]
        return record_line(
            asked, event, seconds, values, [row.times for row in found], scores, [row.flags for row in found]
        )

    def _refusal(self, error: LogFull, rows: int) -> Refusal | None:
        """What callers are told of rows that cannot be kept; None: they are answered, and the rows are counted."""
        if self._refuses:
            return Refusal(503, f"{error}; try again", "log")
        self.writer.counts.dropped += rows
        return None

    def _settle(self, answered: list[_Answered], error: BaseException | None) -> None:
        """Let the requests go on, or be told why not."""
        if isinstance(error, LogFull):
            error = self._refusal(error, sum(len(one.scores) for one in answered))
        for one in answered:
            if one.kept.done():  # its caller hung up
                continue
            if error is None:
                one.kept.set_result(None)
            else:
                one.kept.set_exception(error)

    def close(self) -> None:
        """Seal what is there; who still waits is not answered any more."""
        self.writer.close()
