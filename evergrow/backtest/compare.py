"""How policies compare: quality with intervals, regret, cost, significance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evergrow.backtest.choose import (
    LEAST,
    TAIL,
    Difference,
    Recommendation,
    Stretch,
    difference,
    frugal,
    mean_of,
    recommend,
)
from evergrow.backtest.results import Results, judged_days
from evergrow.contracts import Value
from evergrow.errors import NotEnoughData
from evergrow.spec.policies import Recommend

Floats = NDArray[np.float64]


class Standing(Value):
    """How a policy has done."""

    policy: str
    options: Mapping[str, str]
    loss: float = Field(description="mean over rows")
    low: float
    high: float
    regret: float = Field(description="mean loss above that of the best policy in hindsight")
    beyond: float = Field(description="mean loss above that of the best policy of each day, which nobody can have")
    trainings: int
    promoted: int
    rejected: int
    failed: int
    rollouts: int = Field(description="begun by trainings whose version passed the gate and did not serve at once")
    taken_over: int = Field(description="rollouts that promoted their version")
    aborted: int = Field(description="rollouts that sent everyone back")
    rows_fitted: int
    cost: float = Field(description="of trainings, in money; 0 if CPU hours have no price")
    worth: float = Field(description="of predictions, in money; 0 if the document does not tell it")
    staleness: float = Field(description="mean age of the data of the model that answered, in days")
    against: Difference = Field(description="the reference")
    front: bool = Field(description="no policy has both fewer trainings and a lower loss")


class Comparison(Value):
    """All of that."""

    model: str
    metric: str
    days: tuple[int, int] = Field(description="first and last that were judged, since 1970")
    judged: int = Field(description="days")
    rows: int = Field(description="on them, with a label")
    reference: str
    left_out: tuple[str, ...] = Field(description="policies that served nobody for half of the time")
    standings: tuple[Standing, ...] = Field(description="best first")
    recommended: Recommendation
    frugal: Recommendation | None = Field(
        description="what loses least of all that train at most half as often as the reference; None: nothing does"
    )


def compare(results: Results, rule: Recommend) -> Comparison:
    """Put all policies beside each other, on the days on which all of them answered.

    Raises:
        NotEnoughData: there are too few such days.
    """
    days, late = judged_days(results.policies)
    kept = [one for one in results.policies if one.policy not in late]
    if len(days) < LEAST:
        raise NotEnoughData(
            f"{len(days)} days on which {len(kept)} policies answered, at least {LEAST} are needed to compare them",
            hint="replay a longer time, or look in results.json why trainings failed or were rejected",
        )
    tables = np.array([one.table(days) for one in kept])
    reference = next((i for i, one in enumerate(kept) if one.policy == results.reference), None)
    if reference is None:
        raise NotEnoughData(f"the reference {results.reference} served nobody for half of the time")
    whole = Stretch(tuple(kept), days, tables)
    standings = _standings(results, whole, reference)
    return Comparison(
        model=results.model, metric=results.metric, days=(int(days[0]), int(days[-1])), judged=len(days),
        rows=int(whole.rows.sum()), reference=results.reference, left_out=tuple(late),
        standings=tuple(sorted(standings, key=lambda one: (one.loss, one.trainings, one.policy))),
        recommended=recommend(whole, reference, rule),
        frugal=frugal(whole, reference, rule),
    )  # fmt: skip


def _standings(results: Results, whole: Stretch, reference: int) -> list[Standing]:
    rows, losses, means = whole.rows, whole.losses, whole.means
    best, oracle = float(means.min()), float(losses.min(axis=0).sum() / rows.sum())
    first, last = int(whole.days[0]), int(whole.days[-1]) + 1
    front = pareto(np.array(whole.trainings), means)
    found = []
    for i, one in enumerate(whole.kept):
        trained, quality = one.trained(first, last), mean_of(losses[i], rows)
        outcomes = [training.outcome for training in trained]
        fitted = sum(training.rows for training in trained)
        phases = [rollout.phase for rollout in one.rolled_out(first, last)]
        found.append(
            Standing(
                policy=one.policy, options=one.options, loss=float(means[i]), low=quality.lower(TAIL),
                high=quality.upper(TAIL), regret=float(means[i]) - best, beyond=float(means[i]) - oracle,
                trainings=len(trained), promoted=outcomes.count("promoted"), rejected=outcomes.count("rejected"),
                failed=outcomes.count("failed"), rollouts=len(phases), taken_over=phases.count("Promoted"),
                aborted=phases.count("Aborted"), rows_fitted=fitted, cost=fitted / 1e6 * results.million_rows,
                worth=float(whole.tables[i, 2].sum()), staleness=float(whole.tables[i, 3].sum() / rows.sum()),
                against=difference(losses[i], losses[reference], rows), front=bool(front[i]),
            )
        )  # fmt: skip
    return found


def pareto(cost: NDArray[np.int64], loss: Floats) -> NDArray[np.bool_]:
    """Which points are on the front: none costs no more and loses less, or costs less and loses no more.

    >>> pareto(np.array([1, 2, 3, 1]), np.array([0.5, 0.4, 0.4, 0.6])).tolist()
    [True, True, False, False]
    """
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)
    better = (cost[:, None] < cost) | (loss[:, None] < loss)
    return np.logical_not((no_worse & better).any(axis=0))
