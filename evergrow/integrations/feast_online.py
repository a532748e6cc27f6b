"""Online features without Feast's SDK: a plan made once per feature service, and a reader that follows it.

`plan` asks Feast everything that does not change between requests (keys and their types, hash fields, table names,
TTLs, on-demand functions) and is made when a version is deployed. `OnlineReader` reads Feast's own Redis or SQLite
layout by it and imports neither Feast nor pandas.

Two differences from `get_online_features`, both towards what the offline store does: a value older than its view's
TTL is missing, and so is one that is not known yet (an event time after `now`, as when the past is replayed).
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evergrow.errors import FeatureStoreError, RequestError
from evergrow.integrations import feast_layout, online_stores
from evergrow.integrations.feast_layout import decode_value
from evergrow.integrations.online_stores import Lookup, Slots

if TYPE_CHECKING:
    import feast

FORMAT = 1
"""Of the plan; a reader refuses another one."""

# Clocks of two machines differ: a value this far ahead of ours still counts as known.
CLOCK_SKEW_SECONDS = 60.0


# A view without entities has one row, stored under a key of Feast's own.
_NO_ENTITY = {"join_key": "__dummy_id", "column": None, "type": "STRING"}


class FeatureRow(NamedTuple):
    """What was found for one row.

    Attributes:
        values: the row's own values, and every feature of the service by name; None where missing.
        flags: what is missing and why, in the order of the plan: "unknown:<key>" (no view knows the entity),
            "missing:<key>" (the row has no value for it), "missing:<view>" or "missing:<feature>" (the store has none
            for this entity), "stale:<view>" (older than its TTL), "future:<view>" (not known yet at `now`). A value
            stored as null is what the model saw in training too, and is no flag.
        times: of each view, in the order of the plan, the event time of what the store has, in seconds since 1970; None
            if it has nothing.
    """

    values: dict[str, Any]
    flags: tuple[str, ...]
    times: tuple[float | None, ...]


# -- the plan: with Feast ----------------------------------------------------------------------------------------------


def plan(store: feast.FeatureStore, service: str) -> dict[str, Any]:
    """Everything a reader must know to answer for a feature service, as JSON.

    Raises:
        FeatureStoreError: the service does not exist, or has what cannot be read without Feast: an online store
            other than SQLite or a single Redis, a type that is not a scalar, an on-demand view that is not one plain
            Python function.
    """
    from feast.errors import FeastObjectNotFoundException

    try:
        declared = store.get_feature_service(service)
    except FeastObjectNotFoundException as error:
        known = ", ".join(sorted(s.name for s in store.list_feature_services())) or "none"
        raise FeatureStoreError(f"feature service {service!r} does not exist; there are: {known}") from error
    _check_versions(store)
    stored, on_demand = _views(store, declared)
    names = [f.name for projection in declared.feature_view_projections for f in projection.features]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FeatureStoreError(f"feature service {service!r} has features of the same name: {', '.join(twice)}")
    groups = [_group(store, columns, views) for columns, views in _by_key(stored)]
    return {
        "format": FORMAT,
        "service": service,
        "project": store.project,
        "store": _store(store),
        "keys": {key["column"]: key["type"] for group in groups for key in group["keys"] if key["column"]},
        "request": _request_fields(on_demand),
        "groups": groups,
        "on_demand": [_on_demand(view) for view in on_demand],
        "features": names,
    }


def _check_versions(store: feast.FeatureStore) -> None:
    version = store.config.entity_key_serialization_version
    if version != 3:
        raise FeatureStoreError(f"`entity_key_serialization_version` must be 3, found {version}")


def _store(store: feast.FeatureStore) -> dict[str, Any]:
    """Where the online store is, without its secrets."""
    config: Any = store.config.online_store
    if str(config.type).endswith(("sqlite", "SqliteOnlineStore")):
        path = Path(config.path)
        return {"type": "sqlite", "path": str(path if path.is_absolute() else Path(store.repo_path or ".") / path)}
    if str(config.type).endswith(("redis", "RedisOnlineStore")) and config.redis_type.value == "redis":
        parts = config.connection_string.split(",")
        host, _, port = parts[0].partition(":")
        options = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
        tls = options.get("ssl", "false").lower() == "true"
        return {"type": "redis", "host": host, "port": int(port or 6379), "db": int(options.get("db", 0)), "tls": tls}
    raise FeatureStoreError(f"`online_store.type` must be sqlite or redis (a single server), found {config.type!r}")


class _Stored(NamedTuple):
    """A view of the online store and what the service takes from it."""

    view: Any
    join_key_map: Mapping[str, str]
    features: dict[str, Any]


def _views(store: feast.FeatureStore, service: feast.FeatureService) -> tuple[list[_Stored], list[Any]]:
    """Every stored view that is needed, what on-demand views take included; and the on-demand views."""
    on_demand_by_name = {view.name: view for view in store.list_on_demand_feature_views()}
    stored_by_name: dict[str, Any] = {view.name: view for view in store.list_batch_feature_views()}
    stored_by_name |= {view.name: view for view in store.list_stream_feature_views()}
    wanted: dict[str, _Stored] = {}
    on_demand = []
    for projection in service.feature_view_projections:
        sources = [projection]
        if projection.name in on_demand_by_name:
            on_demand.append(on_demand_by_name[projection.name])
            sources = list(on_demand[-1].source_feature_view_projections.values())
        for source in sources:
            entry = _Stored(stored_by_name[source.name], source.join_key_map, {})
            features = wanted.setdefault(source.name_to_use(), entry).features
            features.update({feature.name: feature for feature in source.features})
    return list(wanted.values()), on_demand


def _by_key(stored: Sequence[_Stored]) -> list[tuple[list[Any], list[_Stored]]]:
    """Views grouped by what their entity key is made of: one lookup answers for a whole group."""
    groups: dict[str, tuple[list[Any], list[_Stored]]] = {}
    for entry in stored:
        real = [column for column in entry.view.entity_columns if column.name != _NO_ENTITY["join_key"]]
        columns = [_key_column(column, entry.join_key_map) for column in real] or [_NO_ENTITY]
        columns.sort(key=lambda column: str(column["join_key"]))
        groups.setdefault(str(columns), (columns, []))[1].append(entry)
    return list(groups.values())


def _key_column(column: Any, join_key_map: Mapping[str, str]) -> dict[str, Any]:
    kind = column.dtype.to_value_type().name
    if kind not in feast_layout.KEY_ENCODERS:
        allowed = ", ".join(feast_layout.KEY_ENCODERS)
        raise FeatureStoreError(f"join key {column.name!r} must be of type {allowed}, found {kind}")
    return {"join_key": column.name, "column": join_key_map.get(column.name, column.name), "type": kind}


def _group(store: feast.FeatureStore, columns: list[Any], stored: Sequence[_Stored]) -> dict[str, Any]:
    from feast.infra.online_stores.helpers import _mmh3, compute_table_id, compute_versioned_name

    versioned = store.config.registry.enable_online_feature_view_versioning
    views = []
    for view, _, fields in stored:
        name = compute_versioned_name(view, versioned)
        features = [
            {"name": f.name, "type": _scalar(f, name), "field": _mmh3(f"{name}:{f.name}").hex()}
            for f in fields.values()
        ]
        ttl = view.ttl.total_seconds() if view.ttl else None
        table = compute_table_id(store.project, view, versioned)
        views.append({"name": name, "table": table, "ttl_seconds": ttl, "features": features})
    return {"keys": columns, "views": views}


def _scalar(field: Any, view: str) -> str:
    kind = str(field.dtype.to_value_type().name)
    if kind not in feast_layout.VALUE_TYPES:
        allowed = ", ".join(feast_layout.VALUE_TYPES)
        raise FeatureStoreError(f"{view}.{field.name}: a model input must be of type {allowed}, found {kind}")
    return kind


def _request_fields(on_demand: Sequence[Any]) -> dict[str, str]:
    return {
        field.name: _scalar(field, source.name)
        for view in on_demand
        for source in view.source_request_sources.values()
        for field in source.schema
    }


def _on_demand(view: Any) -> dict[str, Any]:
    if view.mode != "python":
        raise FeatureStoreError(
            f'on-demand view {view.name!r} must have mode="python", found {view.mode!r}',
            hint="other modes build a data frame per request, and the server has no pandas",
        )
    sources = [*view.source_feature_view_projections.values()]
    requested = [field.name for source in view.source_request_sources.values() for field in source.schema]
    return {
        "name": view.name,
        "source": _source(view),
        "singleton": bool(view.singleton),
        "inputs": [feature.name for source in sources for feature in source.features] + requested,
        "outputs": [{"name": f.name, "type": _scalar(f, view.name)} for f in view.projection.features],
    }


def _source(view: Any) -> str:
    """The view's function as text without decorators: Feast keeps its source, and not where it was imported from."""
    text = textwrap.dedent(view.feature_transformation.udf_string)
    try:
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        functions = []
    if len(functions) != 1:
        raise FeatureStoreError(
            f"on-demand view {view.name!r}: its source must be one function, found {text[:80]!r}",
            hint="write it as a `def` at the top level of a module, and run `feast apply` after changing it",
        )
    functions[0].decorator_list = []
    return ast.unparse(functions[0])


