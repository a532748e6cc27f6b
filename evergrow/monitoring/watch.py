"""One look at a model in service: all that was seen, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Self

from pydantic import Field

from evergrow.contracts import Decision, Instant, Metric, Observation, Purpose, Slice, Value
from evergrow.data.lake import replace
from evergrow.errors import DataError
from evergrow.monitoring.costs import Costs
from evergrow.monitoring.outcomes import Judged
from evergrow.monitoring.truth import State

FILE = "watch.json"


class LabelState(Value):
    """How far the labels of a day are in."""

    day: date
    rows: int
    labelled: int
    corrected: int
    state: State


class Performance(Value):
    """How a version did on a day, by its labels or by an estimate before they came."""

    day: date
    version: int
    kind: str = Field(description="realised or estimated")
    state: State | None = Field(description="of the day's labels; None of an estimate")
    metrics: tuple[Metric, ...]


class Worst(Value):
    """A slice that fares worse than the rest; `low`: surely by more than this."""

    where: str
    rows: int
    loss: float
    excess: float
    low: float


class DayTraffic(Value):
    """Predictions of a version on a day."""

    day: date
    version: int
    rows: int
    latency_ms: tuple[float, float] | None = Field(
        default=None, description="median and 99 %, within a cell of the grid"
    )


class Earned(Value):
    """What the predictions of a matured day were worth, and what the day without acting on any."""

    day: date
    rows: int
    worth: float
    low: float
    high: float
    without: float


class Served(Value):
    """What serving a day cost."""

    day: date
    server_hours: int
    cost: float


class Ran(Value):
    """What steps of pipelines cost, of one purpose, over the ledger's newest days."""

    purpose: Purpose
    steps: int
    cpu_hours: float
    cost: float


class Watch(Value):
    """What monitoring saw of a model as of an instant."""

    model: str
    as_of: Instant
    metric: str = Field(description="the gate's")
    reference: dict[int, float] = Field(description="per version its mean loss on the holdout")
    matured_after: float | None = Field(description="hours until nearly all labels that come are in; None if unknown")
    coverage: float = Field(description="share of predictions whose label ever comes")
    delays: tuple[float, ...] = Field(description="hours until labels are known: median, 90 %, 99 % of those that come")
    traffic: tuple[DayTraffic, ...]
    labels: tuple[LabelState, ...]
    performance: tuple[Performance, ...]
    slices: tuple[Slice, ...]
    worst: tuple[Worst, ...]
    currency: str = Field(default="", description="of worth and costs; empty if the document names none")
    worth: tuple[Earned, ...] = ()
    served: tuple[Served, ...] = Field(default=(), description="if the document has prices")
    ran: tuple[Ran, ...] = ()
    observations: tuple[Observation, ...] = Field(description="of the newest judged day, and of labels as of now")

    @classmethod
    def of(
        cls,
        model: str,
        as_of: datetime,
        metric: str,
        reference: dict[int, float],
        traffic: Iterable[DayTraffic],
        judged: Judged | None,
        observations: Sequence[Observation],
        costs: Costs | None = None,
        currency: str = "",
    ) -> Self:
        """Put together what was seen; without any prediction there is nothing to judge."""
        wait = judged.delay if judged else None
        return cls(
            model=model,
            as_of=as_of,
            metric=metric,
            reference=reference,
            matured_after=_hours(wait.age) if wait and wait.age is not None else None,
            coverage=wait.coverage if wait else 0.0,
            delays=tuple(_hours(q) for q in wait.quantiles) if wait else (),
            traffic=tuple(traffic),
            labels=_labels(judged) if judged else (),
            performance=_performance(judged) if judged else (),
            slices=tuple(s for s in judged.slices if isinstance(s, Slice)) if judged else (),
            worst=tuple(Worst(**vars(one)) for one in judged.worst) if judged else (),
            currency=currency,
            worth=tuple(Earned(**vars(one)) for one in judged.worth) if judged else (),
            served=tuple(Served(**vars(one)) for one in costs.serving) if costs else (),
            ran=tuple(Ran(**vars(one)) for one in costs.steps) if costs else (),
            observations=tuple(observations),
        )

    def numbers(self) -> dict[str, float]:
        """What is worth comparing over time, by name."""
        failed = [one for one in self.observations if one.verdict.outcome in ("fail", "error")]
        newest = [one for one in self.performance if one.state == "matured"][-1:]
        worth = {"worth": self.worth[-1].worth} if self.worth else {}
        worth |= {"cost_of_serving": self.served[-1].cost} if self.served else {}
        return {
            "predictions": float(self.traffic[-1].rows) if self.traffic else 0.0,
            "label_coverage": self.coverage,
            "alarms": float(sum(one.alarm for one in failed)),
            "drifted": float(drifted(self.observations)),
            **{metric.name: metric.value for one in newest for metric in one.metrics},
            **worth,
        }

    def save(self, folder: Path) -> None:
        """Write it into a directory."""
        replace(folder / FILE, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: there is none.
        """
        if not (folder / FILE).exists():
            raise DataError(f"{folder} holds nothing that monitoring saw: {FILE} is missing")
        return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))


def drifted(observations: Iterable[Observation]) -> int:
    """How many columns and slices drifted: each once, by however many tests and tools."""
    failed = [one for one in observations if "drift" in one.kind and one.verdict.outcome == "fail"]
    return len({(one.kind, one.version, one.subject, one.slice) for one in failed})


def decide(watch: Watch) -> Decision:
    """An alert if anything that is an alarm fails, or could not be checked; drift alone is none."""
    reasons = [
        f"{one.kind}: {one.verdict.reason}"
        for one in watch.observations
        if one.alarm and one.verdict.outcome in ("fail", "error")
    ]
    if reasons:
        return Decision(model=watch.model, as_of=watch.as_of, action="alert", reasons=tuple(reasons))
    alarms, number = sum(one.alarm for one in watch.observations), drifted(watch.observations)
    told = f"none of {alarms} alarms; {number} columns or slices drifted"
    return Decision(model=watch.model, as_of=watch.as_of, action="none", reasons=(told,))


def _labels(judged: Judged) -> tuple[LabelState, ...]:
    return tuple(
        LabelState(day=d.day, rows=d.rows, labelled=d.labelled, corrected=d.corrected, state=d.state)
        for d in judged.labels
    )


def _performance(judged: Judged) -> tuple[Performance, ...]:
    realised = [
        Performance(day=d.day, version=d.version, kind="realised", state=d.state, metrics=d.metrics)
        for d in judged.performance
    ]
    estimates = [
        Performance(day=e.day, version=e.version, kind="estimated", state=None, metrics=(e.metric,))
        for e in judged.estimates
    ]
    return (*realised, *estimates)


def _hours(length: timedelta) -> float:
    return length / timedelta(hours=1)
