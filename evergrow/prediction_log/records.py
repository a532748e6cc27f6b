"""What is kept of a request: one line of JSON with a checksum, of all its rows or of none.

    3f2a9c01 [["c0ffee", "v1", "", null], 1380612600.0, ...]\n

The first line of a segment is its header. A line that was cut off by a kill has no newline, and was not answered; one
whose checksum does not fit was damaged on disk.
"""

from __future__ import annotations

import hashlib
import hmac
import operator
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

import orjson

from evergrow.contracts import Value
from evergrow.errors import ServingError

FORMAT = 1
"""Of the header and the lines. A reader of a newer one reads this, too."""
HASH_KEY = "EVERGROW_HASH_KEY"
"""Variable with the secret that columns are hashed with."""
HASHED_BYTES = 16


RESERVED = frozenset(
    {
        "prediction_id",
        "event_timestamp",
        "created_timestamp",
        "request_id",
        "protocol",
        "route",
        "propensity",
        "latency_ms",
        "model",
        "version",
        "score",
        "flags",
    }
)
"""What every prediction has; a row's value of such a name is kept as `value_<name>`."""


def logged(name: str) -> str:
    """The log's column of a key, request-time value or feature.

    >>> logged("wind"), logged("route")
    ('wind', 'value_route')
    """
    return f"value_{name}" if name in RESERVED else name


class Column(Value):
    """A value that each row has: an entity key, a request-time value or a feature; its type is Feast's."""

    name: str
    type: str


class Header(Value):
    """What is the same for all records of a segment.

    Attributes:
        writer: the server's process that wrote it: no other one ever has the same.
        number: of the writer's segments.
        day: UTC day of all its records' `event_timestamp`.
        columns: what each row's values are, in their order.
        views: whose event times each row has, in their order.
        offset: seconds by which `event` is ahead of the server's clock: one that replays the past is behind.
        retention: how long predictions are kept in the store.
    """

    format: int = FORMAT
    writer: str
    number: int
    model: str
    version: int
    day: date
    columns: tuple[Column, ...]
    views: tuple[str, ...]
    offset: float = 0.0
    retention: timedelta

    @property
    def name(self) -> str:
        """Where its rows lie in the store, below the log's folder."""
        return f"{self.model}/day={self.day.isoformat()}/{self.writer}-{self.number:08d}.parquet"


class Asked(NamedTuple):
    """A request, as far as it is not its rows.

    Attributes:
        request_id: the caller's, or ours.
        protocol: v1, v2, grpc or explain.
        route: which arm of the model's route sent it here; empty if the route does not say.
        propensity: probability with which the route chose this arm; None if it does not say.
    """

    request_id: str
    protocol: str
    route: str = ""
    propensity: float | None = None


class Record(NamedTuple):
    """An answered request.

    Attributes:
        asked: the request.
        event: seconds since 1970, to which instant the features were looked up.
        seconds: from the lookup of its features until its answer was made.
        values: per row the header's columns.
        times: per row and view of the header the event time of what was found, in seconds since 1970; None if nothing
            was.
        scores: per row.
        flags: per row, what the score was made without.
    """

    asked: Asked
    event: float
    seconds: float
    values: Sequence[Sequence[Any]]
    times: Sequence[Sequence[float | None]]
    scores: Sequence[float]
    flags: Sequence[Sequence[str]]


def header_line(header: Header) -> bytes:
    """The first line of a segment."""
    return _line(orjson.dumps(header.model_dump(mode="json")))


def record_line(
    asked: Asked,
    event: float,
    seconds: float,
    values: Sequence[Sequence[Any]],
    times: Sequence[Sequence[float | None]],
    scores: Sequence[float],
    flags: Sequence[Sequence[str]],
) -> bytes:
    """A line of a segment, of a record's parts: a `Record` costs what a write does, and each request waits for this."""
    # A slice is a plain tuple, which orjson takes at once.
    return _line(orjson.dumps((asked[:], event, seconds, values, times, scores, flags), default=str))


def _line(content: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(content), content)


@dataclass(frozen=True)
class Segment:
    """What a segment's file holds.

    Attributes:
        header: None if not even that could be read; there are no records then.
        records: per record its number, from 0, in the order of its line; a damaged line has a number and no record.
        damaged: lines that end and yet do not fit their checksum: the disk's fault, not a kill's.
        length: bytes up to the end of the last whole line.
    """

    header: Header | None
    records: Sequence[tuple[int, Record]]
    damaged: int
    length: int


