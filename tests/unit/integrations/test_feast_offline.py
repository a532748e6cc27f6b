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
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    RequestSource,
)
from feast.data_source import PushMode
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = datetime(2013, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
Store = Callable[..., FeatureStore]

ASOF = {"type": "evergrow.integrations.feast_offline.AsofOfflineStore", "memory_limit": "500MB", "threads": 1}


@pytest.fixture(scope="session")
def feature_store() -> Callable[..., FeatureStore]:
    """Makes a feature store in a folder, with the definitions applied to it."""

    def make(folder: Path, definitions: list[object], offline: dict[str, object] = ASOF) -> FeatureStore:
        config = RepoConfig(
            project="test",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=offline,
            materialization={"pull_latest_features": True},
            entity_key_serialization_version=3,
        )
        config.repo_path = folder
        store = FeatureStore(config=config)
        store.apply(definitions)
        return store

    return make


def rows(path: Path, **columns: object) -> Path:
    """Write a parquet file; timestamps may be text."""
    frame = pd.DataFrame(columns)
    for name in ("event_timestamp", "created_timestamp"):
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    frame.to_parquet(path, index=False)
    return path


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes rows, given as columns, to a parquet file."""
    return rows


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
instants = st.integers(0, 6).map(lambda n: START + n * HOUR)
late = st.sampled_from([0, 0, 1, 2, 4, -2, None])


@st.composite
def feature_row(draw: st.DrawFn, name: str) -> dict[str, Any]:
    event, delay = draw(instants), draw(late)
    return {
        "carrier": draw(st.sampled_from(["AA", "AA", "AA", "AA", "UA", None])),
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
        "carrier": draw(st.sampled_from(["AA", "AA", "AA", "UA", None, "never seen"])),
        "number": draw(st.integers(1, 3)),
        "event_timestamp": draw(instants)
        + 2 * HOUR
        + draw(st.sampled_from([timedelta(0), timedelta(microseconds=-1)])),
    }


# Mostly full tables; an empty one now and then.
tables_of = st.fixed_dictionaries(
    {name: st.just([]) | st.lists(feature_row(name), min_size=6, max_size=14) for name in COLUMNS}
)


@pytest.fixture(scope="module")
def three_views(tmp_path_factory: pytest.TempPathFactory, feature_store: Store) -> FeatureStore:
    folder = tmp_path_factory.mktemp("three_views")
    write(folder, {name: [] for name in COLUMNS})
    return feature_store(folder, definitions(folder))


def records(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    return table.select(columns).to_pylist()


@given(tables=tables_of, entities=st.lists(entity_row(), min_size=4, max_size=12), zone=zones)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
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
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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


def at(*hours: float) -> list[datetime]:
    return [START + hour * HOUR for hour in hours]


def delays_of(folder: Path, write_rows: Any, **columns: Any) -> None:
    """The `delays` table; the others stay empty."""
    write(folder, {name: [] for name in COLUMNS})
    write_rows(folder / "delays.parquet", **columns)


@pytest.fixture
def one_view(tmp_path: Path, feature_store: Store, write_rows: Any) -> FeatureStore:
    """Carrier AA was 1 at 0:00 and 2 at 1:00, the latter known at 5:00 only."""
    delays_of(
        tmp_path,
        write_rows,
        carrier=["AA", "AA"],
        event_timestamp=at(0, 1),
        created_timestamp=at(0, 5),
        delay=[1.0, 2.0],
        note=["a", "b"],
    )
    return feature_store(tmp_path, definitions(tmp_path))


def asked(*hours: float, carrier: str = "AA") -> pd.DataFrame:
    return pd.DataFrame({"carrier": carrier, "number": 1, "event_timestamp": at(*hours)})


def delays(store: FeatureStore, frame: Any, **options: Any) -> list[Any]:
    job = store.get_historical_features(entity_df=frame, features=["delays:delay"], **options)
    return job.to_arrow().column("delay").to_pylist()


def test_a_value_created_after_the_prediction_is_not_joined_and_an_older_one_is(one_view: FeatureStore) -> None:
    assert delays(one_view, asked(-1, 0, 4.99, 5)) == [None, 1.0, 1.0, 2.0]


def test_of_rows_equal_in_every_timestamp_the_last_one_written_wins(
    tmp_path: Path, feature_store: Store, write_rows: Any
) -> None:
    delays_of(
        tmp_path, write_rows, carrier=["AA"] * 3, event_timestamp=at(0, 0, 0), created_timestamp=at(0, 0, 0),
        delay=[1.0, 3.0, 2.0], note=["", "", ""],
    )  # fmt: skip
    assert delays(feature_store(tmp_path, definitions(tmp_path)), asked(1)) == [2.0]


def test_a_value_expires_the_microsecond_after_its_ttl(tmp_path: Path, feature_store: Store, write_rows: Any) -> None:
    write(tmp_path, {name: [] for name in COLUMNS})
    write_rows(tmp_path / "fresh.parquet", carrier=["AA"], event_timestamp=at(0), created_timestamp=at(0), load=[7])
    store = feature_store(tmp_path, definitions(tmp_path))
    frame = asked(3, 3)
    frame.loc[1, "event_timestamp"] += pd.Timedelta(microseconds=1)
    job = store.get_historical_features(entity_df=frame, features=["fresh:load"])
    assert job.to_arrow().column("load").to_pylist() == [7, None]


def test_naive_timestamps_are_utc(one_view: FeatureStore) -> None:
    frame = asked(4, 5)
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize(None)
    assert delays(one_view, frame) == [1.0, 2.0]


def test_duplicate_rows_are_kept_in_place(one_view: FeatureStore) -> None:
    assert delays(one_view, asked(5, 0, 5, 0, 5)) == [2.0, 1.0, 2.0, 1.0, 2.0]


def test_a_missing_timestamp_or_key_leaves_features_null_and_keeps_the_row(one_view: FeatureStore) -> None:
    frame = asked(5, 5, 5)
    frame.loc[0, "event_timestamp"] = pd.NaT
    frame.loc[1, "carrier"] = None
    assert delays(one_view, frame) == [None, None, 2.0]
    assert delays(one_view, frame.assign(carrier=None)) == [None, None, None]


def test_other_columns_come_back_as_they_were_given(one_view: FeatureStore) -> None:
    frame = asked(5, 0).assign(
        label=[1, 0], text=["ä", None], kind=pd.Categorical(["x", "y"]), precise=pd.to_datetime([1, 2], unit="ns")
    )
    joined = one_view.get_historical_features(entity_df=frame, features=["delays:delay"]).to_df()
    pd.testing.assert_frame_equal(joined[["label", "text", "kind"]], frame[["label", "text", "kind"]])
    assert joined["precise"].dt.nanosecond.tolist() == [1, 2]


def test_full_feature_names_carry_the_view(one_view: FeatureStore) -> None:
    job = one_view.get_historical_features(entity_df=asked(5), features=REFERENCES, full_feature_names=True)
    names = ["delays__delay", "delays__note", "fresh__load", "flights__seats"]
    assert job.to_arrow().column_names[3:] == names


def test_a_view_joined_twice_under_other_names_gives_each_its_own(one_view: FeatureStore) -> None:
    view = one_view.get_feature_view("delays")
    first = view.with_name("first").with_join_key_map({"carrier": "carrier_1"})[["delay"]]
    second = view.with_name("second").with_join_key_map({"carrier": "carrier_2"})[["delay"]]
    service = FeatureService(name="twice", features=[first, second])
    one_view.apply([service])
    frame = pd.DataFrame({"carrier_1": ["AA", "UA"], "carrier_2": ["UA", "AA"], "event_timestamp": at(5, 5)})
    job = one_view.get_historical_features(entity_df=frame, features=service, full_feature_names=True)
    joined = job.to_df()
    assert joined["first__delay"].fillna(0).tolist() == [2.0, 0.0]
    assert joined["second__delay"].fillna(0).tolist() == [0.0, 2.0]


def test_columns_mapped_to_other_names_are_found(tmp_path: Path, feature_store: Store, write_rows: Any) -> None:
    write_rows(tmp_path / "mapped.parquet", code=["AA"], event_timestamp=at(0), created_timestamp=at(0), d=[4.0])
    view = FeatureView(
        name="mapped",
        entities=[carrier],
        schema=[Field(name="delay", dtype=Float64)],
        source=source(tmp_path, "mapped", field_mapping={"d": "delay", "code": "carrier"}),
    )
    store = feature_store(tmp_path, [carrier, view])
    job = store.get_historical_features(entity_df=asked(1), features=["mapped:delay"])
    assert job.to_arrow().column("delay").to_pylist() == [4.0]


def test_a_view_without_entities_is_joined_by_time_alone(tmp_path: Path, feature_store: Store, write_rows: Any) -> None:
    write_rows(tmp_path / "fuel.parquet", event_timestamp=at(0, 2), created_timestamp=at(0, 3), price=[1.0, 2.0])
    view = FeatureView(
        name="fuel", entities=[], schema=[Field(name="price", dtype=Float64)], source=source(tmp_path, "fuel")
    )
    store = feature_store(tmp_path, [view])
    frame = pd.DataFrame({"event_timestamp": at(-1, 1, 2, 3)})
    job = store.get_historical_features(entity_df=frame, features=["fuel:price"])
    assert job.to_arrow().column("price").to_pylist() == [None, 1.0, 1.0, 2.0]


def test_a_directory_of_files_is_one_table(tmp_path: Path, feature_store: Store, write_rows: Any) -> None:
    (tmp_path / "parts.parquet").mkdir()
    for part, (hour, value) in enumerate([(0, 1.0), (2, 2.0), (2, 3.0)]):
        write_rows(
            tmp_path / f"parts.parquet/part-{part}.parquet",
            carrier=["AA"], event_timestamp=at(hour), created_timestamp=at(hour), delay=[value],
        )  # fmt: skip
    view = FeatureView(
        name="parts",
        entities=[carrier],
        schema=[Field(name="delay", dtype=Float64)],
        source=source(tmp_path, "parts"),
    )
    store = feature_store(tmp_path, [carrier, view])
    job = store.get_historical_features(entity_df=asked(1, 3), features=["parts:delay"])
    assert job.to_arrow().column("delay").to_pylist() == [1.0, 3.0]


def test_entity_rows_may_come_from_a_query(one_view: FeatureStore) -> None:
    times = f"TIMESTAMP '{START:%Y-%m-%d}' + h * INTERVAL 1 HOUR"
    query = f"SELECT 'AA' AS carrier, {times} AS event_timestamp FROM range(6) t(h)"
    assert delays(one_view, query) == [1.0] * 5 + [2.0]


def test_persisted_and_direct_results_are_equal_for_frames_and_queries(one_view: FeatureStore) -> None:
    folder = one_view.config.repo_path
    frame = asked(*(hour / 7 for hour in range(60)))
    frame.to_parquet(folder / "asked.parquet")
    for entities in (frame, f"SELECT * FROM read_parquet('{folder}/asked.parquet')"):
        job = one_view.get_historical_features(entity_df=entities, features=REFERENCES)
        job.persist(SavedDatasetFileStorage("saved.parquet"), allow_overwrite=True)
        saved, direct = pq.read_table(folder / "saved.parquet"), job.to_arrow()
        columns = ["carrier", "event_timestamp", "delay", "note", "load", "seats"]
        assert records(saved, columns) == records(direct, columns)
        assert saved.num_rows == 60


def test_persisting_over_a_file_is_refused_unless_allowed(one_view: FeatureStore) -> None:
    job = one_view.get_historical_features(entity_df=asked(5), features=REFERENCES)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetFileStorage("delays.parquet"))


def test_a_saved_dataset_comes_back(one_view: FeatureStore) -> None:
    job = one_view.get_historical_features(entity_df=asked(4, 5), features=["delays:delay"])
    one_view.create_saved_dataset(job, "saved", SavedDatasetFileStorage("dataset.parquet"))
    found = one_view.get_saved_dataset("saved").to_df()
    assert found.sort_values("event_timestamp")["delay"].tolist() == [1.0, 2.0]


def test_on_demand_features_are_computed_from_joined_and_request_time_values(one_view: FeatureStore) -> None:
    request = RequestSource(name="request", schema=[Field(name="minutes", dtype=Float64)])

    @on_demand_feature_view(
        sources=[request, one_view.get_feature_view("delays")],
        schema=[Field(name="total", dtype=Float64)],
        mode="python",
    )
    def totals(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = zip(inputs["minutes"], inputs["delay"], strict=True)
        return {"total": [None if delay is None else minutes + delay for minutes, delay in pairs]}

    one_view.apply([request, totals])
    for full, name in ((False, "total"), (True, "totals__total")):
        frame = asked(-1, 5).assign(minutes=10.0)
        job = one_view.get_historical_features(entity_df=frame, features=["totals:total"], full_feature_names=full)
        assert job.to_arrow().column(name).to_pylist() == [None, 12.0]
        job.persist(SavedDatasetFileStorage(f"{name}.parquet"))
        assert pq.read_table(one_view.config.repo_path / f"{name}.parquet").column(name).to_pylist() == [None, 12.0]


def test_pushed_rows_are_joined_and_a_push_of_other_columns_is_refused(one_view: FeatureStore) -> None:
    push = PushSource(name="push", batch_source=one_view.get_feature_view("delays").batch_source)
    pushed = FeatureView(
        name="delays",
        entities=[carrier],
        ttl=timedelta(0),
        schema=[Field(name="delay", dtype=Float64), Field(name="note", dtype=String)],
        source=push,
    )
    one_view.apply([push, pushed])
    row = {"carrier": "AA", "event_timestamp": at(6)[0], "created_timestamp": at(6)[0], "delay": 9.0, "note": "p"}
    one_view.push("push", pd.DataFrame([row]), to=PushMode.OFFLINE)
    assert delays(one_view, asked(5, 6)) == [2.0, 9.0]
    before = pq.read_table(one_view.config.repo_path / "delays.parquet")
    table = pa.Table.from_pylist([{"carrier": "AA", "speed": 1}])
    with pytest.raises(ValueError, match="speed"):
        one_view._get_provider().offline_write_batch(one_view.config, pushed, table, None)
    assert pq.read_table(one_view.config.repo_path / "delays.parquet") == before


def test_all_rows_of_a_time_range_can_be_pulled(one_view: FeatureStore) -> None:
    job = one_view._get_provider().offline_store.pull_all_from_table_or_query(
        config=one_view.config,
        data_source=one_view.get_feature_view("delays").batch_source,
        join_key_columns=["carrier"],
        feature_name_columns=["delay"],
        timestamp_field="event_timestamp",
        start_date=at(0.5)[0],
        end_date=at(1)[0],
    )
    assert job.to_df()["delay"].tolist() == [2.0]


def test_plain_feast_materializes_what_was_known_then(one_view: FeatureStore) -> None:
    for hour, value in ((4, 1.0), (5, 2.0)):
        one_view.materialize(START - HOUR, at(hour)[0], feature_views=["delays"])
        online = one_view.get_online_features(["delays:delay"], [{"carrier": "AA"}]).to_dict()
        assert online["delay"] == [value]


def test_what_cannot_be_done_is_refused_with_the_reason(one_view: FeatureStore) -> None:
    with pytest.raises(ValueError, match="entity_df"):
        one_view.get_historical_features(features=REFERENCES, start_date=START, end_date=START)
    with pytest.raises(KeyError, match=r"'carrier'.*'delays'"):
        delays(one_view, asked(5).drop(columns="carrier"))
    (one_view.config.repo_path / "delays.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"delays\.parquet"):
        delays(one_view, asked(5))


def test_nothing_is_read_before_the_result_is_asked_for(one_view: FeatureStore) -> None:
    job = one_view.get_historical_features(entity_df=asked(5), features=["delays:delay"])
    delays_file = one_view.config.repo_path / "delays.parquet"
    table = pq.read_table(delays_file)
    later = table.set_column(table.column_names.index("delay"), "delay", pa.array([1.0, 99.0]))
    pq.write_table(later, delays_file)
    assert job.to_arrow().column("delay").to_pylist() == [99.0]


def test_a_join_larger_than_its_memory_spills_and_leaves_nothing_behind(
    tmp_path: Path, feature_store: Store, write_rows: Any
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    offline = {
        "type": "evergrow.integrations.feast_offline.AsofOfflineStore",
        "memory_limit": "80MB",
        "threads": 1,
        "temp_directory": str(spill),
    }
    write(tmp_path, {name: [] for name in COLUMNS})
    rows = 400_000
    write_rows(
        tmp_path / "delays.parquet",
        carrier=["AA", "UA"] * (rows // 2),
        event_timestamp=pd.date_range(START, periods=rows, freq="s"),
        created_timestamp=pd.date_range(START, periods=rows, freq="s"),
        delay=[float(i) for i in range(rows)],
        note=["a text that takes room"] * rows,
    )
    store = feature_store(tmp_path, definitions(tmp_path), offline)
    times = pd.date_range(START, periods=rows, freq="s")
    frame = pd.DataFrame({"carrier": "AA", "event_timestamp": times})
    job = store.get_historical_features(entity_df=frame, features=["delays:delay", "delays:note"])
    assert job.to_arrow().column("delay").to_pylist() == [float(i - i % 2) for i in range(rows)]
    assert list(spill.iterdir()) == []


# -- Feast's own DuckDB store: the same where it is right, and where it is wrong, so it is said ------------------------

FEAST = {"type": "duckdb"}


def absolute(folder: Path) -> list[object]:
    """The same definitions with absolute paths, which Feast's store needs."""
    made = definitions(folder)
    for view in made:
        if isinstance(view, FeatureView):
            view.batch_source.file_options.uri = str(folder / view.batch_source.path)
    return made


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, feature_store: Store) -> tuple[FeatureStore, FeatureStore]:
    """Our store and Feast's over the same files."""
    folder = tmp_path_factory.mktemp("both")
    write(folder, {name: [] for name in COLUMNS})
    ours = feature_store(folder, absolute(folder))
    (folder / "feast").mkdir()
    theirs = feature_store(folder / "feast", absolute(folder), FEAST)
    return ours, theirs


