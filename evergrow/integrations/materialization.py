"""Making the online values of one feature view what the offline values were at an instant.

Beside the online store, a folder remembers what was written to it:

- `state.json`: until when, by which definition, and how far a write in progress is;
- `written.parquet`: the rows the online store holds as of then;
- `target.parquet`, `changes.parquet`: while a write is in progress, the rows it shall hold, and those that differ.

Each file is replaced at once, and the state is moved on only after what it says is true. So after a kill at any
point the next run finds a plan and its progress, repeats at most one chunk with the same values, and goes on.
A write in progress is always finished before another is planned.
"""

# ruff: noqa: S608 - column names are quoted, paths are literals.

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import evergrow.integrations.feast_checks  # noqa: F401 - first: it has Feast imported faster

# isort: split
import feast
import pyarrow as pa
import pyarrow.parquet as pq
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.repo_config import RepoConfig
from feast.utils import _convert_arrow_to_proto
from pydantic import BaseModel

from evergrow.contracts import Instant, digest
from evergrow.errors import FeatureStoreError
from evergrow.integrations.asof import literal, quoted
from evergrow.integrations.feast_offline import connection, in_file, write_parquet

CHUNK = 1000
"""Rows written in one transaction."""


NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Event timestamp of a row without values: any value is newer."""


class Pending(BaseModel):
    """A write in progress: until when, and the first chunk that may not be written yet."""

    until: Instant
    chunk: int = 0


class State(BaseModel):
    """What the online store holds of a view."""

    definition: str
    until: Instant | None = None
    pending: Pending | None = None


class Materialization:
    """One feature view's way into the online store.

    Args:
        store: of the view.
        view: a view with a batch source.
        home: the folder that remembers. Without it, everything is written again, over what is there.
    """

    def __init__(self, store: feast.FeatureStore, view: feast.FeatureView, home: Path) -> None:
        self._config, self._provider = store.config, store._get_provider()
        self._view, self._home = view, home
        self._state_file = home / "state.json"
        self._written, self._target = home / "written.parquet", home / "target.parquet"
        self._changes = home / "changes.parquet"
        source = view.batch_source
        self._keys = [column.name for column in view.entity_columns]
        self._features = [feature.name for feature in view.features]
        self._event, self._created = source.timestamp_field, source.created_timestamp_column or None
        self._columns = [*self._keys, *self._features, self._event, *([self._created] if self._created else [])]

    def run(
        self,
        until: datetime,
        progress: Callable[[int, int], None],
        allow_earlier: bool = False,
        planned: Callable[[], None] = lambda: None,
    ) -> int:
        """Make the online values those of `until`; returns the number of rows written.

        `planned` is called when the plan is on disk and nothing of it online: who keeps the folder elsewhere too does
        so then, and a run that finds a plan begun by a lost one completes it.

        Raises:
            FeatureStoreError: `until` is naive, or before that of an earlier run and `allow_earlier` is not given.
        """
        if until.tzinfo is None:
            raise FeatureStoreError(f"`until` must have a time zone, found {until.isoformat()}")
        with _only_one(self._home):
            state = self._current()
            if state.until and until < state.until and not allow_earlier:
                raise FeatureStoreError(
                    f"`until` must not be before {state.until.isoformat()}, which {self._view.name!r} is "
                    f"materialized to, found {until.isoformat()}",
                    hint="allow_earlier=True takes the online values back to what they were then",
                )
            rows = self._finish(state, progress)
            self._plan(state, until)
            planned()
            return rows + self._finish(state, progress)

    def _current(self) -> State:
        """The state; one of another definition or of an online store that was emptied remembers no rows."""
        config = self._config.online_store
        # Feast gives a view's schema in another order in every process.
        schema = sorted(str(column) for column in self._view.schema)
        definition = digest([schema, self._columns, config.model_dump(mode="json")])
        state = State(definition=definition)
        if self._state_file.exists():
            state = State.model_validate_json(self._state_file.read_bytes())
        if state.definition != definition or not self._is_online():
            for file in (self._written, self._target, self._changes):
                file.unlink(missing_ok=True)
            state = State(definition=definition, until=state.until)
        return state

    def _is_online(self) -> bool:
        """Whether any of the first rows that were written is there."""
        written = pq.ParquetFile(self._written) if self._written.exists() else None
        if written is None or written.metadata.num_rows == 0:
            return True
        return any(stamp for stamp, _ in self._read(self._proto(written.read_row_group(0))))

    def _save(self, state: State) -> None:
        aside = self._state_file.with_suffix(".aside")
        with aside.open("w", encoding="utf-8") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._state_file)

    def _plan(self, state: State, until: datetime) -> None:
        """Write down which rows the online store shall hold, and which of them it does not hold yet."""
        pulled = self._home / "pulled.parquet"
        self._pull(until).persist(SavedDatasetFileStorage(str(pulled)), allow_overwrite=True)
        with connection(self._config) as db:
            write_parquet(self._target, db.sql(self._target_sql(pulled)).to_arrow_reader(CHUNK))
            write_parquet(self._changes, db.sql(self._changes_sql()).to_arrow_reader(CHUNK))
        pulled.unlink()
        state.pending = Pending(until=until)
        self._save(state)

    def _pull(self, until: datetime) -> RetrievalJob:
        source = self._view.batch_source
        since = until - self._view.ttl if self._view.ttl else datetime.min.replace(tzinfo=UTC)
        return self._provider.offline_store.pull_latest_from_table_or_query(
            config=self._config,
            data_source=source,
            join_key_columns=[in_file(source, key) for key in self._keys if key != DUMMY_ENTITY_ID],
            feature_name_columns=[in_file(source, name) for name in self._features],
            timestamp_field=in_file(source, self._event),
            created_timestamp_column=in_file(source, self._created) if self._created else None,
            start_date=since,
            end_date=until,
        )

    def _target_sql(self, pulled: Path) -> str:
        stamps = (self._event, self._created)
        named = ", ".join(
            f"{quoted(in_file(self._view.batch_source, column))}{'::TIMESTAMPTZ' if column in stamps else ''} "
            f"AS {quoted(column)}"
            for column in self._columns
        )
        known = " AND ".join(f"{quoted(key)} IS NOT NULL" for key in self._keys)
        order = ", ".join(map(quoted, self._keys))
        rows = f"SELECT {named} FROM read_parquet({literal(str(pulled))})"
        return f"SELECT * FROM ({rows}) WHERE {known} ORDER BY {order}"

    def _changes_sql(self) -> str:
        """Rows to write: those that are new or differ, and, without values, those that are no more.

        `_before` is the event timestamp of the row that was written for the key, if any.
        """
        target = f"read_parquet({literal(str(self._target))})"
        if not self._written.exists():
            return f"SELECT *, NULL::TIMESTAMPTZ AS _before FROM {target}"
        written = f"read_parquet({literal(str(self._written))})"
        by_key = " AND ".join(f"t.{quoted(key)} = w.{quoted(key)}" for key in self._keys)
        same = " AND ".join(f"t.{quoted(c)} IS NOT DISTINCT FROM w.{quoted(c)}" for c in self._columns)
        keys = ", ".join(f"w.{quoted(key)}" for key in self._keys)
        nulls = [f"NULL AS {quoted(feature)}" for feature in self._features]
        stamps = [f"to_timestamp(0) AS {quoted(stamp)}" for stamp in self._columns[len(self._keys + nulls) :]]
        before = f"w.{quoted(self._event)} AS _before"
        return (
            f"SELECT t.*, {before} FROM {target} t LEFT JOIN {written} w ON {by_key} WHERE NOT ({same}) "
            f"UNION ALL SELECT {keys}, {', '.join([*nulls, *stamps])}, {before} "
            f"FROM {written} w ANTI JOIN {target} t ON {by_key} ORDER BY {', '.join(map(quoted, self._keys))}"
        )

    def _finish(self, state: State, progress: Callable[[int, int], None]) -> int:
        """Write what a plan has left, and remember what is online then."""
        if state.pending is None:
            return 0
        changes = pq.ParquetFile(self._changes)
        sizes = [changes.metadata.row_group(i).num_rows for i in range(changes.num_row_groups)]
        first = state.pending.chunk
        for chunk in range(first, len(sizes)):
            self._write(changes.read_row_group(chunk))
            state.pending.chunk = chunk + 1
            self._save(state)
            progress(sum(sizes[: chunk + 1]), sum(sizes))
        if self._target.exists():
            self._target.replace(self._written)
        state.until, state.pending = state.pending.until, None
        self._save(state)
        return sum(sizes[first:])

    def _write(self, changes: pa.Table) -> None:
        """Write rows in one transaction, but leave alone what someone else wrote there and is newer."""
        rows = self._proto(changes)
        before = changes.column("_before").to_pylist()
        online = self._read(rows)
        ours = [
            row
            for row, (stamp, _), old in zip(rows, online, before, strict=True)
            if stamp is None or stamp <= max(row[2].replace(tzinfo=UTC), old or NEVER)
        ]
        self._provider.online_write_batch(_in_our_order(self._config), self._view, ours, None)

    def _proto(self, rows: pa.Table) -> list[Any]:
        """Rows as the online store takes them: (entity key, values, event timestamp, created timestamp)."""
        types = {column.name: column.dtype.to_value_type() for column in self._view.entity_columns}
        # Feast converts the first chunk of a table only.
        found: list[Any] = _convert_arrow_to_proto(rows.combine_chunks(), self._view, types) if rows.num_rows else []
        return found

    def _read(self, rows: list[Any]) -> list[Any]:
        keys = [row[0] for row in rows]
        # Feast's Redis store appends to the list it is given.
        features = [*self._features]
        found: list[Any] = self._provider.online_read(self._config, self._view, keys, features) if keys else []
        return found


def _in_our_order(config: RepoConfig) -> RepoConfig:
    """Let Redis take a row that is not newer than the one it has: a correction, or a step back in time."""
    online = config.online_store
    if not hasattr(online, "skip_dedup"):
        return config
    changed = config.model_copy()
    changed._online_store = online.model_copy(update={"skip_dedup": True})
    return changed


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One run at a time, also across processes; the second waits."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
