"""How policies compare: quality with intervals, regret, cost, significance; and which of them is recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import stdtr

from evergrow.backtest.results import Result, Results, age_of, judged_days
from evergrow.contracts import Value
from evergrow.errors import NotEnoughData
from evergrow.spec.policies import Recommend
from evergrow.statistics.means import Estimate, estimate

Floats = NDArray[np.float64]
Days = NDArray[np.int64]
LEAST = 14
"""Days that policies are compared on at least."""
TAIL = 0.025


class Difference(Value):
    """Mean loss of a policy less that of another on the same rows, with its 95 % interval; below 0 it is better."""

    value: float
    low: float
    high: float
    p_value: float = Field(description="two-sided, of no difference; days' correlation is allowed for")


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
    rows_fitted: int
    cost: float = Field(description="of trainings, in money; 0 if CPU hours have no price")
    worth: float = Field(description="of predictions, in money; 0 if the document does not tell it")
    staleness: float = Field(description="mean age of the data of the model that answered, in days")
    against: Difference = Field(description="the reference")
    front: bool = Field(description="no policy has both fewer trainings and a lower loss")


class Recommendation(Value):
    """Which policy to take, by the first part of the time, and what the rest of the time says of it."""

    policy: str
    patch: Mapping[str, Any] = Field(description="to be pasted into the document's `spec`")
    reason: str
    later: Difference | None = Field(description="against the reference, on the days that it was not chosen by")
    later_trainings: tuple[int, int] = Field(description="on those days: its own, and the reference's")
    said: str = Field(description="what the rest of the time says, in words")


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
    standings = _standings(results, kept, tables, days, reference)
    return Comparison(
        model=results.model, metric=results.metric, days=(int(days[0]), int(days[-1])), judged=len(days),
        rows=int(tables[0, 0].sum()), reference=results.reference, left_out=tuple(late),
        standings=tuple(sorted(standings, key=lambda one: (one.loss, one.trainings, one.policy))),
        recommended=recommend(kept, tables, days, reference, rule),
    )  # fmt: skip


def _standings(results: Results, kept: Sequence[Result], tables: Floats, days: Days, reference: int) -> list[Standing]:
    rows, losses = tables[0, 0], tables[:, 1]
    means = losses.sum(axis=1) / rows.sum()
    best, oracle = float(means.min()), float(losses.min(axis=0).sum() / rows.sum())
    begun = [one.trained(int(days[0]), int(days[-1]) + 1) for one in kept]
    counts = np.array([len(trained) for trained in begun])
    front = pareto(counts, means)
    found = []
    for i, (one, trained) in enumerate(zip(kept, begun, strict=True)):
        quality = mean_of(losses[i], rows)
        outcomes = [training.outcome for training in trained]
        fitted = sum(training.rows for training in trained)
        found.append(
            Standing(
                policy=one.policy, options=one.options, loss=float(means[i]), low=quality.lower(TAIL),
                high=quality.upper(TAIL), regret=float(means[i]) - best, beyond=float(means[i]) - oracle,
                trainings=len(trained), promoted=outcomes.count("promoted"), rejected=outcomes.count("rejected"),
                failed=outcomes.count("failed"), rows_fitted=fitted, cost=fitted / 1e6 * results.million_rows,
                worth=float(tables[i, 2].sum()), staleness=age_of(tables[i]).total_seconds() / 86_400,
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


def difference(losses: Floats, other: Floats, rows: Floats) -> Difference:
    """Of two policies' sums of loss on the same days, [days]."""
    found = mean_of(losses - other, rows)
    p = 1.0
    if found.freedom and found.error > 0:
        p = float(2 * stdtr(found.freedom, -abs(found.value) / found.error))
    return Difference(value=found.value, low=found.lower(TAIL), high=found.upper(TAIL), p_value=p)


def mean_of(sums: Floats, rows: Floats) -> Estimate:
    """Mean over rows, from each day's sum and rows; as `statistics.means.mean` of the rows by day."""
    value = float(sums.sum() / rows.sum())
    return estimate(value, (sums - value * rows) / rows.mean())


def recommend(kept: Sequence[Result], tables: Floats, days: Days, reference: int, rule: Recommend) -> Recommendation:
    """The policy that trains least among those that are shown to be within a tolerance of the best.

    A policy counts as within it if the upper end of its difference to the best, by paired days, with Bonferroni's
    correction over all policies, is: that no difference was found shows nothing. The best is always among them.

    Args:
        kept: the policies, [P].
        tables: their days, [P, 4, days].
        days: since 1970.
        reference: position of the policy that the choice is held against.
        rule: how it is chosen.
    """
    count = max(2, round(len(days) * rule.chosen_by))
    rows, losses = tables[0, 0, :count], tables[:, 1, :count]
    means = losses.sum(axis=1) / rows.sum()
    best = int(np.argmin(means))
    allowed = rule.tolerance * abs(float(means[best]))
    alpha = rule.alpha / max(1, len(kept) - 1)
    reach = np.array([mean_of(one - losses[best], rows).upper(alpha) for one in losses])
    reach[best] = 0.0
    trainings = np.array([len(one.trained(int(days[0]), int(days[count - 1]) + 1)) for one in kept])
    within = np.flatnonzero(reach <= allowed).tolist()
    chosen = int(min(within, key=lambda i: (trainings[i], means[i], kept[i].policy)))
    told = (
        f"of {len(kept)} policies {kept[best].policy} lost least over {count} days ({means[best]:.4f} a row, "
        f"{trainings[best]} trainings); {len(within)} are shown to be worse by at most {allowed:.4f} "
        f"({rule.tolerance:.1%}), and of these {kept[chosen].policy} trains least ({means[chosen]:.4f}, "
        f"{trainings[chosen]} trainings)"
    )
    later, numbers, said = _later(kept, tables, days, count, chosen, reference)
    return Recommendation(
        policy=kept[chosen].policy,
        patch=kept[chosen].patch,
        reason=told,
        later=later,
        later_trainings=numbers,
        said=said,
    )


def _later(
    kept: Sequence[Result], tables: Floats, days: Days, count: int, chosen: int, reference: int
) -> tuple[Difference | None, tuple[int, int], str]:
    """What the days after the first `count` say of a choice, against the reference."""
    if len(days) - count < LEAST:
        return None, (0, 0), f"{len(days) - count} days are left to see how that does: too few"
    rows, losses = tables[0, 0, count:], tables[:, 1, count:]
    found = difference(losses[chosen], losses[reference], rows)
    first, last = int(days[count]), int(days[-1]) + 1
    numbers = (len(kept[chosen].trained(first, last)), len(kept[reference].trained(first, last)))
    surely = "surely " if found.low > 0 or found.high < 0 else ""
    way = "lost as much as" if found.value == 0 else "lost less than" if found.value < 0 else "lost more than"
    said = (
        f"on the {len(days) - count} days after these it {surely}{way} {kept[reference].policy}: "
        f"{found.value:+.4f} a row [{found.low:+.4f}, {found.high:+.4f}], with {numbers[0]} trainings against "
        f"{numbers[1]}"
    )
    return found, numbers, said
