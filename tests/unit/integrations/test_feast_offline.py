"""The offline store against an oracle that compares every entity row with every feature row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = datetime(2013, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
Store = Callable[..., FeatureStore]

carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)


def source(folder: Path, name: str, created: bool = True, **options: Any) -> FileSource:
    return FileSource(
        name=name,
        path=f"{name}.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp" if created else "",
        **options,
    )


def definitions(folder: Path) -> list[object]:
    delays = FeatureView(
        name="delays",
        entities=[carrier],
        ttl=timedelta(0),
        schema=[Field(name="delay", dtype=Float64), Field(name="note", dtype=String)],
        source=source(folder, "delays"),
    )
    fresh = FeatureView(
        name="fresh",
        entities=[carrier],
        ttl=3 * HOUR,
        schema=[Field(name="load", dtype=Int64)],
        source=source(folder, "fresh"),
    )
    flights = FeatureView(
        name="flights",
        entities=[carrier, number],
        ttl=2 * HOUR,
        schema=[Field(name="seats", dtype=Int64)],
        source=source(folder, "flights", created=False),
    )
    return [carrier, number, delays, fresh, flights]


REFERENCES = ["delays:delay", "delays:note", "fresh:load", "flights:seats"]


def best(rows: list[dict[str, Any]], keys: dict[str, Any], asked: datetime, ttl: timedelta | None) -> dict[str, Any]:
    """What was known best at `asked`, by looking at every row: the oracle."""
    winner: dict[str, Any] = {}
    for row in rows:
        if any(key is None or row[name] != key for name, key in keys.items()):
            continue
        created = row.get("created_timestamp") or row["event_timestamp"]
        if row["event_timestamp"] > asked or created > asked:
            continue
        rank = (row["event_timestamp"], created)
        if not winner or rank >= winner["rank"]:
            winner = row | {"rank": rank}
    if winner and ttl and winner["event_timestamp"] + ttl < asked:
        return {}
    return winner


def expected(tables: dict[str, list[dict[str, Any]]], entity: dict[str, Any]) -> dict[str, Any]:
    asked = entity["event_timestamp"]
    by_carrier = {"carrier": entity["carrier"]}
    delays = best(tables["delays"], by_carrier, asked, None)
    fresh = best(tables["fresh"], by_carrier, asked, 3 * HOUR)
    flights = best(tables["flights"], by_carrier | {"number": entity["number"]}, asked, 2 * HOUR)
    return {
        "delay": delays.get("delay"),
        "note": delays.get("note"),
        "load": fresh.get("load"),
        "seats": flights.get("seats"),
    }


TYPES = pa.schema(
    {
        "carrier": pa.string(),
        "number": pa.int64(),
        "event_timestamp": pa.timestamp("us", "UTC"),
        "created_timestamp": pa.timestamp("us", "UTC"),
        "delay": pa.float64(),
        "note": pa.string(),
        "load": pa.int64(),
        "seats": pa.int64(),
    }
)
COLUMNS = {
    "delays": ["carrier", "event_timestamp", "created_timestamp", "delay", "note"],
    "fresh": ["carrier", "event_timestamp", "created_timestamp", "load"],
    "flights": ["carrier", "number", "event_timestamp", "seats"],
}


def write(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in tables.items():
        schema = pa.schema([TYPES.field(column) for column in COLUMNS[name]])
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet")


# Few keys and instants, so that ties, late rows and expiry are common.
instants = st.integers(0, 8).map(lambda n: START + n * HOUR)
carriers = st.sampled_from(["AA", "UA"])
late = st.one_of(st.none(), st.integers(-2, 5))


@st.composite
def feature_row(draw: st.DrawFn, name: str) -> dict[str, Any]:
    event, delay = draw(instants), draw(late)
    return {
        "carrier": draw(st.one_of(st.none(), carriers)),
        "number": draw(st.integers(1, 2)),
        "event_timestamp": event,
        "created_timestamp": None if delay is None or name == "flights" else event + delay * HOUR,
        "delay": draw(st.one_of(st.none(), st.floats(-5, 5))),
        "note": draw(st.one_of(st.none(), st.sampled_from(["on time", "", "ë'\""]))),
        "load": draw(st.one_of(st.none(), st.integers(0, 9))),
        "seats": draw(st.integers(0, 9)),
    }


zones = st.sampled_from([UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata"), timezone(-HOUR)])


@st.composite
def entity_row(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "carrier": draw(st.one_of(st.none(), carriers, st.just("never seen"))),
        "number": draw(st.integers(1, 3)),
        "event_timestamp": draw(instants) + draw(st.sampled_from([timedelta(0), timedelta(microseconds=-1)])),
    }


tables_of = st.fixed_dictionaries({name: st.lists(feature_row(name), max_size=12) for name in COLUMNS})


@pytest.fixture(scope="module")
def three_views(tmp_path_factory: pytest.TempPathFactory, feature_store: Store) -> FeatureStore:
    folder = tmp_path_factory.mktemp("three_views")
    write(folder, {name: [] for name in COLUMNS})
    return feature_store(folder, definitions(folder))


def records(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    return table.select(columns).to_pylist()


@given(tables=tables_of, entities=st.lists(entity_row(), min_size=1, max_size=12), zone=zones)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_row_gets_what_was_known_best_when_it_was_asked(
    three_views: FeatureStore, tables: Any, entities: Any, zone: Any
) -> None:
    write(three_views.config.repo_path, tables)
    frame = pd.DataFrame(entities)
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert(zone)
    frame["place"] = range(len(frame))

    job = three_views.get_historical_features(entity_df=frame, features=REFERENCES)
    joined = job.to_arrow()

    assert joined.column("place").to_pylist() == list(range(len(frame)))
    assert records(joined, ["delay", "note", "load", "seats"]) == [expected(tables, e) for e in entities]


@given(tables=tables_of, asked=instants)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_latest_values_are_those_known_at_the_end(three_views: FeatureStore, tables: Any, asked: datetime) -> None:
    write(three_views.config.repo_path, tables)
    provider = three_views._get_provider()
    job = provider.offline_store.pull_latest_from_table_or_query(
        config=three_views.config,
        data_source=three_views.get_feature_view("delays").batch_source,
        join_key_columns=["carrier"],
        feature_name_columns=["delay", "note"],
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        start_date=START - HOUR,
        end_date=asked,
    )
    found = {row["carrier"]: (row["delay"], row["note"]) for row in job.to_arrow().to_pylist() if row["carrier"]}
    wanted = {key: best(tables["delays"], {"carrier": key}, asked, None) for key in ("AA", "UA")}
    assert found == {key: (row["delay"], row["note"]) for key, row in wanted.items() if row}
