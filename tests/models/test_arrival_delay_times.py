"""Times of flights, against zoneinfo and against columns the conversion does not read."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arrival_delay import data
from models.arrival_delay.data import NEW_YORK, package_data, raw, scheduled_arrival, to_utc

ZONES = ["America/New_York", "America/Chicago", "America/Phoenix", "Pacific/Honolulu", "America/Puerto_Rico"]


def series(*texts: str) -> pd.Series:
    return pd.Series(pd.to_datetime(list(texts)))


def test_two_thirty_of_the_spring_night_does_not_exist_and_counts_as_an_hour_later():
    before, skipped, after = to_utc(series("2013-03-10 01:59", "2013-03-10 02:30", "2013-03-10 03:30"), NEW_YORK)
    assert before == pd.Timestamp("2013-03-10T06:59Z")
    assert skipped == after == pd.Timestamp("2013-03-10T07:30Z")


def test_one_thirty_of_the_autumn_night_happens_twice_and_the_first_is_meant():
    (found,) = to_utc(series("2013-11-03 01:30"), NEW_YORK)
    assert found == pd.Timestamp("2013-11-03T05:30Z")


@given(st.datetimes(datetime(2013, 1, 1), datetime(2013, 12, 31)), st.sampled_from(ZONES))
def test_wall_clocks_become_the_instants_that_zoneinfo_says(wall, zone):
    wall = wall.replace(microsecond=0)
    (found,) = to_utc(pd.Series([pd.Timestamp(wall)]), zone)
    expected = wall.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
    assert found == expected


def test_departures_agree_with_the_utc_hour_that_the_source_gives_itself():
    flights = pd.read_csv(package_data() / "flights.csv.zip", usecols=["carrier", "flight", "origin", "time_hour"])
    flights["hour"] = pd.to_datetime(flights.time_hour)
    found = raw()["schedules"].assign(hour=lambda f: f.scheduled_departure.dt.floor("h"))
    joined = found.merge(flights, on=["carrier", "flight", "origin", "hour"], how="outer", indicator=True)
    assert (joined._merge == "both").all()
    assert len(found) == 336_776


def arrival(departure: str, arrives: int, dest: str) -> pd.Timestamp:
    left = pd.Timestamp(departure)
    flight = pd.DataFrame(
        {"year": [left.year], "month": [left.month], "day": [left.day], "sched_arr_time": [arrives], "dest": [dest]}
    )
    zones = {"LAX": "America/Los_Angeles", "HNL": "Pacific/Honolulu", "BOS": NEW_YORK} | data.PUERTO_RICO
    return scheduled_arrival(flight, to_utc(pd.Series([left]), NEW_YORK), zones).iloc[0]


@pytest.mark.parametrize(
    ("departure", "arrives", "dest", "utc"),
    [
        ("2013-07-01 09:00", 1215, "LAX", "2013-07-01T19:15Z"),
        ("2013-07-01 22:30", 125, "LAX", "2013-07-02T08:25Z"),
        ("2013-07-01 23:30", 345, "SJU", "2013-07-02T07:45Z"),
        ("2013-01-15 10:00", 1530, "HNL", "2013-01-16T01:30Z"),
        ("2013-07-01 22:50", 2400, "BOS", "2013-07-02T04:00Z"),
        ("2013-03-09 23:55", 330, "SJU", "2013-03-10T07:30Z"),
        ("2013-11-02 23:00", 30, "BOS", "2013-11-03T04:30Z"),
    ],
)
def test_an_arrival_is_on_its_destinations_clock_and_on_the_right_side_of_midnight(departure, arrives, dest, utc):
    assert arrival(departure, arrives, dest) == pd.Timestamp(utc)


def test_flights_take_plausibly_long_and_about_as_long_as_their_distance_says():
    schedules = raw()["schedules"]
    minutes = (schedules.scheduled_arrival - schedules.scheduled_departure) / timedelta(minutes=1)
    cruising = schedules.distance / 480 * 60
    assert ((minutes - cruising) > -30).all()
    assert ((minutes - cruising).between(0, 240)).mean() > 0.999


def test_actual_arrivals_agree_with_the_local_clock_that_the_source_gives():
    flights = pd.read_csv(package_data() / "flights.csv.zip")
    flights = flights[(flights.dest == "BOS") & flights.arr_delay.notna()]
    known = raw()["outcomes"].query("dest == 'BOS' and outcome == 'landed'")
    local = known.known_at.dt.tz_convert(NEW_YORK)
    found = sorted((local.dt.hour * 100 + local.dt.minute) % 2400)
    given_ = sorted((flights.arr_time % 2400).astype(int))
    agree = sum(a == b for a, b in zip(found, given_, strict=True))
    assert agree / len(found) > 0.99


def test_cancelled_and_diverted_flights_are_kept_and_have_no_label():
    outcomes = raw()["outcomes"]
    counts = outcomes.outcome.value_counts()
    assert counts.to_dict() == {"landed": 327_346, "cancelled": 8_255, "diverted": 1_175}
    examples = data.examples(raw()["schedules"], outcomes)
    assert len(examples) == len(outcomes)
    assert examples.late.isna().sum() == examples.known_at.isna().sum() == 8_255 + 1_175


def test_no_label_is_known_before_the_flight_is_asked_about_and_late_means_fifteen_minutes():
    examples = data.examples(raw()["schedules"], raw()["outcomes"])
    known = examples[examples.known_at.notna()]
    assert (known.known_at > known.event_timestamp).all()
    merged = known.merge(raw()["outcomes"], on=["carrier", "flight", "origin", "scheduled_departure"])
    assert (merged.late == (merged.arrival_delay >= 15)).all()
