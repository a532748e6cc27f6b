"""A Feast offline store: point-in-time joins by DuckDB's ASOF join over parquet.

Plain Feast uses it, nothing else of evergrow is needed::

    offline_store:
        type: evergrow.integrations.feast_offline.AsofOfflineStore
        memory_limit: 2GB

A value of a feature view is joined to an entity row asked at ``t`` when it is the one that was known best at ``t``:

- only values with ``event_timestamp <= t`` and ``created_timestamp <= t`` count: a value that was not written yet
  was not known. A view without a created timestamp, or a value whose created timestamp is null, counts as created
  at its event timestamp;
- of these the latest ``event_timestamp`` wins, then the latest ``created_timestamp``, then the row last in the file;
- a winner older than the view's TTL (``event_timestamp + ttl < t``; 0 is no TTL) leaves the features null;
- rows whose join key or timestamp is null, and keys never seen, get nulls. Every entity row is kept, in its order.

Instants are compared as UTC microseconds; naive ones are UTC. `docs/decisions/0002` says why this is exact.
"""

# ruff: noqa: S608 - column names are quoted by `quoted`, texts by `literal`; an entity query is the caller's own.

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import evergrow.integrations.feast_checks  # noqa: F401 - first: it has Feast imported faster

# isort: split
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from evergrow.integrations.asof import (
    Source,
    View,
    exceptions_sql,
    features_sql,
    instant_micros,
    latest_sql,
    listed,
    literal,
    micros,
    quoted,
)
from evergrow.integrations.asof_buckets import Buckets, buckets_for


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """What `offline_store:` of a feature_store.yaml may say."""

    type: str = "evergrow.integrations.feast_offline.AsofOfflineStore"
    """Always this module's store."""
    memory_limit: str = "4GB"
    """What a join may hold in memory; beyond it, it spills to disk. The result as an Arrow table comes on top."""
    threads: int = 2
    """Threads of a join; each needs some 125 MB of `memory_limit`."""
    temp_directory: str | None = None
    """Where joins spill to; by default a directory of its own below the system's one."""


