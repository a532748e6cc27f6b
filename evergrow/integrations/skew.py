"""Recomputes served features through the feature store: what training would see at the instant of each prediction.

`evergrow.monitoring.skew` says what is told apart. Stored features come from the same point-in-time join that makes
training sets, on-demand ones from Feast's own call of the declared function. `FeastStore.history` gives both, too (a
test holds them equal), but neither the row that a value is of, nor anything if one request-time value is not logged.
"""

# ruff: noqa: S608 - column names are quoted, the rest is numbers and the SQL of `asof`.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.integrations import feast_online
from evergrow.integrations.asof import (
    View,
    asked_sql,
    best_known,
    codes_sql,
    in_micros,
    join_sql,
    listed,
    quoted,
    rows_sql,
)
from evergrow.integrations.feast import FeastStore, translated
from evergrow.integrations.feast_offline import connection, view_of
from evergrow.monitoring.skew import (
    NOTHING,
    ComputedRows,
    Ints,
    Recomputed,
    Skew,
    StoredRows,
    Versions,
    as_hashed,
    as_served,
    compare,
    sample,
    without_nan,
)
from evergrow.prediction_log.records import logged as logged_as
from evergrow.prediction_log.tables import time_column
from evergrow.spec.model import PredictionLogSpec

_RESOLUTION = {"sqlite": 1_000_000}
"""Microseconds that an online store tells event times apart by, if not one: Feast's of SQLite keeps whole seconds."""


def check(
    store: FeastStore,
    service: str,
    log: pa.Table,
    settings: PredictionLogSpec | None = None,
    *,
    key: bytes | None = None,
    rows: int | None = None,
) -> Skew:
    """Compare predictions with what the feature store says of their instants today; see `recompute`.

    Args:
        store: applied, with the declarations of today.
        service: the feature service of the versions that predicted.
        log: their predictions, as `PredictionStore.read` gives them.
        settings: `spec.serving.log` of the versions' document.
        key: secret that columns are hashed with.
        rows: look at so many predictions, evenly spread; None is all.

    Raises:
        FeatureStoreError: there is no such service, or its data cannot be read.
    """
    return compare(recompute(store, service, sample(log, rows), settings, key))


def recompute(
    store: FeastStore,
    service: str,
    log: pa.Table,
    settings: PredictionLogSpec | None = None,
    key: bytes | None = None,
) -> Recomputed:
    """What the feature store says of the predictions' instants today, beside what was served.

    What is left out of the log is not compared, nor are the features of a view whose key is hashed or left out.

    Args:
        store: applied, with the declarations of today.
        service: the feature service of the versions that predicted.
        log: their predictions, as `PredictionStore.read` gives them.
        settings: `spec.serving.log` of the versions' document.
        key: secret that columns are hashed with; without it, hashed features are not compared.

    Raises:
        FeatureStoreError: there is no such service, or its data cannot be read.
    """
    plan = feast_online.plan(store.feast, service)
    logged = _Logged(log, settings or PredictionLogSpec(), key)
    with translated(f"recomputing {service!r}"), connection(store.feast.config) as db:
        stored = _Stored(store, plan, logged, db)
        views = [rows for group in plan["groups"] for view in group["views"] for rows in stored.rows(group, view)]
        computed = [rows for view in plan["on_demand"] for rows in _computed(store, view, logged, views)]
    return Recomputed(log["prediction_id"].combine_chunks(), views, computed, logged.skipped)