def parse(content: bytes) -> Segment:
    """Read a segment, whatever happened to it.

    Raises:
        ServingError: a newer evergrow wrote it.
    """
    length = content.rfind(b"\n") + 1
    lines = [_content(line) for line in content[:length].split(b"\n")[:-1]]
    damaged = lines.count(None)
    if not lines or lines[0] is None:
        return Segment(None, [], damaged, length)
    about = orjson.loads(lines[0])
    if about["format"] > FORMAT:
        raise ServingError(
            f"a segment of format {about['format']} cannot be read, this evergrow reads up to {FORMAT}",
            hint="upgrade what ships predictions before what serves them",
        )
    records = [(n, _record(*orjson.loads(line))) for n, line in enumerate(lines[1:]) if line is not None]
    return Segment(Header.model_validate(about), records, damaged, length)


def _record(asked: Sequence[Any], *parts: Any) -> Record:
    return Record(Asked(*asked), *parts)


def _content(line: bytes) -> bytes | None:
    checksum, _, content = line.partition(b" ")
    return content if checksum == b"%08x" % zlib.crc32(content) else None


class Layout:
    """Which values of a row are kept, and how: from a feature plan and what the model's document says of privacy.

    >>> layout = Layout([Column(name="tail", type="STRING"), Column(name="hour", type="DOUBLE")], left_out=["tail"])
    >>> layout.values({"tail": "N1", "hour": 7.5, "else": 1})
    [7.5]
    """

    def __init__(
        self,
        columns: Sequence[Column],
        hashed: Sequence[str] = (),
        left_out: Sequence[str] = (),
        key: bytes | None = None,
    ) -> None:
        """Check what is hashed or left out.

        Args:
            columns: all that a row has.
            hashed: kept as keyed hashes: equal values stay equal, and nothing tells which they were.
            left_out: not kept.
            key: secret of the hashes.

        Raises:
            ServingError: a column does not exist, or there is no key where one is needed.
        """
        known = {column.name for column in columns}
        for field, names in (("hashed", hashed), ("leftOut", left_out)):
            if unknown := sorted(set(names) - known):
                raise ServingError(
                    f"serving.log.{field}: the rows have no {unknown[0]!r}; they have {', '.join(sorted(known))}"
                )
        if hashed and not key:
            raise ServingError(
                f"serving.log.hashed: {', '.join(hashed)} cannot be hashed without a secret",
                hint=f"set {HASH_KEY} in the server's environment",
            )
        kept = [column for column in columns if column.name not in left_out]
        self.columns = tuple(Column(name=logged(c.name), type="STRING" if c.name in hashed else c.type) for c in kept)
        self._read = _reader([column.name for column in kept])
        self._hashed = [place for place, column in enumerate(kept) if column.name in hashed]
        self._key = key or b""

    @classmethod
    def of(
        cls,
        plan: Mapping[str, Any],
        fields: Mapping[str, str],
        hashed: Sequence[str],
        left_out: Sequence[str],
        key: bytes | None,
    ) -> Layout:
        """Of a feature plan, and of the fields that a request row has."""
        types = {**fields, **dict(_features(plan))}
        return cls([Column(name=name, type=kind) for name, kind in types.items()], hashed, left_out, key)

    def values(self, row: Mapping[str, Any]) -> Sequence[Any]:
        """A row's values as they are kept, in the order of `columns`; the row must have all of them."""
        values = self._read(row)
        if self._hashed:
            values = [self._hash(v) if place in self._hashed else v for place, v in enumerate(values)]
        return values

    def _hash(self, value: Any) -> str | None:
        return None if value is None else hashed(value, self._key)


def hashed(value: Any, key: bytes) -> str:
    """A value of a column of personal data as the log keeps it: by this, labels find it again."""
    return hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()[: 2 * HASHED_BYTES]


def _reader(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """From a row to the values of these names. Of several, in one call."""
    return operator.itemgetter(*names) if len(names) > 1 else lambda row: [row[name] for name in names]


def views(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """The views of a plan, in the order in which a row's event times come."""
    return tuple(view["name"] for group in plan["groups"] for view in group["views"])


def _features(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for group in plan["groups"]:
        for view in group["views"]:
            yield from ((feature["name"], feature["type"]) for feature in view["features"])
    for view in plan["on_demand"]:
        yield from ((output["name"], output["type"]) for output in view["outputs"])
