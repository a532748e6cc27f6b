from datetime import timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.data.ingest import ingest, judge
from evergrow.data.lake import Lake
from evergrow.errors import DataError, UpstreamError
from tests.unit.data.sources import HOUR, START, Meters, meters


def at(hours: float):
    return (START + timedelta(hours=hours)).to_pydatetime()


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def state(lake: Lake) -> dict[str, bytes]:
    return {str(p.relative_to(lake.root)): p.read_bytes() for p in sorted(lake.root.rglob("*")) if p.is_file()}


def test_only_what_became_known_is_read_and_nothing_is_read_twice(lake):
    source = Meters()
    first = ingest(source, lake, at(100))
    second = ingest(source, lake, at(150))
    assert (first.kept, second.kept) == (200, 100)
    kept = lake.read_raw("readings")
    assert not kept.duplicated(["meter", "hour"]).any()
    pd.testing.assert_frame_equal(kept, meters()[meters().known_at <= at(150)].reset_index(drop=True))


def test_asking_again_reads_nothing_and_changes_no_byte(lake):
    source = Meters()
    ingest(source, lake, at(100))
    before, reads = state(lake), source.reads
    report = ingest(source, lake, at(100))
    assert (report.kept, report.derived, source.reads) == (0, False, reads)
    assert state(lake) == before


def test_an_earlier_instant_than_the_watermark_reads_nothing(lake):
    ingest(Meters(), lake, at(100))
    assert ingest(Meters(), lake, at(50)).kept == 0
    assert lake.watermark("readings") == at(100)


@given(st.lists(st.integers(1, 399), min_size=1, max_size=4, unique=True).map(sorted))
def test_the_derived_tables_do_not_depend_on_how_often_was_ingested(tmp_path_factory, steps):
    at_once, stepwise = (Lake(tmp_path_factory.mktemp("lake")) for _ in range(2))
    for hours in steps:
        ingest(Meters(), stepwise, at(hours))
    ingest(Meters(), at_once, at(steps[-1]))
    for table in ("examples", "meter_stats"):
        pd.testing.assert_frame_equal(stepwise.read(table), at_once.read(table))


def test_rows_that_break_a_rule_are_kept_in_quarantine_each_with_its_reason(lake):
    rows = meters()
    rows.loc[3, "litres"] = -5.0
    rows.loc[7, "hour"] = rows.loc[7, "known_at"] + 1000 * HOUR
    report = ingest(Meters(rows), lake, at(100)).tables[0]
    assert (report.read, report.kept, report.quarantined) == (200, 198, 2)
    refused = pd.read_parquet(report.quarantine)
    assert "litres: in_range(0, 1000000.0), found -5.0" in refused.reason.tolist()
    assert "a reading is known after its hour begins" in refused.reason.tolist()
    assert report.read == report.kept + report.quarantined + report.repeated


def test_rows_sent_again_are_counted_and_not_stored_twice(lake):
    rows = pd.concat([meters(), meters().head(10)], ignore_index=True)
    report = ingest(Meters(rows), lake, at(100)).tables[0]
    assert (report.read, report.kept, report.repeated, report.quarantined) == (210, 200, 10, 0)


def test_a_stored_key_with_other_values_is_refused_and_the_stored_row_stays(lake):
    ingest(Meters(), lake, at(100))
    rows = meters()
    late = rows.head(1).assign(litres=999.0, known_at=at(150))
    report = ingest(Meters(pd.concat([rows, late], ignore_index=True)), lake, at(200)).tables[0]
    assert report.quarantined == 1
    assert "its key (meter, hour) is stored with other values" in pd.read_parquet(report.quarantine).reason[0]
    assert lake.read_raw("readings").iloc[0].litres == rows.iloc[0].litres


def test_a_key_twice_in_a_batch_keeps_the_first(lake):
    rows = meters()
    twice = rows.head(1).assign(litres=50.0)
    report = ingest(Meters(pd.concat([rows, twice], ignore_index=True)), lake, at(100)).tables[0]
    assert report.quarantined == 1
    assert "occurs earlier in the batch" in pd.read_parquet(report.quarantine).reason[0]


def renamed(rows):
    return rows.rename(columns={"litres": "litre"})


def retyped(rows):
    return rows.assign(litres=rows.litres.astype(str))


def in_millilitres(rows):
    return rows.assign(litres=rows.litres.where(rows.known_at <= at(200), rows.litres * 1000))