class _Logged:
    """Predictions, and what of them can be read.

    Attributes:
        skipped: why, for each feature that cannot be compared.
    """

    def __init__(self, table: pa.Table, settings: PredictionLogSpec, key: bytes | None) -> None:
        self.table, self.settings, self.key = table, settings, key
        self.skipped: dict[str, str] = {}

    def column(self, name: str) -> pa.Array:
        """A key, request-time value or feature as it was logged, [n]."""
        values = self.table[logged_as(name)].combine_chunks()
        return without_nan(values, self.key) if self.key and name in self.settings.hashed else values

    def why_absent(self, name: str) -> str:
        """Why a value is not there; empty if it is."""
        if name in self.settings.left_out:
            return f"{name!r} is left out of the prediction log"
        return "" if logged_as(name) in self.table.column_names else f"the predictions have no {name!r}"

    def why_unreadable(self, name: str) -> str:
        """Why a value cannot be told; empty if it can."""
        hashed = f"{name!r} is hashed in the prediction log" if name in self.settings.hashed else ""
        return self.why_absent(name) or hashed

    def comparable(self, features: Sequence[Mapping[str, str]], reason: str) -> dict[str, str]:
        """Names and types of features that can be compared; the others are `skipped`, for `reason` if there is one."""
        found = {}
        for name, kind in ((feature["name"], feature["type"]) for feature in features):
            why = self.why_absent(name) or reason or self._why_not_hashed(name)
            if why:
                self.skipped[name] = why
            else:
                found[name] = kind
        return found

    def as_logged(self, values: pa.ChunkedArray, name: str, kind: str) -> pa.Array:
        """Recomputed values of a feature as the log would have them."""
        served = as_served(values.combine_chunks(), kind)
        return as_hashed(served, self.key) if self.key and name in self.settings.hashed else served

    def as_logged_table(self, table: pa.Table, types: Mapping[str, str]) -> pa.Table:
        """The same of several features."""
        return pa.table({name: self.as_logged(table[name], name, kind) for name, kind in types.items()})

    def served(self, names: Sequence[str] | Mapping[str, str]) -> pa.Table:
        """Several columns as they were logged."""
        return pa.table({name: self.column(name) for name in names})

    def _why_not_hashed(self, name: str) -> str:
        hashed = name in self.settings.hashed and not self.key
        return f"{name!r} is hashed in the prediction log, and the secret is not known here" if hashed else ""


def _micros(instants: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.cast(instants, pa.timestamp("us", "UTC")), pa.int64())


def _instants(table: pa.Table, name: str) -> Ints:
    return np.asarray(pc.fill_null(table[name], NOTHING).to_numpy(), np.int64)


class _Stored:
    """Recomputes views with stored values."""

    def __init__(
        self, store: FeastStore, plan: Mapping[str, Any], logged: _Logged, db: duckdb.DuckDBPyConnection
    ) -> None:
        self.feast, self.logged, self.db = store.feast, logged, db
        self.resolution = _RESOLUTION.get(plan["store"]["type"], 1)
        self.asked = _micros(logged.table[EVENT_TIMESTAMP])

    def rows(self, group: Mapping[str, Any], view: Mapping[str, Any]) -> Iterator[StoredRows]:
        """A view of a plan; none if nothing of it can be compared."""
        logged, name = self.logged, view["name"]
        keys = {key["join_key"]: key["column"] for key in group["keys"] if key["column"]}
        unread = (f"its entity's key {why}" for why in map(logged.why_unreadable, keys.values()) if why)
        untimed = "" if time_column(name) in logged.table.column_names else f"the predictions tell no time of {name!r}"
        types = logged.comparable(view["features"], next(unread, untimed))
        if not types:
            return
        declared = self.feast.registry.get_any_feature_view(name, self.feast.project)
        joined = view_of(declared, keys, {feature: feature for feature in types}, self.feast.config, self.db)
        self._prepare(joined, name)
        known, versions = self.db.sql(_known_sql(joined)), self.db.sql(_versions_sql(joined, self.resolution))
        since = self.db.sql(_since_sql(joined, self.resolution)).to_arrow_table()
        yield self._stored(name, joined.ttl, types, known.to_arrow_table(), versions.to_arrow_table(), since)

    def _prepare(self, view: View, name: str) -> None:
        """Make the tables that the queries read: `asked`, `offered` and `best`."""
        keys = {column: self.logged.column(column) for column in view.entity_keys}
        found = _micros(self.logged.table[time_column(name)])
        numbers = pa.array(np.arange(len(found)))
        self.db.register("entities", pa.table({"_row": numbers, "_asked": self.asked, "_found": found, **keys}))
        for table, sql in _tables_sql(view, self.resolution).items():
            self.db.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {sql}")

    def _stored(
        self,
        name: str,
        ttl: timedelta | None,
        types: Mapping[str, str],
        known: pa.Table,
        versions: pa.Table,
        since: pa.Table,
    ) -> StoredRows:
        return StoredRows(
            view=name,
            ttl=ttl,
            asked=_instants(known, "_asked"),
            found=_instants(known, "_found"),
            best=_instants(known, "_best"),
            since=_instants(since, "_since"),
            served=self.logged.served(types),
            recomputed=self.logged.as_logged_table(known, types),
            versions=Versions(
                row=_instants(versions, "_row"),
                event=_instants(versions, "_event"),
                known=_instants(versions, "_known"),
                features=self.logged.as_logged_table(versions, types),
            ),
        )


