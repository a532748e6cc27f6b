"""What became of each policy: its answers day by day, and its trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evergrow.backtest.past import DAY, microseconds
from evergrow.backtest.policies import Policy
from evergrow.backtest.replay import Attempt, Replayed, Served, Setting, Training
from evergrow.backtest.rolls import Divide
from evergrow.backtest.tasks import Account, Day, Serve, Work
from evergrow.backtest.work import Shared
from evergrow.contracts import Value
from evergrow.data.lake import replace
from evergrow.errors import DataError

Floats = NDArray[np.float64]
FILE = "results.json"


class Result(Value):
    """A policy and what became of it."""

    policy: str
    options: Mapping[str, str]
    patch: Mapping[str, Any] = Field(description="what it changes in the document's `spec`")
    trainings: tuple[Training, ...]
    rollouts: tuple[Attempt, ...] = Field(default=(), description="none where what passes the gate serves at once")
    days: tuple[Day, ...] = Field(description="on which its models answered rows whose label came")

    def trained(self, since: int, until: int) -> list[Training]:
        """Trainings that were begun on days [since, until), counted from 1970."""
        return [one for one in self.trainings if since <= microseconds(one.began) // DAY < until]

    def rolled_out(self, since: int, until: int) -> list[Attempt]:
        """Rollouts that were begun on days [since, until), counted from 1970."""
        return [one for one in self.rollouts if since <= microseconds(one.began) // DAY < until]

    def table(self, days: NDArray[np.int64]) -> Floats:
        """Rows, and sums of loss, worth and age, of some days on which it answered, [4, days].

        Raises:
            DataError: there is a day on which it did not.
        """
        found = {one.day: (one.rows, one.loss, one.worth, one.age) for one in self.days}
        lacking = [int(day) for day in days if day not in found]
        if lacking:
            raise DataError(f"policy {self.policy} answered nothing on {np.datetime64(lacking[0], 'D')}")
        return np.array([found[int(day)] for day in days], np.float64).T


class Results(Value):
    """Of all policies, in their order."""

    model: str
    task: str
    metric: str = Field(description="the gate's, a loss per row")
    currency: str = Field(description="of worth; empty: the document does not tell it")
    million_rows: float = Field(description="what it costs to fit on a million rows; 0 if that has no price")
    reference: str = Field(description="the policy that others are held against")
    decided: tuple[datetime, datetime] = Field(description="first and last instant at which was decided")
    decisions: int = Field(description="of each policy")
    rows: int = Field(description="of the past")
    digest: str = Field(description="of the past")
    policies: tuple[Result, ...]

    def save(self, folder: Path) -> None:
        """Write them into a directory: the same results are the same bytes."""
        replace(folder / FILE, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: there is nothing.
        """
        if not (folder / FILE).exists():
            raise DataError(f"{folder} holds no backtest: {FILE} is missing", hint="run `evergrow backtest`")
        return cls.model_validate_json((folder / FILE).read_bytes())


def result(policy: Policy, replayed: Replayed, setting: Setting, shared: Shared) -> Result:
    """Answer with the models that served, each until the next one did.

    While a rollout is under way, champion and challenger divide what is asked for: a day's loss, worth and age are then
    expectations over who is drawn, by the shares of each instant. A copy that a shadow gets answers nobody.
    """
    last = setting.instants[-1] // DAY * DAY
    ends = [*(microseconds(one.since) for one in replayed.served[1:]), last]
    found: dict[int, Day] = {}
    for served, end in zip(replayed.served, ends, strict=True):
        for asked in _answering(policy, served, min(end, last), replayed.rollouts):
            for day in shared.do(asked, Account).days:
                found[day.day] = _sum(found[day.day], day) if day.day in found else day
    return Result(
        policy=policy.name, options=policy.options, patch=policy.patch, trainings=replayed.trainings,
        rollouts=replayed.rollouts, days=tuple(found[day] for day in sorted(found)),
    )  # fmt: skip


def _answering(policy: Policy, served: Served, until: int, rollouts: Sequence[Attempt]) -> Iterator[Work]:
    """Who answers while a champion serves: alone, or with the challenger of a rollout, one after the other."""
    spec, since, cut = policy.document.spec, microseconds(served.since), microseconds(served.cut)
    metric, worth = spec.evaluation.gate.metric, spec.monitoring.worth
    for one in rollouts:
        began, ended = microseconds(one.began), until if one.ended is None else min(microseconds(one.ended), until)
        if not since <= began < until:
            continue
        if since < began:
            yield Serve(model=served.model, cut=cut, since=since, until=began, metric=metric, worth=worth)
        yield Divide(
            champion=served.model, challenger=one.model, cuts=(cut, microseconds(one.cut)), shares=one.shares,
            since=began, until=ended, metric=metric, worth=worth,
        )  # fmt: skip
        since = ended
    if since < until:
        yield Serve(model=served.model, cut=cut, since=since, until=until, metric=metric, worth=worth)


def _sum(a: Day, b: Day) -> Day:
    """Of two models on one day."""
    return Day(day=a.day, rows=a.rows + b.rows, loss=a.loss + b.loss, worth=a.worth + b.worth, age=a.age + b.age)


def judged_days(results: Sequence[Result]) -> tuple[NDArray[np.int64], list[str]]:
    """Days on which all policies answered, from the first full day of the one that was last to serve.

    Returns:
        The days, and the names of policies that are left out: they served nobody by half of the time.
    """
    spans = {one.policy: [day.day for day in one.days] for one in results}
    every = sorted({day for days in spans.values() for day in days})
    if not every:
        return np.zeros(0, np.int64), [one.policy for one in results]
    half = (every[0] + every[-1]) / 2
    late = [name for name, days in spans.items() if not days or days[0] >= half]
    kept = [set(days) for name, days in spans.items() if name not in late]
    # The first day is a part of one: the model began to serve in the course of it.
    begun = max(min(days) for days in kept) + 1 if kept else 0
    shared = set.intersection(*kept) if kept else set()
    return np.array([day for day in sorted(shared) if day >= begun], np.int64), late
