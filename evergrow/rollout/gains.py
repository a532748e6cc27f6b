"""What a candidate gains over the stable version, in loss or in money, by draws: the check that decides.

Callers were divided by chance, and each request's propensity is in the log. Of a request the gain is estimated from the
one answer that was given and the probability that it would be given; nothing is assumed of how losses hang together
in time or change with it (`evergrow.statistics.betting`). Evidence counts once labels have had their time: a block of
requests is judged by the labels known then, whatever comes later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from evergrow.contracts import Outcome
from evergrow.spec.rollout import AbTest, Analysis, Finding
from evergrow.statistics.betting import (
    BettingTest,
    Capital,
    Capitals,
    PlannedTest,
    differences,
    extremes,
    numbered,
    overlap,
    planned_rows,
    unit_means,
)

Floats = NDArray[np.float64]
Better = Literal["lower", "higher"]

ASSIGNED, PROPENSITY, OUTCOME, UNIT = "assigned", "propensity", "outcome", "unit"
"""Columns of the rows: whether the candidate answered; the probability of that; the loss or the worth, NaN without a
label; what shares a draw (a request, or an entity while it keeps its version, which counts in its first block)."""
PILOT = 6
"""Blocks of a shadow by which bets are planned, and which are not bet on."""


@dataclass(frozen=True)
class Plan:
    """What is known of the outcome before the first request.

    Attributes:
        check: what the finding is called: "loss", "worth", "estimate".
        better: which outcomes are.
        low: outcomes are cut off below this.
        high: and above this.
        centre: their mean, as far as it is known; any number is right, a close one makes the test faster.
        variance: theirs.
        effect: the smallest gain worth finding, > 0.
    """

    check: str
    better: Better
    low: float
    high: float
    centre: float
    variance: float
    effect: float

    @classmethod
    def of(cls, check: str, better: Better, known: Floats, effect: float | None, part: float = 0.05) -> Plan:
        """By outcomes of the stable version, such as those of its holdout.

        Outcomes are cut at what one in a thousand exceeds by half of the range: a mean of what is cut so is compared.

        Args:
            check: see the class.
            better: see the class.
            known: [n], at least 2.
            effect: see the class; `part` of the mean's size if None.
            part: of the mean.
        """
        low, high = (float(end) for end in np.quantile(known, [0.001, 0.999]))
        room = (high - low) / 2 or 1.0
        low, high = (0.0 if better == "lower" and known.min() >= 0 else low - room), high + room
        cut = np.clip(known, low, high)
        centre, variance = float(cut.mean()), max(float(cut.var()), 1e-12 * room**2)
        return cls(check, better, low, high, centre, variance, effect or part * (abs(centre) or math.sqrt(variance)))


def by_draws(
    analysis: Analysis,
    plan: Plan,
    candidate: int,
    rows: pd.DataFrame,
    blocks: NDArray[np.int64],
    planned: Sequence[float] = (),
) -> Finding:
    """Whether the candidate is better by more than -margin, worse by more than margin, or not yet known.

    Args:
        analysis: alpha, harm, power and margin.
        plan: made before the first request.
        candidate: the version.
        rows: of blocks whose labels have had their time, in the order of their instants, with the columns above, [n].
        blocks: number of the block of each, not falling, [n]: the mean outcome of earlier blocks is the centre of the
            next.
        planned: every propensity that will occur, as far as it is known: what bets are made by must not change later.
    """
    known = rows[rows[OUTCOME].notna()]
    if len(rows) and not len(known):
        told = f"none of {len(rows):,} requests has a label"
        return Finding(check=plan.check, candidate=candidate, outcome="error", reason=told, requests=0)
    test, harm = _tests(analysis, plan, [0.5, *planned, *known[PROPENSITY].agg(["min", "max"]).dropna()])
    drawn = _draws(plan, analysis.margin, rows, blocks)
    state, worse = test.step(test.start(), *drawn), harm.step(harm.start(), *drawn)
    found = _found(analysis, plan, candidate, test, state, worse, f"n={len(known):,}")
    return found.model_copy(update={"requests": len(known)})


def _found(
    analysis: Analysis, plan: Plan, candidate: int, test: PlannedTest, state: Capitals, worse: Capital, size: str
) -> Finding:
    """What both capitals say; `size` is what they are of, in words."""
    low, high = (end - analysis.margin for end in test.interval(state, analysis.alpha))
    way = state.greater.weight / test.horizon
    outcome, why = _judged(analysis, plan, test.verdict(state), worse.p_value, way)
    told = f"gains from {low:.4g} to {high:.4g} against -{analysis.margin:g}, {size}: {why}"
    return Finding(
        check=plan.check, candidate=candidate, outcome=outcome, reason=told,
        low=low if math.isfinite(low) else None, high=high if math.isfinite(high) else None,
    )  # fmt: skip


def _judged(analysis: Analysis, plan: Plan, verdict: str, worse: float, way: float) -> tuple[Outcome, str]:
    if worse <= analysis.harm:
        return "fail", f"worse, p {worse:.2g}, abort at {analysis.harm:g}"
    if verdict == "greater":
        return "pass", f"better, p at most {analysis.alpha:g}"
    if verdict == "less":
        return "fail", f"surely not better by {plan.effect:.4g}, the smallest gain worth finding"
    return "inconclusive", f"{min(way, 1):.0%} of the requests by which {plan.effect:.4g} would be seen"


def _tests(analysis: Analysis, plan: Plan, propensities: Sequence[float]) -> tuple[PlannedTest, BettingTest]:
    """Of the gain + margin, which is above 0 if the candidate is to be promoted."""
    bounds = extremes(propensities, [plan.low, plan.high], plan.low, plan.high)
    low, high = (bounds[0], bounds[1]) if plan.better == "higher" else (-bounds[1], -bounds[0])
    high += analysis.margin
    effect = plan.effect + analysis.margin
    test = PlannedTest(effect, 4 * plan.variance, (low, high), analysis.alpha, analysis.power)
    return test, BettingTest.planned(effect, 4 * plan.variance, high, alternative="less")


def _draws(
    plan: Plan, margin: float, rows: pd.DataFrame, blocks: NDArray[np.int64]
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The gain of each draw, its weight and its block."""
    outcomes = np.clip(rows[OUTCOME].to_numpy(np.float64), plan.low, plan.high)
    assigned, propensity = rows[ASSIGNED].to_numpy(np.float64), rows[PROPENSITY].to_numpy(np.float64)
    units = pd.factorize(rows[UNIT])[0]
    _, first = np.unique(units, return_index=True)
    # A draw that is kept from block to block makes the later ones no news.
    news = ~np.isnan(outcomes) & (blocks[first][units] == blocks)
    outcomes, propensity, units = outcomes[news], propensity[news], units[news]
    sign = 1.0 if plan.better == "higher" else -1.0
    x = sign * differences(assigned[news], propensity, outcomes, _centres(plan, outcomes, blocks[news]))
    # Rows that share a draw are one value: their mean. Units are numbered as they come, as blocks are.
    return unit_means(x + margin, units), unit_means(overlap(propensity), units), blocks[first][np.unique(units)]


