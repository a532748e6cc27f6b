"""Feast: the feature repository applied, values of the past joined, values of now written online."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import os
import sqlite3
import string
import sys
import textwrap
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import evergrow.integrations.feast_checks  # noqa: F401 - first: it has Feast imported faster

# isort: split
import duckdb
import feast
import feast.errors
import pandas as pd
import pyarrow as pa
import redis.exceptions
import sqlalchemy.exc
import yaml
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY, DUMMY_ENTITY_ID, FeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.registry.caching_registry import CachingRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.permissions.permission import Permission
from feast.project import Project
from feast.repo_contents import RepoContents
from feast.repo_operations import extract_objects_for_apply_delete

from evergrow import contracts
from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, FeatureStoreError
from evergrow.integrations.materialization import Materialization

Progress = Callable[[str, int, int], None]
"""Told a feature view, and how many of how many of its rows are written."""

# A foreign error is recognised by the library that defines it, so that one it grows is translated as well.
_FOREIGN = (
    feast.errors.FeastError,
    duckdb.Error,
    sqlalchemy.exc.SQLAlchemyError,
    sqlite3.Error,
    pa.ArrowException,
    redis.exceptions.RedisError,
)
# A database or Redis that does not answer; the latter's client says so by an error of its own.
_SILENT = (sqlalchemy.exc.OperationalError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_HINTS: Mapping[type[Exception], str] = {
    feast.errors.RequestDataNotFoundInEntityDfException: "add the column: an on-demand feature view computes with it",
    feast.errors.FeatureNameCollisionError: "rename one of the features; a service's feature names must differ",
    feast.errors.FeastObjectNotFoundException: "check the name in feature_repo/, then apply the repository",
    feast.errors.FeastEntityDFMissingColumnsError: "add the columns that the service's entities are joined on",
    feast.errors.FeastModuleImportError: "check `type` in feature_store.yaml",
    feast.errors.FeastClassImportError: "check `type` in feature_store.yaml",
    redis.exceptions.RedisError: "check that the online store can be reached",
    sqlalchemy.exc.OperationalError: "check that the registry's database can be reached",
    duckdb.OutOfMemoryException: "raise `memory_limit` of the offline store or lower its `threads`",
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what Feast and the stores below it raise into a FeatureStoreError that says what was being done."""
    try:
        yield
    except EvergrowError:
        raise
    except Exception as error:
        if not isinstance(error, (*_FOREIGN, OSError, ValueError, KeyError, TypeError, AssertionError)):
            raise
        hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise FeatureStoreError(
            f"{doing}: {text or type(error).__name__}", hint=hint, retriable=isinstance(error, _SILENT)
        ) from error


