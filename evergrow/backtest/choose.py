"""Which policy to take: chosen by the first part of the time, and checked on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import stdtr

from evergrow.backtest.results import Result
from evergrow.contracts import Value
from evergrow.spec.policies import Recommend
from evergrow.statistics.means import Estimate, estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEAST = 14
"""Days that policies are compared on at least."""
TAIL = 0.025


class Difference(Value):
    """Mean loss of a policy less that of another on the same rows, with its 95 % interval; below 0 it is better."""

    value: float
    low: float
    high: float
    p_value: float = Field(description="two-sided, of no difference; days' correlation is allowed for")


class Recommendation(Value):
    """Which policy to take, by the first part of the time, and what the rest of the time says of it."""

    policy: str
    patch: Mapping[str, Any] = Field(description="to be pasted into the document's `spec`")
    reason: str
    later: Difference | None = Field(description="against the reference, on the days that it was not chosen by")
    later_trainings: tuple[int, int] = Field(description="on those days: its own, and the reference's")
    said: str = Field(description="what the rest of the time says, in words")

    @property
    def refuted(self) -> bool:
        """Whether the rest of the time shows that it loses more than the reference."""
        return self.later is not None and self.later.low > 0


@dataclass(frozen=True)
class Stretch:
    """What policies came to on some days.

    Attributes:
        kept: the policies, [P].
        days: since 1970, rising.
        tables: rows, and sums of loss, worth and age, of each day, [P, 4, days].
    """

    kept: tuple[Result, ...]
    days: Ints
    tables: Floats

    def part(self, since: int, until: int) -> Stretch:
        """The days from one position up to another."""
        return Stretch(self.kept, self.days[since:until], self.tables[:, :, since:until])

    @property
    def rows(self) -> Floats:
        """Of each day, with a label, [days]."""
        rows: Floats = self.tables[0, 0]
        return rows

    @property
    def losses(self) -> Floats:
        """Sum over each day's rows, [P, days]."""
        losses: Floats = self.tables[:, 1]
        return losses

    @cached_property
    def means(self) -> Floats:
        """Mean loss over all rows, [P]."""
        means: Floats = self.losses.sum(axis=1) / self.rows.sum()
        return means

    @cached_property
    def trainings(self) -> list[int]:
        """That were begun on these days, [P]."""
        first, last = int(self.days[0]), int(self.days[-1]) + 1
        return [len(one.trained(first, last)) for one in self.kept]

    def told(self, policy: int) -> str:
        """A policy with its numbers."""
        return f"{self.kept[policy].policy} ({self.means[policy]:.4f} a row, {self.trainings[policy]} trainings)"


def recommend(whole: Stretch, reference: int, rule: Recommend) -> Recommendation:
    """The policy that trains least among those that are shown to be within a tolerance of the best.

    A policy counts as within it if the upper end of its difference to the best, by paired days, with Bonferroni's
    correction over all policies, is: that no difference was found shows nothing. The best is always among them.

    Args:
        whole: all days that are judged.
        reference: position of the policy that the choice is held against.
        rule: how it is chosen.
    """
    count = _count(whole, rule)
    first = whole.part(0, count)
    best = int(np.argmin(first.means))
    allowed = rule.tolerance * abs(float(first.means[best]))
    alpha = rule.alpha / max(1, len(whole.kept) - 1)
    reach = [mean_of(one - first.losses[best], first.rows).upper(alpha) for one in first.losses]
    within = [i for i, reached in enumerate(reach) if reached <= allowed or i == best]
    chosen = min(within, key=lambda i: (first.trainings[i], first.means[i], first.kept[i].policy))
    told = (
        f"of {len(whole.kept)} policies {first.told(best)} lost least over {count} days; with it, {len(within)} are "
        f"shown to lose at most {allowed:.4f} ({rule.tolerance:.1%}) more, and of these {first.told(chosen)} trains "
        "least"
    )
    return _checked(whole, count, chosen, reference, told)


def frugal(whole: Stretch, reference: int, rule: Recommend) -> Recommendation | None:
    """The policy that loses least of those that train at most half as often as the reference; None if none does.

    By what was seen, not by what was shown: the rest of the time says how that does.
    """
    count = _count(whole, rule)
    first = whole.part(0, count)
    most = first.trainings[reference] // 2
    few = [i for i, trainings in enumerate(first.trainings) if trainings <= most and i != reference]
    if not few:
        return None
    chosen = min(few, key=lambda i: (first.means[i], first.trainings[i], first.kept[i].policy))
    told = (
        f"of {len(few)} policies that trained at most {most} times in {count} days, half as often as "
        f"{first.told(reference)}, {first.told(chosen)} lost least"
    )
    return _checked(whole, count, chosen, reference, told)


def _count(whole: Stretch, rule: Recommend) -> int:
    """Days that are chosen by."""
    return max(2, round(len(whole.days) * rule.chosen_by))


def _checked(whole: Stretch, count: int, chosen: int, reference: int, told: str) -> Recommendation:
    """A choice, with what the days after the first `count` say of it against the reference."""
    policy = whole.kept[chosen]
    rest = whole.part(count, len(whole.days))
    if len(rest.days) < LEAST:
        said = f"{len(rest.days)} days are left to see how that does: too few"
        return Recommendation(
            policy=policy.policy, patch=policy.patch, reason=told, later=None, later_trainings=(0, 0), said=said
        )
    found = difference(rest.losses[chosen], rest.losses[reference], rest.rows)
    numbers = (rest.trainings[chosen], rest.trainings[reference])
    surely = "surely " if found.low > 0 or found.high < 0 else ""
    way = "lost as much as" if found.value == 0 else "lost less than" if found.value < 0 else "lost more than"
    said = (
        f"on the {len(rest.days)} days after these it {surely}{way} {whole.kept[reference].policy}: "
        f"{found.value:+.4f} a row [{found.low:+.4f}, {found.high:+.4f}], with {numbers[0]} trainings against "
        f"{numbers[1]}"
    )
    return Recommendation(
        policy=policy.policy, patch=policy.patch, reason=told, later=found, later_trainings=numbers, said=said
    )


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
