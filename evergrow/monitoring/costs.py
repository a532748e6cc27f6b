"""What a model costs: the servers that answered, and the steps of its pipelines, at the document's prices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from evergrow.contracts import EVENT_TIMESTAMP, Purpose, Spent
from evergrow.spec.model import Prices

HOUR = 3600.0
PREDICTION_ID = "prediction_id"


@dataclass(frozen=True)
class DayCost:
    """What serving a day cost.

    Attributes:
        day: of the predictions (UTC).
        server_hours: hours in which a server answered, summed over servers.
        cost: of them, in the document's currency.
    """

    day: date
    server_hours: int
    cost: float


@dataclass(frozen=True)
class PurposeCost:
    """What a kind of pipeline cost in a stretch of time.

    Attributes:
        purpose: of its steps.
        steps: runs of steps.
        cpu_hours: that were used or set aside, whichever was more.
        cost: of them, in the document's currency.
    """

    purpose: Purpose
    steps: int
    cpu_hours: float
    cost: float


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        serving: of each day with predictions, oldest first.
        steps: of each purpose, over the ledger's newest days.
    """

    serving: Sequence[DayCost] = ()
    steps: Sequence[PurposeCost] = ()


def of_serving(prices: Prices, rows: pd.DataFrame, replicas: int = 0) -> Sequence[DayCost]:
    """The cost of each day that was served, oldest first.

    A server costs every hour in which it answered; each hour of a day with predictions costs at least `replicas`.

    Args:
        prices: of the document.
        rows: predictions with their ids, which begin with the server's name, and instants.
        replicas: servers that are kept whether anyone asks or not.
    """
    if rows.empty:
        return []
    # Writer, segment, record and row.
    servers = rows[PREDICTION_ID].str.rsplit("-", n=3).str[0]
    hours = rows[EVENT_TIMESTAMP].dt.floor("h")
    answered = pd.DataFrame({"server": servers, "hour": hours}).drop_duplicates()
    found = []
    for day, of_day in answered.groupby(answered["hour"].dt.date):
        by_hour = of_day.groupby("hour").size()
        idle = replicas * (24 - len(by_hour))
        taken = int(by_hour.clip(lower=replicas).sum()) + idle
        found.append(DayCost(pd.Timestamp(str(day)).date(), taken, taken * prices.server_hour))
    return found


def of_steps(prices: Prices, spent: Iterable[Spent]) -> Sequence[PurposeCost]:
    """What each kind of pipeline cost, the dearest first."""
    kinds: dict[Purpose, list[float]] = {}
    for one in spent:
        taken = max(one.cpu_seconds, one.cpus * one.seconds) / HOUR
        kinds.setdefault(one.purpose, []).append(taken)
    found = [PurposeCost(kind, len(each), sum(each), sum(each) * prices.cpu_hour) for kind, each in kinds.items()]
    return sorted(found, key=lambda one: (-one.cpu_hours, one.purpose))