class FeastStore:
    """A Feast feature store: implements `evergrow.ports.FeatureStore`, and applies and materializes."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    @cached_property
    def feast(self) -> feast.FeatureStore:
        """Feast's own object, configured for the environment.

        Raises:
            FeatureStoreError: the configuration is missing, names an unset variable or is not valid.
        """
        path = self.environment.feature_store_yaml
        with translated(f"reading {path.name}"):
            config = feast.RepoConfig(**_read_config(path, self.environment))
            # What relative paths of sources are below.
            config.repo_path = self.environment.home
            (self.environment.home / "features").mkdir(parents=True, exist_ok=True)
            _find_modules_beside(self.environment.feature_repo)
            store = feast.FeatureStore(config=config)
            if isinstance(store.registry, CachingRegistry):
                _tell_copies_apart(store.registry)
            return store

    def apply(self) -> None:
        """Make the registry and the online store what `feature_repo` declares; what it no longer declares goes.

        Raises:
            FeatureStoreError: a declaration is not valid, or a store cannot be reached.
        """
        store = self.feast
        with translated("applying the feature repository"):
            declared = _contents(_modules(self.environment.feature_repo))
            for view in declared.on_demand_feature_views:
                _check_stands_alone(view)
            apply, delete, _, _ = extract_objects_for_apply_delete(store.project, store.registry, declared)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
                store.apply(apply, objects_to_delete=delete, partial=False)
        _let_readers_read(store.config.online_store)

    def materialize(
        self,
        service: str,
        until: datetime,
        progress: Progress = lambda *_: None,
        *,
        allow_earlier: bool = False,
        planned: Callable[[], None] = lambda: None,
    ) -> Mapping[str, int]:
        """Make the online values of a service's views what they were at `until`; returns rows written per view.

        Only what changed since the last time is written, in chunks; after a kill, the next call goes on where that
        one was. Reads go on throughout. Rows of one entity in one view change at once.

        Args:
            service: a FeatureService.
            until: aware instant; not before that of an earlier call, unless `allow_earlier`.
            progress: told after each chunk.
            allow_earlier: take the values back to an `until` before that of an earlier call.
            planned: called whenever what is to be written next is on disk, and nothing of it is online yet.

        Raises:
            FeatureStoreError: `until` lies before an earlier one, or Feast refuses.
        """
        store = self.feast
        with translated(f"materializing {service!r}"):
            written = {}
            for view in self._stored_views(service):
                home = self.environment.home / "features" / "materialized" / store.project / view.name
                task = Materialization(store, view, home)
                written[view.name] = task.run(until, partial(progress, view.name), allow_earlier, planned)
            return written

    def history(self, service: str, entities: pd.DataFrame) -> pd.DataFrame:
        """Add the service's features to each row of `entities` as known at its `event_timestamp`.

        Rows, their order, their index and their columns are kept; feature columns follow, in the service's order.

        Args:
            service: a FeatureService.
            entities: the service's join keys, `event_timestamp` and the request-time values of on-demand views.

        Raises:
            FeatureStoreError: a column is missing or clashes with a feature, or Feast refuses.
        """
        features = self.feature_names(service)
        needed = [*self.entity_columns(service), EVENT_TIMESTAMP]
        missing = [column for column in needed if column not in entities.columns]
        if missing:
            raise FeatureStoreError(
                f"entities lack the columns {missing}, which {service!r} is joined on or computed from",
                hint="add them to the `examples` table",
            )
        clashes = sorted(set(features) & set(entities.columns))
        if clashes:
            raise FeatureStoreError(
                f"entities have columns {clashes}, which are features of {service!r}", hint="rename or drop them"
            )
        with translated(f"joining {service!r}"):
            frame = entities[needed].reset_index(drop=True)
            definition = self.feast.get_feature_service(service)
            joined = self.feast.get_historical_features(frame, definition).to_df()[features]
        if len(joined) != len(entities):
            raise FeatureStoreError(f"joining {service!r}: {len(entities)} rows became {len(joined)}")
        return pd.concat([entities, joined.set_axis(entities.index)], axis=1)

    def digest(self, service: str) -> str:
        """SHA-256 of everything that defines the service's features.

        Views, entities, types, TTLs, mappings, the sources' columns and types and the source code of transforms
        (without comments); neither where files are nor when anything was created.

        Raises:
            FeatureStoreError: there is no such service, or a source's schema cannot be read.
        """
        with translated(f"describing {service!r}"):
            definition = self.feast.get_feature_service(service)
            views = {p.name_to_use(): self._describe(p) for p in definition.feature_view_projections}
            stored = {view.name: self._describe_stored(view) for view in self._stored_views(service)}
            return contracts.digest({"service": service, "views": views, "stored": stored})

    def feature_names(self, service: str) -> list[str]:
        """Names of the service's features, in its order."""
        with translated(f"reading {service!r}"):
            definition = self.feast.get_feature_service(service)
            return [f.name for p in definition.feature_view_projections for f in p.features]

    def entity_columns(self, service: str) -> list[str]:
        """What a row to be joined must have beside its timestamp: join keys, then request-time values."""
        with translated(f"reading {service!r}"):
            definition = self.feast.get_feature_service(service)
            keys: dict[str, None] = {}
            request: dict[str, None] = {}
            for projection in definition.feature_view_projections:
                view = self._view(projection.name)
                if isinstance(view, OnDemandFeatureView):
                    request.update(dict.fromkeys(view.get_request_data_schema()))
                for name, mapping in _sources(view, projection):
                    joined_on = [c.name for c in self._view(name).entity_columns if c.name != DUMMY_ENTITY_ID]
                    keys.update(dict.fromkeys(mapping.get(key, key) for key in joined_on))
            return [*keys, *(column for column in request if column not in keys)]

    def _view(self, name: str) -> Any:
        return self.feast.registry.get_any_feature_view(name, self.feast.project, allow_cache=True)

    def _stored_views(self, service: str) -> list[FeatureView]:
        """The views with stored values behind a service: its own and those its on-demand views compute from."""
        definition = self.feast.get_feature_service(service)
        names: dict[str, None] = {}
        for projection in definition.feature_view_projections:
            names.update(dict.fromkeys(name for name, _ in _sources(self._view(projection.name), projection)))
        return [self._view(name) for name in names]

    def _describe(self, projection: FeatureViewProjection) -> dict[str, Any]:
        view = self._view(projection.name)
        described: dict[str, Any] = {
            "view": projection.name,
            "features": [[f.name, str(f.dtype)] for f in projection.features],
            "join_key_map": dict(projection.join_key_map),
        }
        if isinstance(view, OnDemandFeatureView):
            described |= {
                "mode": view.mode,
                "request": {name: str(dtype) for name, dtype in view.get_request_data_schema().items()},
                "sources": sorted(name for name, _ in _sources(view, projection)),
                "code": _code(view),
            }
        return described

    def _describe_stored(self, view: FeatureView) -> dict[str, Any]:
        source = view.batch_source
        used = {c.name for c in [*view.entity_columns, *view.features]}
        used |= {source.timestamp_field, source.created_timestamp_column}
        original = {new: old for old, new in source.field_mapping.items()}
        used = {original.get(name, name) for name in used}
        columns = dict(source.get_table_column_names_and_types(self.feast.config))
        return {
            "entities": [[c.name, str(c.dtype)] for c in view.entity_columns],
            "features": [[f.name, str(f.dtype)] for f in view.features],
            "ttl": view.ttl.total_seconds() if view.ttl else 0,
            "source": type(source).__name__,
            "timestamps": [source.timestamp_field, source.created_timestamp_column],
            "mapping": dict(source.field_mapping),
            "columns": {name: dtype for name, dtype in columns.items() if name in used},
        }


