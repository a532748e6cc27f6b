"""Hourly counts of three stations; an hour's count is known when the hour is over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pandera.pandas as pa

from evergrow.data.schema import Table

START, HOURS = pd.Timestamp("2024-01-01", tz="UTC"), 24 * 120
STATIONS = ("east", "north", "west")
HOUR = timedelta(hours=1)
INSTANT = pd.DatetimeTZDtype("us", "UTC")


class Demand:
    """Implements `evergrow.ports.Source`."""

    tables = (
        Table(
            name="counts",
            schema=pa.DataFrameSchema(
                {
                    "station": pa.Column(str, pa.Check.isin(STATIONS)),
                    "hour": pa.Column(INSTANT),
                    "count": pa.Column("int64", pa.Check.ge(0)),
                    "known": pa.Column(INSTANT),
                }
            ),
            key=("station", "hour"),
            known_at="known",
        ),
    )

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        """Counts that became known in (after, until]."""
        rows = counts()
        start = START if after is None else pd.Timestamp(after)
        return rows[(rows["known"] > start) & (rows["known"] <= pd.Timestamp(until))].reset_index(drop=True)

    def derive(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """Trailing means per station, and an example for every hour up to a day after the last one known."""
        rows = tables["counts"].sort_values(["station", "hour"], kind="stable")
        grouped = rows.groupby("station")["count"]
        demand = pd.DataFrame(
            {
                "station": rows["station"],
                "event_timestamp": rows["known"],
                "created_timestamp": rows["known"],
                "last_count": rows["count"].astype("float64"),
                "mean_24h": grouped.transform(lambda c: c.rolling(24, min_periods=1).mean()),
            }
        )
        return {"station_demand": demand.reset_index(drop=True), "examples": _examples(rows)}


def _examples(rows: pd.DataFrame) -> pd.DataFrame:
    hours = pd.date_range(rows["hour"].min(), rows["hour"].max() + 25 * HOUR, freq="h", unit="us")
    asked = pd.MultiIndex.from_product([STATIONS, hours], names=["station", "hour"]).to_frame(index=False)
    joined = asked.merge(rows, on=["station", "hour"], how="left")
    return pd.DataFrame(
        {
            "station": joined["station"],
            "event_timestamp": joined["hour"],
            "busy": (joined["count"] >= 10).astype("float64").where(joined["count"].notna()),
            "known_at": joined["known"],
        }
    )


def counts() -> pd.DataFrame:
    """The same counts at every call: a daily wave, other for each station, and chance."""
    random = np.random.default_rng(7)
    hours = pd.date_range(START, periods=HOURS, freq="h", unit="us")
    frames = []
    for number, station in enumerate(STATIONS):
        level = 8 + 3 * number + 6 * np.sin((hours.hour + 3 * number) / 24 * 2 * np.pi)
        frames.append(pd.DataFrame({"station": station, "hour": hours, "count": random.poisson(level)}))
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(known=rows["hour"] + HOUR)
