"""The prediction log in the object store, or on one machine in its folder: `prediction_log/<model>/day=<day>/`."""

from __future__ import annotations

import io
from datetime import date, timedelta

import pyarrow as pa
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
        if environment.store is None:
            environment.home.mkdir(parents=True, exist_ok=True)
        return cls(ObjectStore.open(environment.store or environment.home.as_uri()))

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
            found = pa.concat_tables([self._table(name) for name in days[day]], promote_options="permissive")
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

    def _table(self, name: str) -> pa.Table:
        content = self.store.read(name)
        assert content is not None, f"{name} was listed a moment ago"
        return pq.read_table(io.BytesIO(content[0]))

    def _hint(self, model: str, days: dict[date, list[str]]) -> str:
        if days:
            return f"there are predictions from {min(days)} to {max(days)}"
        return f"is {model} served, and its log shipped? A segment is shipped a minute after its first prediction"