def _sources(view: Any, projection: FeatureViewProjection) -> list[tuple[str, Mapping[str, str]]]:
    """Names of the stored views behind a view, each with its join key map."""
    if isinstance(view, OnDemandFeatureView):
        return [(p.name, p.join_key_map) for p in view.source_feature_view_projections.values()]
    return [(projection.name, projection.join_key_map)]


def _code(view: OnDemandFeatureView) -> str:
    """Source of a view's function, without decorators, comments and formatting."""
    tree = ast.parse(textwrap.dedent(view.feature_transformation.udf_string))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    return ast.unparse(tree)


def _check_stands_alone(view: OnDemandFeatureView) -> None:
    """Refuse a function that Feast could not run: it keeps a function's source in the registry, not its module."""
    function = OnDemandFeatureView.from_proto(view.to_proto()).feature_transformation.udf
    missing = sorted(_globals_read(function.__code__) - set(function.__globals__) - set(dir(builtins)))
    if missing:
        raise FeatureStoreError(
            f"on-demand view {view.name!r}: its function uses {', '.join(missing)} of its module, but Feast runs "
            "the function's source alone",
            hint="import and define what it uses inside the function",
        )


def _globals_read(code: CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names.union(*(_globals_read(part) for part in inner))


def _read_config(path: Path, environment: Environment) -> dict[str, Any]:
    """A feature_store.yaml with ${VARIABLES} filled in; EVERGROW_HOME is always known."""
    if not path.exists():
        known = sorted(p.name.split(".")[1] for p in path.parent.glob("feature_store.*.yaml"))
        raise FeatureStoreError(f"{path} does not exist", hint=f"EVERGROW_ENV must be one of {known}")
    variables = {**os.environ, "EVERGROW_HOME": str(environment.home)}
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#"))
    try:
        text = string.Template("\n".join(lines)).substitute(variables)
    except KeyError as error:
        raise FeatureStoreError(
            f"{path.name}: variable {error.args[0]} is not set", hint=f"export {error.args[0]}=..."
        ) from error
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def _find_modules_beside(folder: Path) -> None:
    """Let the declarations, and the transforms that the registry names, be imported."""
    for place in (str(Path.cwd()), str(folder.parent)):
        if place not in sys.path:
            sys.path.insert(0, place)


def _modules(folder: Path) -> list[ModuleType]:
    """The modules of a feature repository, imported as members of the package its folder is."""
    _find_modules_beside(folder)
    names = sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")
    return [importlib.import_module(f"{folder.name}.{name}") for name in names]


def _contents(modules: Iterable[ModuleType]) -> RepoContents:
    """What modules declare, each object once."""
    found = {id(value): value for module in modules for value in vars(module).values()}

    def of(kind: type, but: tuple[type, ...] = ()) -> list[Any]:
        return [value for value in found.values() if isinstance(value, kind) and not isinstance(value, but)]

    views = of(feast.FeatureView, but=(feast.StreamFeatureView,))
    batch = [source for view in views for source in (view.batch_source, view.stream_source) if source]
    sources = {source.name: source for source in [*of(DataSource), *batch]}
    return RepoContents(
        projects=of(Project),
        data_sources=[s for s in sources.values() if not isinstance(s, feast.RequestSource)],
        feature_views=views,
        on_demand_feature_views=of(OnDemandFeatureView),
        stream_feature_views=of(feast.StreamFeatureView),
        label_views=[],
        # Views without entities are keyed by Feast's own dummy, which would go as undeclared.
        entities=[*of(feast.Entity), DUMMY_ENTITY],
        feature_services=of(feast.FeatureService),
        permissions=of(Permission),
    )


def _tell_copies_apart(registry: CachingRegistry) -> None:
    """Give each copy that Feast takes of its registry a version of its own.

    Feast keeps what it read from a copy for whoever asks with one of the same address and version, and its registry in
    a database gives no version: a later copy that came to lie where an earlier one was got that one's definitions.
    """
    take = registry.proto

    def versioned() -> Any:
        copy = take()
        if copy.projects:  # an empty one is told by being equal to nothing
            copy.version_id = str(uuid.uuid4())
        return copy

    registry.proto = versioned
    registry.refresh()


def _let_readers_read(online: Any) -> None:
    """Keep SQLite's readers and its writer out of each other's way: write-ahead logging, a property of the file."""
    if type(online).__name__ == "SqliteOnlineStoreConfig":
        connection = sqlite3.connect(online.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
