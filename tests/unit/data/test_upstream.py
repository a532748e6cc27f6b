"""What an increment is compared with: what was stored before, and the other tables of its source."""

from datetime import timedelta

import pandas as pd
import pandera.pandas as pa
import pytest

from evergrow.data.ingest import ingest
from evergrow.data.lake import Lake, rows_digest
from evergrow.data.schema import Table
from evergrow.errors import UpstreamError

START, HOUR = pd.Timestamp("2024-01-01", tz="UTC").as_unit("us"), timedelta(hours=1)
UTC_US = "datetime64[us, UTC]"


def at(hours):
    return (START + hours * HOUR).to_pydatetime()


def counts():
    """Readings of three sensors an hour, known an hour later."""
    hours = pd.date_range(START, periods=400, freq="h", unit="us")
    rows = pd.MultiIndex.from_product([hours, ["east", "north", "west"]], names=["hour", "sensor"]).to_frame(
        index=False
    )
    return rows.assign(count=[10.0 + i % 7 for i in range(len(rows))], known_at=rows.hour + HOUR)


def table(name="counts", *, strict=True):
    columns = {
        "hour": pa.Column(UTC_US),
        "sensor": pa.Column(str),
        "count": pa.Column(float),
        "known_at": pa.Column(UTC_US),
    }
    return Table(
        name=name,
        schema=pa.DataFrameSchema(columns, strict=strict),
        key=("hour", "sensor"),
        known_at="known_at",
        happened_at="hour",
        categories=("sensor",),
        least=0.5,
    )


class Sensors:
    def __init__(self, *, strict=True, **frames):
        self.frames = frames
        self.tables = tuple(table(name, strict=strict) for name in frames)

    def read(self, name, after, until):
        rows = self.frames[name]
        fresh = rows.known_at > pd.Timestamp(after or START)
        return rows[fresh & (rows.known_at <= pd.Timestamp(until))].reset_index(drop=True)

    def derive(self, tables):
        rows = next(iter(tables.values()))
        return {"examples": rows.rename(columns={"hour": "event_timestamp"})}


def state(lake):
    return {p: p.read_bytes() for p in sorted(lake.root.rglob("*")) if p.is_file()}


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    ingest(Sensors(counts=counts()), lake, at(200))
    return lake


def only_every_third_hour(rows):
    return rows[(rows.known_at <= at(200)) | (rows.hour.dt.hour % 3 == 0)]


def without_west(rows):
    return rows[(rows.known_at <= at(200)) | (rows.sensor != "west")]


def known_too_early(rows):
    return rows.assign(hour=rows.hour.where(rows.known_at != at(250), rows.hour + 5 * HOUR))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_every_third_hour, r"rows are lost: 2\d\.\d per day .* 7\d\.\d per day are usual and at least 50%"),
        (without_west, r"none of the 400 rows has sensor 'west', about 133 are usual"),
        (known_too_early, r"3 rows were known before they happened"),
    ],
)
def test_an_increment_unlike_what_is_stored_is_refused_and_changes_nothing(lake, change, message):
    before = state(lake)
    with pytest.raises(UpstreamError, match=message):
        ingest(Sensors(counts=change(counts())), lake, at(400))
    assert state(lake) == before


def test_an_increment_like_what_is_stored_is_kept(lake):
    assert ingest(Sensors(counts=counts()), lake, at(400)).kept == 600


def test_half_of_the_usual_rows_is_enough_where_half_is_declared(lake):
    rows = counts()
    fewer = rows[(rows.known_at <= at(200)) | (rows.hour.dt.hour % 24 < 14)]
    assert ingest(Sensors(counts=fewer), lake, at(400)).kept > 300


def test_a_level_too_rare_to_be_missed_may_stay_away(lake):
    assert ingest(Sensors(counts=without_west(counts())), lake, at(240)).kept == 80


def test_a_fault_in_the_last_table_leaves_the_first_as_it_was_too(tmp_path):
    lake = Lake(tmp_path)
    good, broken = counts(), counts().rename(columns={"count": "counts"})
    with pytest.raises(UpstreamError, match=r"table 'second': column 'count' is missing; was it renamed to 'counts'\?"):
        ingest(Sensors(first=good, second=broken), lake, at(100))
    assert state(lake) == {}


def test_a_column_that_an_open_schema_does_not_declare_is_left_out(tmp_path):
    lake = Lake(tmp_path)
    ingest(Sensors(strict=False, counts=counts()), lake, at(100))
    ingest(Sensors(strict=False, counts=counts().assign(remark="new")), lake, at(200))
    assert list(lake.read_raw("counts").columns) == ["hour", "sensor", "count", "known_at"]


def test_a_digest_is_of_values_and_not_of_how_pandas_keeps_them():
    rows = counts()
    kept_otherwise = rows.assign(
        hour=rows.hour.dt.tz_convert("Asia/Tokyo").dt.as_unit("ns"),
        sensor=rows.sensor.astype("category"),
        count=rows["count"].astype("Float64"),
    )
    assert rows_digest(kept_otherwise) == rows_digest(rows)


def test_a_digest_tells_a_missing_value_from_the_text_that_names_it():
    assert rows_digest(pd.DataFrame({"a": ["None"]})) != rows_digest(pd.DataFrame({"a": [None]}, dtype=object))