@contextmanager
def connection(config: RepoConfig, timeout: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of one query: in memory up to the limit, then in a directory that goes when it is done."""
    settings: AsofOfflineStoreConfig = config.offline_store
    with _scratch(config) as spill:
        limits = {"memory_limit": settings.memory_limit, "threads": settings.threads, "temp_directory": str(spill)}
        with duckdb.connect(config=limits) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            timer = threading.Timer(timeout, connection.interrupt) if timeout else None
            if timer:
                timer.start()
            try:
                yield connection
            finally:
                if timer:
                    timer.cancel()


@contextmanager
def _scratch(config: RepoConfig) -> Iterator[Path]:
    """A directory for what does not fit in memory."""
    with tempfile.TemporaryDirectory(prefix="asof-", dir=config.offline_store.temp_directory) as folder:
        yield Path(folder)


def _location(source: DataSource | None, config: RepoConfig) -> str:
    """Path or URL of a parquet source.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(source, FileSource):
        raise ValueError(
            f"AsofOfflineStore reads parquet FileSources only, found {type(source).__name__}"
            f"{f' {source.name!r}' if source else ''}"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise ValueError(f"source {source.name!r}: format must be parquet, found {source.file_format}")
    return str(FileSource.get_uri_for_file_path(config.repo_path, source.path))


def _scan(source: FileSource, config: RepoConfig, db: duckdb.DuckDBPyConnection) -> tuple[str, tuple[str, ...]]:
    """SQL table expression of a source, and the columns that tell the place of a row in it."""
    location = _location(source, config)
    if "://" in location:
        files, path = FileSource.create_filesystem_and_path(
            location, source.s3_endpoint_override, source.resolve_credentials()
        )
        name = f"_source_{uuid.uuid4().hex}"
        db.register(name, ds.dataset(path, filesystem=files, format="parquet"))
        return f"(SELECT *, row_number() OVER () AS _place FROM {name})", ("_place",)
    if not Path(location).exists():
        raise FileNotFoundError(f"source {source.name!r}: {location} does not exist")
    if Path(location).is_dir():
        files = literal(f"{location}/**/*.parquet")
        return f"read_parquet({files}, filename=true, file_row_number=true)", ("filename", "file_row_number")
    return f"read_parquet({literal(location)}, file_row_number=true)", ("file_row_number",)


def in_file(source: DataSource, name: str) -> str:
    """What a column is called in the file, by what Feast calls it."""
    return str({new: old for old, new in source.field_mapping.items()}.get(name, name))


def _view(
    view: FeatureView, references: Sequence[str], full_names: bool, config: RepoConfig, db: duckdb.DuckDBPyConnection
) -> View:
    """What the join needs to know of a feature view, of which `references` ("view:feature") are asked."""
    prefix = f"{view.projection.name_to_use()}:"
    asked = [reference.removeprefix(prefix) for reference in references if reference.startswith(prefix)]
    shown = f"{view.projection.name_alias or view.name}__" if full_names else ""
    joined_on = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    keys = {key: view.projection.join_key_map.get(key, key) for key in joined_on}
    return view_of(view, keys, {name: f"{shown}{name}" for name in asked}, config, db)


def view_of(
    view: FeatureView,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    config: RepoConfig,
    db: duckdb.DuckDBPyConnection,
) -> View:
    """What the join needs to know of a feature view.

    Args:
        view: it.
        keys: the entity frame's column for each of its join keys.
        features: the output column for each feature that is asked for.
        config: of the feature store.
        db: where the source is registered, if it is not on this machine.

    Raises:
        ValueError: the view's source is not parquet.
    """
    source = view.batch_source
    _location(source, config)
    scan, order = _scan(source, config, db)
    return View(
        source=Source(
            scan=scan,
            order=order,
            keys=tuple(in_file(source, key) for key in keys),
            event=in_file(source, source.timestamp_field),
            created=in_file(source, source.created_timestamp_column) or None,
        ),
        entity_keys=tuple(keys.values()),
        features={in_file(source, name): shown for name, shown in features.items()},
        ttl=view.ttl or None,
    )


class _ParquetJob(RetrievalJob):  # type: ignore[misc]
    """A query that runs when its result is asked for, and can be written to a file without holding it in memory."""

    def __init__(
        self,
        config: RepoConfig,
        on_demand: Sequence[OnDemandFeatureView] = (),
        full_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config, self._on_demand, self._full_names = config, list(on_demand), full_names
        self._metadata = metadata

    def _prepare(self, db: duckdb.DuckDBPyConnection) -> str:
        """Register what the query reads; returns the query."""
        raise NotImplementedError

    @property
    def full_feature_names(self) -> bool:
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_sql(self) -> str:
        """The SQL that runs, over the tables this job registers."""
        with connection(self._config) as db:
            return self._prepare(db)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with connection(self._config, timeout) as db:
            return db.sql(self._prepare(db)).to_arrow_table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result to one parquet file: streamed, unless on-demand views need the whole of it."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ValueError(
                f"AsofOfflineStore persists to SavedDatasetFileStorage only, found {type(storage).__name__}"
            )
        path = Path(_location(storage.to_data_source(), self._config))
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        if self._on_demand:
            table = self.to_arrow(timeout=timeout)
            write_parquet(path, table.to_reader())
            return
        with connection(self._config, timeout) as db, _scratch(self._config) as folder:
            write_parquet(path, self._reader(db, folder))

    def _reader(self, db: duckdb.DuckDBPyConnection, folder: Path) -> pa.RecordBatchReader:
        """The result, batch by batch; `folder` is there for what does not fit in memory."""
        return db.sql(self._prepare(db)).to_arrow_reader(_ROWS_AT_A_TIME)


class _PullJob(_ParquetJob):
    """Rows of one source."""

    def __init__(self, config: RepoConfig, query: Callable[[duckdb.DuckDBPyConnection], str]) -> None:
        super().__init__(config)
        self._query = query

    def _prepare(self, db: duckdb.DuckDBPyConnection) -> str:
        return self._query(db)


class _AsofJob(_ParquetJob):
    """Features joined to entity rows."""

    def __init__(
        self, config: RepoConfig, entities: pd.DataFrame | str, views: Sequence[FeatureView], references: list[str],
        on_demand: Sequence[OnDemandFeatureView], full_names: bool,
    ) -> None:  # fmt: skip
        metadata = RetrievalMetadata(features=references, keys=[])
        if isinstance(entities, pd.DataFrame):
            asked = _event_column(entities)
            metadata.keys = [column for column in entities.columns if column != asked]
            metadata.min_event_timestamp, metadata.max_event_timestamp = entities[asked].min(), entities[asked].max()
        super().__init__(config, on_demand, full_names, metadata)
        self._entities, self._views, self._references = entities, views, references

    def _prepare(self, db: duckdb.DuckDBPyConnection) -> str:
        table = self._register_entities(db)
        if table is not None:
            db.register("entity_df", table)
        parts = "".join(f" POSITIONAL JOIN ({query}) v{i}" for i, query in enumerate(self._queries(db)))
        columns = "".join(f", v{i}.*" for i in range(len(self._views)))
        return f"SELECT e.*{columns} FROM entity_df e{parts}"

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        """One view after the other, so that only one join at a time needs memory; entity columns stay as given."""
        with connection(self._config, timeout) as db:
            table = self._register_entities(db)
            if table is None:
                table = db.sql("SELECT * FROM entity_df ORDER BY rowid").to_arrow_table()
            for query in self._queries(db):
                features = db.sql(query).to_arrow_table()
                for name in features.column_names:
                    table = table.append_column(name, features.column(name))
            return table

    def _reader(self, db: duckdb.DuckDBPyConnection, folder: Path) -> pa.RecordBatchReader:
        """Join in buckets that fit in memory; batches are slabs of rows, in their order."""
        frame = self._register_entities(db)
        views = list(self._joined_views(db))
        rows = self._count(db, "entities")
        if not rows or not views:
            return super()._reader(db, folder)
        most = max((self._count(db, view.source.scan) for view in views), default=0)
        columns = max((len(view.features) for view in views), default=0) + _COLUMNS_OF_A_JOIN
        ((limit,),) = db.execute("SELECT current_setting('memory_limit')").fetchall()
        buckets = Buckets(db, folder, rows, buckets_for(rows + most, columns, limit))
        names = [f"view{i}" for i in range(len(views))]
        for view, name in zip(views, names, strict=True):
            buckets.join(view, name)
        slabs = self._slabs(db, frame, buckets, names)
        first = next(slabs)
        batches = (batch for slab in chain([first], slabs) for batch in slab.to_batches())
        return pa.RecordBatchReader.from_batches(first.schema, batches)

    def _slabs(
        self, db: duckdb.DuckDBPyConnection, frame: pa.Table | None, buckets: Buckets, names: Sequence[str]
    ) -> Iterator[pa.Table]:
        """Entity rows with their features, slab by slab."""
        for start, end, features in buckets.slabs(names):
            if frame is None:
                query = f"SELECT * FROM entity_df WHERE rowid >= {start} AND rowid < {end} ORDER BY rowid"
                table = db.sql(query).to_arrow_table()
            else:
                table = frame.slice(start, end - start)
            for name in features.column_names:
                table = table.append_column(name, features.column(name))
            yield table

    def _count(self, db: duckdb.DuckDBPyConnection, table: str) -> int:
        ((count,),) = db.execute(f"SELECT count(*) FROM {table}").fetchall()
        return int(count)

    def _joined_views(self, db: duckdb.DuckDBPyConnection) -> Iterator[View]:
        for declared in self._views:
            view = _view(declared, self._references, self._full_names, self._config, db)
            self._check_keys(declared, view, db)
            yield view

    def _queries(self, db: duckdb.DuckDBPyConnection) -> Iterator[str]:
        for view in self._joined_views(db):
            plain = not any(db.execute(query).fetchall() for query in exceptions_sql(view.source))
            yield features_sql(view, plain)

    def _check_keys(self, declared: FeatureView, view: View, db: duckdb.DuckDBPyConnection) -> None:
        columns = db.sql("SELECT * FROM entities LIMIT 0").columns
        missing = [key for key in view.entity_keys if key not in columns]
        if missing:
            raise KeyError(f"entity_df lacks {missing[0]!r}, which feature view {declared.name!r} is joined on")

    def _keys(self) -> set[str]:
        return {
            view.projection.join_key_map.get(column.name, column.name)
            for view in self._views
            for column in view.entity_columns
        }

    def _register_entities(self, db: duckdb.DuckDBPyConnection) -> pa.Table | None:
        """Make `entities` (`_row`, `_asked` and the join keys); returns the frame's table, or none for a query."""
        if isinstance(self._entities, str):
            db.execute(f"CREATE TEMP TABLE entity_df AS {self._entities}")
            empty = db.sql("SELECT * FROM entity_df LIMIT 0").df()
            columns = listed(quoted(key) for key in sorted(self._keys() & set(empty.columns)))
            db.execute(
                f"CREATE TEMP VIEW entities AS SELECT {columns}{micros(_event_column(empty))} AS _asked, "
                "rowid AS _row FROM entity_df"
            )
            return None
        table = pa.Table.from_pandas(self._entities, preserve_index=False)
        keys = sorted(self._keys() & set(table.column_names))
        asked = pd.to_datetime(self._entities[_event_column(self._entities)], utc=True).dt.as_unit("us")
        narrow = {"_asked": pa.array(asked).cast(pa.int64()), "_row": pa.array(np.arange(len(asked)))}
        db.register("entities", pa.table(narrow | {key: table.column(key) for key in keys}))
        return table


def _event_column(entities: pd.DataFrame) -> str:
    return str(infer_event_timestamp_from_entity_df(dict(zip(entities.columns, entities.dtypes, strict=True))))


_ROWS_AT_A_TIME = 100_000
# Key, event, created, known and place of a row.
_COLUMNS_OF_A_JOIN = 5


def write_parquet(path: Path, batches: Any, schema: pa.Schema | None = None) -> None:
    """Write a parquet file aside and put it in place at once: a reader sees the old one or the new one.

    Args:
        path: of the file; its folder is made.
        batches: a reader of record batches, or any batches with their `schema`. Each becomes a row group.
        schema: of `batches`, unless they are a reader, which has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            with pq.ParquetWriter(file, schema or batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class AsofOfflineStore(OfflineStore):  # type: ignore[misc]
    """Joins parquet FileSources by DuckDB's ASOF join. See the module for what is joined to what."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        filter_by_created_timestamp: bool = True,
    ) -> RetrievalJob:
        """Features as known at each entity row's timestamp.

        Args:
            config: of the feature store.
            feature_views: the views the features are of.
            feature_refs: "view:feature" each.
            entity_df: entity rows, or a DuckDB query that returns them.
            registry: of the feature store.
            project: of the feature store.
            full_feature_names: call a feature "view__feature".
            start_date: not supported.
            end_date: not supported.
            filter_by_created_timestamp: always so, whatever is given.

        Raises:
            ValueError: no entity rows were given, or a view's source is not parquet.
        """
        if entity_df is None:
            raise ValueError("AsofOfflineStore needs entity_df; start_date and end_date alone are not supported")
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        for view in feature_views:
            _location(view.batch_source, config)
        return _AsofJob(config, entity_df, feature_views, feature_refs, on_demand, full_feature_names)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each key's best value known at `end_date`, if its event is not before `start_date`."""
        columns = _selected(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)

        def query(db: duckdb.DuckDBPyConnection) -> str:
            scan, order = _scan(data_source, config, db)
            source = Source(scan, order, tuple(join_key_columns), timestamp_field, created_timestamp_column or None)
            dummy = "" if join_key_columns else f", {literal(DUMMY_ENTITY_VAL)} AS {DUMMY_ENTITY_ID}"
            return f"SELECT *{dummy} FROM ({latest_sql(source, columns, start_date, end_date)})"

        _location(data_source, config)
        return _PullJob(config, query)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows whose event lies in [`start_date`, `end_date`]; an end that is not given is open."""
        columns = _selected(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        bounds = [f"{micros(timestamp_field)} >= {instant_micros(start_date)}"] if start_date else []
        bounds += [f"{micros(timestamp_field)} <= {instant_micros(end_date)}"] if end_date else []

        def query(db: duckdb.DuckDBPyConnection) -> str:
            rows = _scan(data_source, config, db)[0]
            return f"SELECT {', '.join(map(quoted, columns))} FROM {rows} WHERE {' AND '.join(bounds) or 'TRUE'}"

        _location(data_source, config)
        return _PullJob(config, query)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the parquet file (or, as a file of their own, the directory) behind a feature view.

        The columns must be those of the source. A reader sees all of the new rows or none; writers wait for each other.
        """
        path = Path(_location(feature_view.batch_source, config))
        expected = pq.read_schema(_any_file(path))
        if set(table.column_names) != set(expected.names):
            raise ValueError(
                f"feature view {feature_view.name!r}: pushed columns must be {expected.names}, "
                f"found {table.column_names}"
            )
        new = table.select(expected.names).cast(expected)
        if path.is_dir():
            write_parquet(path / f"{uuid.uuid4().hex}.parquet", new.to_reader())
        else:
            with _locked(path):
                write_parquet(path, chain(_batches(path, expected), new.to_batches()), expected)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add a file of logged features to the directory of the service's FileLoggingDestination."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination) or destination.partition_by:
            raise ValueError("AsofOfflineStore logs to a FileLoggingDestination without partition_by only")
        table = pq.read_table(data) if isinstance(data, Path) else data
        directory = Path(_location(destination.to_data_source(), config))
        write_parquet(directory / f"{uuid.uuid4().hex}.parquet", table.to_reader())


def _selected(keys: list[str], features: list[str], event: str, created: str | None) -> list[str]:
    return list(dict.fromkeys([*keys, *features, event, *([created] if created else [])]))


def _any_file(path: Path) -> Path:
    return next(path.rglob("*.parquet")) if path.is_dir() else path


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_AT_A_TIME):
        yield batch.cast(schema)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: one writer at a time, also across processes."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