def _tables_sql(view: View, resolution: int) -> dict[str, str]:
    """SQL of the tables that the queries read, in their order.

    Materialization replaces a row that is no more by one of 1970 without values. That is nothing found, unless the
    source has a row of then.
    """
    then = f"SELECT 1 FROM offered o WHERE o._code = a._code AND o._event // {resolution} = 0"
    found = f"CASE WHEN e._found = 0 AND NOT EXISTS ({then}) THEN NULL ELSE e._found END"
    return {
        "codes": codes_sql(view),
        "offered": rows_sql(view),
        "asked": f"SELECT a.*, {found} AS _found FROM ({asked_sql(view)}) a JOIN entities e ON a._row = e._row",
        "best": best_known("SELECT * FROM offered", view.source.order),
    }


def _known_sql(view: View) -> str:
    """SQL of what was known best when asked: its event time, and the features."""
    return f"{join_sql(view, 'asked', 'best', 'e._asked, e._found, v._event AS _best, ')} ORDER BY e._row"


def _versions_sql(view: View, resolution: int) -> str:
    """SQL of all rows, known when asked, of the key and event time that was found."""
    order = ", ".join(["a._row", *(f"o.{column}" for column in ["_event", "_created", *view.source.order])])
    return (
        f"SELECT {listed(f'o.{quoted(column)} AS {quoted(name)}' for column, name in view.features.items())}"
        f"a._row, o._event, o._known FROM asked a JOIN offered o ON a._code = o._code "
        f"AND a._found // {resolution} = o._event // {resolution} AND o._known <= a._asked ORDER BY {order}"
    )


def _since_sql(view: View, resolution: int) -> str:
    """SQL of when a better row than the one found was first known; if none was found, when there was one again."""
    gone = "_before IS NULL" if view.ttl is None else f"_before IS NULL OR _before + {in_micros(view.ttl)} < _known"
    before = "SELECT *, lag(_event) OVER (PARTITION BY _code ORDER BY _known) AS _before FROM best"
    return (
        f"SELECT CASE WHEN e._found IS NULL THEN s._known ELSE n._known END AS _since FROM asked e "
        f"ASOF LEFT JOIN best n ON e._code = n._code AND e._found + {resolution - 1} < n._event "
        f"ASOF LEFT JOIN (SELECT * FROM ({before}) WHERE {gone}) s ON e._code = s._code AND e._asked >= s._known "
        "ORDER BY e._row"
    )


# -- on demand ---------------------------------------------------------------------------------------------------------


def _computed(
    store: FeastStore, view: Mapping[str, Any], logged: _Logged, stored: Sequence[StoredRows]
) -> Iterator[ComputedRows]:
    """An on-demand view of a plan; none if nothing of it can be compared."""
    unread = (f"it is computed from what {why}" for why in map(logged.why_unreadable, view["inputs"]) if why)
    types = logged.comparable(view["outputs"], next(unread, ""))
    if not types:
        return
    declared = store.feast.get_on_demand_feature_view(view["name"])
    projections = declared.source_feature_view_projections.values()
    sources = {projection.name: [feature.name for feature in projection.features] for projection in projections}
    served = logged.served(view["inputs"])
    known = {
        name: rows.recomputed[name] for rows in stored if rows.view in sources for name in rows.served.schema.names
    }
    inputs = pa.table({name: known.get(name, served[name]) for name in view["inputs"]})
    repeated, recomputed = (
        logged.as_logged_table(declared.transform_arrow(given), types) for given in (served, inputs)
    )
    yield ComputedRows(view["name"], sources, logged.served(types), repeated, recomputed)
