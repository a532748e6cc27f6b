"""Joins dealt into buckets give what the join in memory gives, which has an oracle of its own."""

from datetime import timedelta

import duckdb
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.integrations.asof import Source, View, exceptions_sql, features_sql
from evergrow.integrations.asof_buckets import MOST_BUCKETS, Buckets, buckets_for

START = pd.Timestamp("2024-01-01", tz="UTC")
HOURS = st.integers(0, 12)
KEYS = st.sampled_from(["a", "b", "c", "d", None])
ROWS = st.lists(st.tuples(KEYS, HOURS, st.integers(0, 6) | st.none(), st.floats(-9, 9) | st.none()), max_size=30)
ASKED = st.lists(st.tuples(KEYS, HOURS), min_size=1, max_size=30)


def world(folder, rows, asked, ttl):
    """A database with `entities`, and a view over a file."""
    hour = timedelta(hours=1)
    frame = pd.DataFrame(
        {
            "key": pd.Series([k for k, *_ in rows], dtype=object),
            "event": pd.Series([START + h * hour for _, h, *_ in rows], dtype="datetime64[us, UTC]"),
            "created": pd.Series(
                [None if late is None else START + (h + late) * hour for _, h, late, _ in rows],
                dtype="datetime64[us, UTC]",
            ),
            "value": pd.Series([v for *_, v in rows], dtype=float),
        }
    )
    path = folder / "rows.parquet"
    frame.to_parquet(path, index=False)
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    entities = pd.DataFrame(
        {
            "who": pd.Series([k for k, _ in asked], dtype=object),
            "_asked": [int((START + h * hour).value // 1000) for _, h in asked],
            "_row": range(len(asked)),
        }
    )
    db.register("asked", entities)
    db.execute("CREATE TEMP TABLE entities AS SELECT who::VARCHAR AS who, _asked, _row FROM asked")
    scan = f"read_parquet('{path}', file_row_number=true)"
    source = Source(scan=scan, order=("file_row_number",), keys=("key",), event="event", created="created")
    return db, View(source=source, entity_keys=("who",), features={"value": "v"}, ttl=ttl)


@given(ROWS, ASKED, st.sampled_from([None, timedelta(hours=3)]), st.integers(1, 7))
def test_any_number_of_buckets_gives_what_one_join_in_memory_gives(tmp_path_factory, rows, asked, ttl, count):
    folder = tmp_path_factory.mktemp("join")
    db, view = world(folder, rows, asked, ttl)
    expected = [v for (v,) in db.execute(features_sql(view)).fetchall()]
    buckets = Buckets(db, folder, len(asked), count)
    buckets.join(view, "first")
    buckets.join(view, "second")
    found = list(buckets.slabs(["first"]))
    assert [v for *_, table in found for v in table.column("v").to_pylist()] == expected
    assert [(start, end) for start, end, _ in found] == [(s, min(s + buckets.slab, len(asked))) for s, *_ in found]
    both = [table for *_, table in buckets.slabs(["first", "second"])]
    assert all(table.column(0).to_pylist() == table.column(1).to_pylist() for table in both)


def test_late_and_equal_rows_are_among_what_is_generated_and_matter(tmp_path):
    rows = [("a", 1, 5, 1.0), ("a", 2, 0, 2.0), ("a", 2, 0, 3.0)]
    db, view = world(tmp_path, rows, [("a", 3), ("a", 6), ("b", 3)], None)
    assert all(db.execute(query).fetchall() for query in exceptions_sql(view.source))
    buckets = Buckets(db, tmp_path, 3, 2)
    buckets.join(view, "v")
    assert [v for *_, table in buckets.slabs(["v"]) for v in table.column("v").to_pylist()] == [3.0, 3.0, None]


@pytest.mark.parametrize("limit", ["512MB", "0.512GB", "512 MB", "512000KB", "488.2 MiB"])
def test_a_limit_is_read_in_any_unit(limit):
    assert 6 <= buckets_for(20_000_000, 6, limit) <= 7
    assert buckets_for(20_000_000, 6, "512MB") == 6


def test_there_are_never_more_buckets_than_files_can_be_open():
    assert buckets_for(10**12, 100, "1GB") == MOST_BUCKETS
    assert buckets_for(0, 6, "1GB") == 1
