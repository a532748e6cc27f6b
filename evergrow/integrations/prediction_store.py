"""The prediction log in the object store, or on one machine in its folder: `prediction_log/<model>/day=<day>/`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergrow.environment import Environment
from evergrow.errors import DataError
from evergrow.integrations.object_store import ObjectStore

FOLDER = "prediction_log"
DAY = "day="


class PredictionStore:
    """What was shipped, by model and day."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    @classmethod
    def of(cls, environment: Environment) -> PredictionStore:
        """An environment's.

        Raises:
            StoreError: its URL names no store.
        """
        return cls(ObjectStore.of(environment))

    def put(self, name: str, content: bytes) -> None:
        """Write a segment's rows, whole or not at all.

        Raises:
            StoreError: the store refused or does not answer.
        """
        self.store.write(f"{FOLDER}/{name}", content)

    def days(self, model: str) -> list[date]:
        """Days of which there are predictions, oldest first."""
        return sorted(self._by_day(model))

    def read(self, model: str, since: date, until: date, newest: int | None = None) -> pa.Table:
        """Predictions of the days `since` to `until`, both included, in the order of their instants.

        Args:
            model: its name.
            since: first day.
            until: last day.
            newest: at most so many, the newest; older days are not even fetched then.

        Raises:
            DataError: there is none.
        """
        days = self._by_day(model)
        tables, rows = [], 0
        for day in sorted((d for d in days if since <= d <= until), reverse=True):
            found = pa.concat_tables([self.segment(name) for name in days[day]], promote_options="permissive")
            tables.append(found)
            rows += found.num_rows
            if newest is not None and rows >= newest:
                break
        if not tables:
            raise DataError(f"{model}: no prediction was logged from {since} to {until}", hint=self._hint(model, days))
        ordered = pa.concat_tables(tables, promote_options="permissive").sort_by(
            [("event_timestamp", "ascending"), ("prediction_id", "ascending")]
        )
        return ordered if newest is None else ordered.slice(max(ordered.num_rows - newest, 0))

    def segments(self, model: str, day: date) -> list[str]:
        """Names of a day's segments; no other day is listed."""
        folder = f"{FOLDER}/{model}/{DAY}{day.isoformat()}"
        return [f"{folder}/{name}" for name in self.store.names(folder)]

    def segment(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a segment; of the columns named, those that it has."""
        content = self.store.read(name)
        if content is None:
            raise DataError(f"{name} is no longer there", hint="its retention is over (spec.serving.log.retention)")
        file = pq.ParquetFile(io.BytesIO(content[0]))
        wanted = None if columns is None else [c for c in file.schema_arrow.names if c in set(columns)]
        return file.read(columns=wanted)

    def scan(
        self, model: str, since: datetime, until: datetime, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Predictions of [since, until), segment by segment, in the order of days; of the columns named, or of all.

        One segment is in memory at a time.
        """
        for day, names in sorted(self._by_day(model).items()):
            if since.date() <= day <= until.date():
                for name in names:
                    rows = self.segment(name, None if columns is None else [*columns, "event_timestamp"])
                    asked = rows["event_timestamp"]
                    yield rows.filter(pc.and_(pc.greater_equal(asked, since), pc.less(asked, until)))

    def expire(self, model: str, retention: timedelta) -> list[str]:
        """Delete what was written longer ago than `retention`; returns its names.

        The present is when the model's newest was written: all by the store's clock, so that no other clock that is
        wrong, nor one that replays the past, has anything deleted.
        """
        folder = f"{FOLDER}/{model}"
        written = self.store.written(folder)
        over = [name for name, at in sorted(written.items()) if max(written.values()) - at > retention]
        for name in over:
            self.store.delete(f"{folder}/{name}")
        return over

    def _by_day(self, model: str) -> dict[date, list[str]]:
        found: dict[date, list[str]] = {}
        folder = f"{FOLDER}/{model}"
        for name in self.store.names(folder):
            day, _, _ = name.removeprefix(DAY).partition("/")
            found.setdefault(date.fromisoformat(day), []).append(f"{folder}/{name}")
        return found

    def _hint(self, model: str, days: dict[date, list[str]]) -> str:
        if days:
            return f"there are predictions from {min(days)} to {max(days)}"
        return f"is {model} served, and its log shipped? A segment is shipped a minute after its first prediction"