def _centres(plan: Plan, outcomes: Floats, blocks: NDArray[np.int64]) -> Floats:
    """For each row the mean outcome of earlier blocks, the plan's counting as one row."""
    starts, number = numbered(blocks)
    total, count, before = plan.centre, 1.0, []
    for block in np.split(outcomes, starts[1:]):
        before.append(total / count)
        total, count = total + float(block.sum()), count + float(len(block))
    return np.array(before)[number]


def by_pairs(analysis: Analysis, plan: Plan, candidate: int, gains: Floats, blocks: NDArray[np.int64]) -> Finding:
    """Whether a shadow's answers would have been better: what both versions made of the same requests is compared.

    No draw divides the requests, so it is time that must be dealt with: the mean of a block is one observation, and the
    gain is taken for one whose mean, given the past, is what is asked about. Blocks must be long enough for that. The
    first PILOT blocks only tell how much blocks differ, which bets are planned by.

    Args:
        analysis: alpha, harm, power and margin.
        plan: made before the first request.
        candidate: the version.
        gains: of each request with a label, better being above 0, in the order of time, [n].
        blocks: number of the block of each, not falling, [n].
    """
    numbers, at = np.unique(blocks, return_inverse=True)
    room = plan.high - plan.low
    rows = np.bincount(at, minlength=len(numbers))
    means = np.bincount(at, np.clip(gains, -room, room), minlength=len(numbers)) / np.maximum(rows, 1)
    if len(means) <= PILOT:
        told = f"{len(means)} blocks of time, more than {PILOT} are needed"
        return Finding(check=plan.check, candidate=candidate, outcome="inconclusive", reason=told, requests=len(gains))
    variance = max(float(means[:PILOT].var(ddof=1)), 1e-9 * room**2)
    effect, high = plan.effect + analysis.margin, room + analysis.margin
    test = PlannedTest(effect, variance, (-room, high), analysis.alpha, analysis.power)
    harm = BettingTest.planned(effect, variance, high, alternative="less")
    values = means[PILOT:] + analysis.margin
    state, worse = test.step(test.start(), values), harm.step(harm.start(), values)
    found = _found(analysis, plan, candidate, test, state, worse, f"{len(means)} blocks")
    return found.model_copy(update={"effect": float(means.mean()), "requests": len(gains)})


def at_horizon(analysis: Analysis, plan: Plan, rule: AbTest, candidate: int, rows: pd.DataFrame) -> Finding:
    """The one look of a test of fixed size: a z-test of the first so many requests, and silence before.

    Args:
        analysis: alpha, power and margin.
        plan: made before the first request.
        rule: the horizon.
        candidate: the version.
        rows: see `by_draws`.
    """
    labelled = rows[rows[OUTCOME].notna()]
    share = rule.weight / 100
    least = planned_rows(plan.effect + analysis.margin, 4 * plan.variance, analysis.alpha, analysis.power)
    wanted = rule.requests or math.ceil(least / float(overlap(share)))
    if len(labelled) < wanted:
        told = f"{len(labelled):,} of {wanted:,} labelled requests: it is read once"
        return Finding(
            check=plan.check, candidate=candidate, outcome="inconclusive", reason=told, requests=len(labelled)
        )
    taken = labelled.iloc[:wanted]
    sign = 1.0 if plan.better == "higher" else -1.0
    outcomes = np.clip(taken[OUTCOME].to_numpy(np.float64), plan.low, plan.high)
    x = sign * differences(taken[ASSIGNED], taken[PROPENSITY], outcomes, outcomes.mean())
    each = unit_means(x, pd.factorize(taken[UNIT])[0])
    gain, error = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
    p = float(ndtr(-(gain + analysis.margin) / error)) if error else 1.0
    told = f"gains {gain:.4g} ± {error:.2g} against -{analysis.margin:g}, n={wanted:,}; p {p:.2g} at {analysis.alpha:g}"
    reach = 1.96 * error
    return Finding(
        check=plan.check, candidate=candidate, outcome="pass" if p <= analysis.alpha else "fail", reason=told,
        effect=gain, low=gain - reach, high=gain + reach, requests=wanted,
    )  # fmt: skip
