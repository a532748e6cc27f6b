"""A segment's rows: flat, typed, and readable as they lie by DuckDB, pandas and Feast."""

import io
from datetime import UTC, datetime

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from evergrow.prediction_log.records import RESERVED, Asked, Column, header_line, parse, record_line
from evergrow.prediction_log.tables import FIXED, parquet
from tests.unit.prediction_log.conftest import DAY, header, record


def written(*records, columns=None):
    about = header() if columns is None else header(columns=columns)
    return parse(header_line(about) + b"".join(record_line(*r) for r in records))


@pytest.fixture
def lying(tmp_path):
    """Two segments of two days, as they lie in the store."""
    for number, seconds in ((1, 0.0), (2, 86_400.0)):
        about = header(number=number, day=datetime.fromtimestamp(DAY.timestamp() + seconds, UTC).date())
        lines = [record_line(*record(f"{number}-{n}", rows=2, seconds=seconds + n)) for n in range(3)]
        segment = parse(header_line(about) + b"".join(lines))
        path = tmp_path / about.name
        path.parent.mkdir(parents=True)
        path.write_bytes(parquet(segment))
    return tmp_path


def test_a_row_has_what_was_asked_known_and_answered():
    table = pq.read_table(io.BytesIO(parquet(written(record("a", rows=2)))))
    assert table.num_rows == 2
    assert table.to_pylist()[1] == {
        "prediction_id": "w-00000001-0-1",
        "event_timestamp": DAY,
        "created_timestamp": datetime(2013, 10, 1, 0, 0, 0, 500_000, tzinfo=UTC),
        "request_id": "a",
        "protocol": "v1",
        "route": "champion",
        "propensity": 0.9,
        "latency_ms": 0.4,
        "model": "delays",
        "version": 3,
        "score": 0.25,
        "flags": ["stale:weather"],
        "tailnum": "Na",
        "seats": 2,
        "wind": 0.1,
        "heavy": True,
        "due": datetime(2013, 10, 1, 9, 30, tzinfo=UTC),
        "planes__event_timestamp": datetime(2013, 9, 30, 23, 59, tzinfo=UTC),
        "weather__event_timestamp": None,
    }
    assert table.schema.metadata[b"evergrow.format"] == b"1"


def test_what_is_reserved_is_what_every_prediction_has():
    assert frozenset(FIXED) == RESERVED


def test_columns_without_any_value_have_their_type_all_the_same():
    empty = record()._replace(values=[[None] * 5], asked=Asked("r", "v1"))
    one, other = (pq.read_table(io.BytesIO(parquet(written(r)))) for r in (empty, record()))
    assert one.schema == other.schema


def test_a_type_that_parquet_lacks_is_kept_as_text():
    table = pq.read_table(io.BytesIO(parquet(written(
        record()._replace(values=[[[1, 2]]]), columns=(Column(name="odd", type="INT64_LIST"),)
    ))))  # fmt: skip
    assert table["odd"].to_pylist() == ["[1, 2]"]


def test_the_same_segment_gives_the_same_bytes():
    assert parquet(written(record())) == parquet(written(record()))


def test_duckdb_reads_the_days_as_they_lie(lying):
    found = duckdb.sql(f"""
        select day, count(*) as rows, count(distinct prediction_id) as ids
        from read_parquet('{lying}/**/*.parquet', hive_partitioning = true)
        where model = 'delays' group by day order by day
    """).fetchall()
    assert [(str(day), rows, ids) for day, rows, ids in found] == [("2013-10-01", 6, 6), ("2013-10-02", 6, 6)]


def test_pandas_reads_the_days_as_they_lie(lying):
    found = pd.read_parquet(lying / "delays")
    assert len(found) == 12
    assert found["event_timestamp"].dt.tz is not None


def test_feast_joins_it_as_it_lies(lying, tmp_path):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    config = RepoConfig(
        project="log",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)
    source = FileSource(
        path=str(lying / "delays"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    view = FeatureView(name="log", entities=[plane], schema=[Field(name="score", dtype=Float64)], source=source)
    store.apply([plane, view])
    asked = pd.DataFrame({"tailnum": ["N1-0", "N?"], "event_timestamp": [pd.Timestamp("2013-10-03", tz="UTC")] * 2})
    found = store.get_historical_features(asked, ["log:score"]).to_df().set_index("tailnum")["score"]
    assert found["N1-0"] == 0.25
    assert pd.isna(found["N?"])