# -- the reader: without Feast -----------------------------------------------------------------------------------------


class OnlineReader:
    """Reads the features of a plan's service for request rows."""

    def __init__(self, plan: Mapping[str, Any], store: online_stores.OnlineStore) -> None:
        if plan.get("format") != FORMAT:
            raise FeatureStoreError(f"`format` of the feature plan must be {FORMAT}, found {plan.get('format')!r}")
        self.store = store
        self._keys = [_key_encoder(group["keys"]) for group in plan["groups"]]
        self._groups = [_Group(group) for group in plan["groups"]]
        self._on_demand = [_OnDemand(view) for view in plan["on_demand"]]

    @classmethod
    def open(cls, plan: Mapping[str, Any], store_url: str | None = None) -> OnlineReader:
        """A reader of the plan's own online store, or of the one that a URL names (see `online_stores.parse_url`)."""
        place = online_stores.parse_url(store_url) if store_url else plan["store"]
        return cls(plan, online_stores.connect(place, plan["project"], plan["groups"]))

    def read(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> list[FeatureRow]:
        """The features of each row as known at `now`.

        Args:
            rows: per row a value for every key and request field of the plan, of its type; None if it has none.
            now: timezone-aware.

        Raises:
            StoreUnavailable: the store cannot be reached.
            RequestError: an on-demand function refused a row.
        """
        lookups, places = self._lookups(rows)
        return self._rows(rows, places, self.store.fetch(lookups), now.timestamp())

    async def read_async(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> list[FeatureRow]:
        """The same, without blocking the event loop."""
        lookups, places = self._lookups(rows)
        return self._rows(rows, places, await self.store.fetch_async(lookups), now.timestamp())

    def _lookups(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Lookup], list[list[int | None]]]:
        """The distinct lookups, and for each row and group which of them it is; None where the row has no key."""
        index: dict[Lookup, int] = {}
        places: list[list[int | None]] = []
        for row in rows:
            place: list[int | None] = []
            for group, encode in enumerate(self._keys):
                key = encode(row)
                place.append(None if key is None else index.setdefault((group, key), len(index)))
            places.append(place)
        return list(index), places

    def _rows(
        self, rows: Sequence[Mapping[str, Any]], places: list[list[int | None]], found: list[Slots], now: float
    ) -> list[FeatureRow]:
        values: list[dict[str, Any]] = []
        flags: list[tuple[str, ...]] = []
        times: list[tuple[float | None, ...]] = []
        for row, place in zip(rows, places, strict=True):
            features, flagged, known = dict(row), list[str](), list[float | None]()
            for group, lookup in zip(self._groups, place, strict=True):
                flagged += group.read(None if lookup is None else found[lookup], now, features, known)
            values.append(features)
            flags.append(tuple(flagged))
            times.append(tuple(known))
        for view in self._on_demand:
            view.apply(values)
        return list(map(FeatureRow, values, flags, times))


def _compiled(name: str, source: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """The function that a plan holds as text; what it uses, it imports itself, as Feast demands."""
    namespace: dict[str, Any] = {"__name__": f"on_demand.{name}"}
    exec(compile(source, f"<on-demand view {name}>", "exec"), namespace)  # noqa: S102 - deployed with the model
    function: Callable[[dict[str, Any]], Mapping[str, Any]] = namespace[ast.parse(source).body[0].name]  # type: ignore[attr-defined]
    return function


def _key_encoder(keys: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], bytes | None]:
    """A function from a row to its serialized entity key; None if a part of it is None."""
    prefix = feast_layout.key_prefix([key["join_key"] for key in keys])
    parts = [(key["column"], feast_layout.KEY_ENCODERS[key["type"]]) for key in keys]
    if parts and parts[0][0] is None:
        constant = prefix + feast_layout.KEY_ENCODERS["STRING"]("")
        return lambda row: constant

    def encode_one(row: Mapping[str, Any]) -> bytes | None:
        value = row[column]
        return None if value is None else prefix + encode(value)

    def encode_all(row: Mapping[str, Any]) -> bytes | None:
        values = [(encode, row[column]) for column, encode in parts]
        if any(value is None for _, value in values):
            return None
        return prefix + b"".join(encode(value) for encode, value in values)

    column, encode = parts[0]
    return encode_one if len(parts) == 1 else encode_all


class _Group:
    """The views that one lookup answers for, each with the slots of its values in the answer."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        columns = [key["column"] for key in group["keys"] if key["column"]]
        self._unknown = ("unknown:" + "+".join(columns),) if columns else ("missing:" + group["views"][0]["name"],)
        self._without_key = ("missing:" + "+".join(columns),)
        self._views: list[tuple[str, float, int, list[tuple[str, int]]]] = []
        slot = 0
        for view in group["views"]:
            features = [(feature["name"], slot + i) for i, feature in enumerate(view["features"])]
            slot += len(features)
            ttl = view["ttl_seconds"] or float("inf")
            self._views.append((view["name"], ttl, slot, features))
            slot += 1
        self._no_times = [None] * len(self._views)
        self._absent = dict.fromkeys([name for *_, features in self._views for name, _ in features])

    def read(
        self, slots: Slots | None, now: float, features: dict[str, Any], times: list[float | None]
    ) -> Sequence[str]:
        """Put the values into `features`, and each view's event time into `times`; returns the flags."""
        if slots is None:
            features.update(self._absent)
            times += self._no_times
            return self._without_key
        flags: list[str] = []
        unknown = True
        for view, ttl, time_slot, places in self._views:
            event_time = slots[time_slot]
            times.append(event_time)
            if event_time is not None:
                unknown = False
                age = now - event_time
                if -CLOCK_SKEW_SECONDS <= age <= ttl:
                    for name, slot in places:
                        data = slots[slot]
                        if data is None:
                            flags.append(f"missing:{name}")
                            features[name] = None
                        else:
                            features[name] = decode_value(data)
                    continue
                flags.append(f"stale:{view}" if age > 0 else f"future:{view}")
            else:
                flags.append(f"missing:{view}")
            for name, _ in places:
                features[name] = None
        return self._unknown if unknown else flags


class _OnDemand:
    """A function of request-time values and features, the same one that training called."""

    def __init__(self, view: Mapping[str, Any]) -> None:
        self._name = view["name"]
        self._function = _compiled(view["name"], view["source"])
        self._singleton = view["singleton"]
        self._inputs = view["inputs"]
        self._outputs = [(output["name"], _CASTS.get(output["type"])) for output in view["outputs"]]

    def apply(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the outputs to each row.

        Raises:
            RequestError: names the first row that the function refused, and its reason.
        """
        try:
            self._add(rows)
        except Exception as error:
            for index, row in enumerate(rows):
                self._explain(index, row)
            raise RequestError(f"instances: {self._name} refused them together: {error}") from error

    def _add(self, rows: Sequence[dict[str, Any]]) -> None:
        columns: Mapping[str, Sequence[Any]]
        if self._singleton:
            results = [self._function({name: row[name] for name in self._inputs}) for row in rows]
            columns = {name: [result[name] for result in results] for name, _ in self._outputs}
        else:
            columns = self._function({name: [row[name] for row in rows] for name in self._inputs})
        for name, cast in self._outputs:
            for row, value in zip(rows, columns[name], strict=True):
                row[name] = cast(value) if cast and value is not None else value

    def _explain(self, index: int, row: dict[str, Any]) -> None:
        try:
            self._add([dict(row)])
        except Exception as error:
            inputs = {name: row[name] for name in self._inputs}
            raise RequestError(f"instances[{index}]: {self._name} of {inputs} failed: {error}") from error


_CASTS: Mapping[str, Callable[[Any], Any]] = {"DOUBLE": float, "INT64": int}
"""How Feast makes an on-demand result the declared type."""