@given(tables=tables_of, entities=st.lists(entity_row(), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_values_known_at_their_event_are_joined_as_feast_does(both: Any, tables: Any, entities: Any) -> None:
    ours, theirs = both
    for name, rows in tables.items():
        # Feast picks any of several rows with equal timestamps.
        unique = {(row["carrier"], row["number"] * (name == "flights"), row["event_timestamp"]): row for row in rows}
        tables[name] = [row | {"created_timestamp": row["event_timestamp"]} for row in unique.values()]
    write(ours.config.repo_path, tables)
    frame = pd.DataFrame({"row": range(len(entities))}).join(pd.DataFrame(entities)).astype({"carrier": object})
    columns = ["row", "delay", "note", "load", "seats"]
    answers = []
    for store in (ours, theirs):
        joined = store.get_historical_features(entity_df=frame, features=REFERENCES).to_df()
        joined = joined.sort_values("row").reset_index(drop=True)[columns].astype(object)
        answers.append(joined.where(joined.notna(), None))
    pd.testing.assert_frame_equal(answers[0], answers[1], check_dtype=False)


def test_feast_joins_a_value_that_was_not_known_yet_and_we_do_not(both: Any) -> None:
    ours, theirs = both
    row = {"carrier": "AA", "delay": 1.0, "note": "", "event_timestamp": START, "created_timestamp": START}
    late = row | {"delay": 2.0, "event_timestamp": START + HOUR, "created_timestamp": START + 5 * HOUR}
    tables = {"delays": [row, late], "fresh": [], "flights": []}
    write(ours.config.repo_path, tables)
    frame = asked(2)
    oracle = expected(tables, frame.iloc[0].to_dict())["delay"]
    assert delays(ours, frame) == [oracle] == [1.0]
    assert delays(theirs, frame) == [2.0]


def test_feast_changes_the_order_of_rows_and_we_do_not(both: Any) -> None:
    ours, theirs = both
    count = 3000
    write(ours.config.repo_path, {name: [] for name in COLUMNS})
    frame = asked(*range(count)).sample(frac=1, random_state=1).assign(place=range(count))
    order = {}
    for name, store in (("ours", ours), ("theirs", theirs)):
        order[name] = store.get_historical_features(entity_df=frame, features=REFERENCES).to_df()["place"].tolist()
    assert order["ours"] == list(range(count))
    assert sorted(order["theirs"]) == list(range(count))


def test_feasts_file_store_loses_duplicate_rows_and_we_do_not(tmp_path: Path, feature_store: Store) -> None:
    write(tmp_path, {name: [] for name in COLUMNS})
    row = {"carrier": "AA", "delay": 1.0, "note": "", "event_timestamp": START, "created_timestamp": START}
    write(tmp_path, {"delays": [row]})
    frame = asked(1, 1, 2)
    assert delays(feature_store(tmp_path, absolute(tmp_path)), frame) == [1.0, 1.0, 1.0]
    (tmp_path / "feast").mkdir()
    theirs = feature_store(tmp_path / "feast", absolute(tmp_path), {"type": "file"})
    assert delays(theirs, frame) == [1.0, 1.0]
