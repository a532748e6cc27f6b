"""The log as it lies in the store: read by days, newest first, and forgotten when its time is over."""

import os
from datetime import UTC, date, datetime, timedelta

import pytest

from evergrow.environment import Environment
from evergrow.errors import DataError
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.prediction_log.records import Column, header_line, parse, record_line
from evergrow.prediction_log.tables import parquet
from tests.unit.prediction_log.conftest import COLUMNS, DAY, header, record


@pytest.fixture
def store(tmp_path):
    """Three days of predictions; the model of the third day has another feature."""
    environment = Environment.read({"EVERGROW_HOME": str(tmp_path / "home")})
    store = PredictionStore.of(environment)
    for number, columns in ((1, COLUMNS), (2, COLUMNS), (3, (*COLUMNS, Column(name="new", type="DOUBLE")))):
        seconds = (number - 1) * 86_400.0
        day = datetime.fromtimestamp(DAY.timestamp() + seconds, UTC).date()
        about = header(number=number, day=day, columns=columns)
        made = record(str(number), rows=2, seconds=seconds)
        made = made._replace(values=[[*row, 0.5][: len(columns)] for row in made.values])
        store.put(about.name, parquet(parse(header_line(about) + record_line(*made))))
    return store


def read(store, *args, **kwargs):
    return store.read("delays", *args, **kwargs)["request_id"].to_pylist()


def test_days_are_read_in_the_order_of_their_instants_whatever_their_columns(store):
    assert store.days("delays") == [date(2013, 10, n) for n in (1, 2, 3)]
    assert read(store, date.min, date.max) == ["1", "1", "2", "2", "3", "3"]
    assert read(store, date(2013, 10, 2), date(2013, 10, 2)) == ["2", "2"]
    assert store.read("delays", date.min, date.max)["new"].to_pylist() == [None] * 4 + [0.5] * 2


def test_the_newest_are_read_without_the_days_before(store, monkeypatch):
    asked = []
    monkeypatch.setattr(store, "segment", lambda name, kept=store.segment: (asked.append(name), kept(name))[1])
    assert read(store, date.min, date.max, newest=3) == ["2", "3", "3"]
    assert len(asked) == 2


def test_where_nothing_was_logged_it_is_said_which_days_there_are(store):
    with pytest.raises(DataError, match="no prediction was logged from 2014-01-01 to 2014-01-02") as none:
        read(store, date(2014, 1, 1), date(2014, 1, 2))
    assert "from 2013-10-01 to 2013-10-03" in none.value.hint
    with pytest.raises(DataError) as never:
        store.read("other", date.min, date.max)
    assert "is other served" in never.value.hint


def test_what_was_written_too_long_before_the_newest_is_deleted_and_nothing_else(store, tmp_path):
    assert store.expire("delays", timedelta(days=1)) == []
    files = sorted((tmp_path / "home/prediction_log/delays").glob("*/*"))
    for days, path in zip((3, 2, 0), files, strict=True):
        at = path.stat().st_mtime - 86_400 * days
        os.utime(path, (at, at))
    assert store.expire("delays", timedelta(days=2.5)) == [f"{files[0].parent.name}/{files[0].name}"]
    assert store.days("delays") == [date(2013, 10, 2), date(2013, 10, 3)]
    assert store.expire("other", timedelta(days=1)) == []