def without_clock(rows):
    return rows.assign(known_at=rows.known_at.where(rows.index % 50 != 1))


def with_a_surprise(rows):
    return rows.assign(comment="?")


def mostly_broken(rows):
    return rows.assign(litres=rows.litres.where(rows.index % 2 == 0, -1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "column 'litres' is missing; was it renamed to 'litre'?"),
        (retyped, r"column 'litres' must be float64, found (object|str).* \(for example '"),
        (in_millilitres, r"column 'litres' changed its unit\? its median is 1.*, was 1.*, more than 8 times apart"),
        (without_clock, "column 'known_at' is missing in"),
        (with_a_surprise, "column 'comment' is not declared"),
        (mostly_broken, r"of 200 rows break its rules, at most 20% may; the most frequent: litres: in_range"),
    ],
)
def test_a_change_upstream_is_refused_in_words_and_nothing_stored_changes(lake, change, message):
    ingest(Meters(), lake, at(200))
    before = state(lake)
    with pytest.raises(UpstreamError, match=message):
        ingest(Meters(change(meters())), lake, at(300))
    assert state(lake) == before


class GoesBack(Meters):
    def read(self, table, after, until):
        return super().read(table, None, until)


class LooksAhead(Meters):
    def read(self, table, after, until):
        return super().read(table, after, until + timedelta(hours=5))


def test_a_clock_that_goes_backwards_is_refused(lake):
    ingest(Meters(), lake, at(100))
    before = state(lake)
    with pytest.raises(UpstreamError, match=r"clock went backwards: 200 rows .* not after the watermark"):
        ingest(GoesBack(), lake, at(200))
    assert state(lake) == before


def test_rows_from_the_future_are_refused(lake):
    with pytest.raises(UpstreamError, match="rows from the future: known up to"):
        ingest(LooksAhead(), lake, at(100))


def test_a_gap_longer_than_the_declared_pace_is_refused_and_a_shorter_one_is_not(lake):
    rows = meters()
    gap = rows[(rows.known_at <= at(50)) | (rows.known_at > at(60))]
    with pytest.raises(UpstreamError, match=r"rows are lost: none between .* at least one per 6:00:00"):
        ingest(Meters(gap, pace=timedelta(hours=6)), lake, at(100))
    assert ingest(Meters(gap, pace=timedelta(hours=11)), lake, at(100)).kept == 180


def test_a_seasonal_shift_is_no_change_of_unit(lake):
    ingest(Meters(), lake, at(200))
    doubled = meters().assign(litres=lambda f: f.litres.where(f.known_at <= at(200), f.litres * 2))
    assert ingest(Meters(doubled), lake, at(300)).kept == 200


def test_an_unseen_category_is_told_and_kept(lake):
    ingest(Meters(), lake, at(100))
    rows = meters().assign(meter=lambda f: f.meter.where((f.meter == "a") | (f.known_at <= at(100)), "c"))
    report = ingest(Meters(rows), lake, at(150)).tables[0]
    assert report.unseen == ("readings.meter: 1 level(s) not seen before: c",)
    assert report.kept == 100


class Careless(Meters):
    def derive(self, tables):
        derived = dict(super().derive(tables))
        derived["meter_stats"] = derived["meter_stats"].assign(
            event_timestamp=lambda f: f.event_timestamp.dt.tz_localize(None)
        )
        return derived


def test_a_derived_table_with_naive_times_is_refused(lake):
    with pytest.raises(DataError, match="meter_stats.event_timestamp must be timezone-aware"):
        ingest(Careless(), lake, at(100))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.floats(-5, 5)), max_size=12), st.integers(0, 12))
def test_every_row_is_kept_refused_or_repeated_and_none_is_lost(readings, stored):
    rows = pd.DataFrame(
        {
            "meter": [m for m, _, _ in readings],
            "hour": pd.Series([START + h * HOUR for _, h, _ in readings], dtype="datetime64[us, UTC]"),
            "litres": pd.Series([x for *_, x in readings], dtype=float),
        }
    )
    rows = rows.assign(known_at=rows.hour + HOUR)
    table = Meters().tables[0]
    before, _, _ = judge(table, rows.head(stored), None)
    good, bad, repeated = judge(table, rows, before if len(before) else None)
    assert len(good) + len(bad) + repeated == len(rows)
    everything = pd.concat([before, good])
    assert not everything.duplicated(["meter", "hour"]).any()
    assert everything.litres.between(0, 1e6).all()
    assert bad.reason.str.len().gt(0).all() if len(bad) else True
