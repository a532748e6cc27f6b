"""Checks that need no labels: they may abort at any time, and must have passed before a version is promoted.

Each is a test that may be looked at after every request. Fail: surely beyond the limit, wrongly so with probability
`harm` at most. Pass: surely within it, wrongly so with probability `alpha`. Between the two, more is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Outcome
from evergrow.spec.rollout import Analysis, Disagreement, Finding
from evergrow.statistics.ecdf import compare_values
from evergrow.statistics.proportions import RateTest, ShareTest, rate_interval

Floats = NDArray[np.float64]
FEWEST = 100
"""Requests below which a split that looks right says nothing."""


@dataclass(frozen=True)
class Answered:
    """Requests that a version got since the rollout began.

    Attributes:
        requests: all.
        errors: that failed.
        late: that were answered later than the limit; None: who counted these does not know.
    """

    requests: int
    errors: int
    late: int | None


@dataclass(frozen=True)
class Split:
    """Requests while the weights stood still.

    Attributes:
        weights: percent of the candidate and of all others.
        requests: that each got.
    """

    weights: tuple[int, int]
    requests: tuple[int, int]


def sample_ratio(analysis: Analysis, candidate: int, splits: Sequence[Split]) -> Finding:
    """Whether requests went where the weights said: where they did not, nothing else can be believed.

    Args:
        analysis: of the rollout.
        candidate: the version.
        splits: in their order.
    """
    test = ShareTest()
    state = test.start()
    for split in splits:
        state = test.step(state, split.requests, split.weights)
    got = sum(split.requests[0] for split in splits)
    total = sum(sum(split.requests) for split in splits)
    expected = sum(sum(s.requests) * s.weights[0] / sum(s.weights) for s in splits)
    told = f"{got:,} of {total:,} requests, {expected:,.0f} by the weights; p {state.p_value:.2g}"
    outcome: Outcome = "fail" if state.p_value <= analysis.harm else "pass" if total >= FEWEST else "inconclusive"
    effect = (got - expected) / total if total else None
    return Finding(
        check="sample ratio", candidate=candidate, outcome=outcome, reason=told, effect=effect, requests=total
    )


def errors(analysis: Analysis, candidate: int, answered: Answered) -> Finding | None:
    """Whether too many requests fail; None if that is no guardrail."""
    if "errors" not in analysis.guardrails:
        return None
    return _rate(analysis, "errors", candidate, answered.errors, answered.requests, analysis.errors.limit)


def latency(analysis: Analysis, candidate: int, answered: Answered) -> Finding | None:
    """Whether too many answers come late; None if that is no guardrail."""
    if "latency" not in analysis.guardrails:
        return None
    found = _rate(analysis, "latency", candidate, answered.late or 0, answered.requests, analysis.latency.late)
    told = f"{found.reason}, later than {analysis.latency.milliseconds:,} ms"
    return found.model_copy(update={"reason": told})


def score_shift(analysis: Analysis, candidate: int, ours: Floats, theirs: Floats) -> Finding | None:
    """Whether the candidate's scores are distributed otherwise than the stable version's; None if that is no guardrail.

    Args:
        analysis: of the rollout.
        candidate: the version.
        ours: its scores, [n].
        theirs: the stable version's over the same time, [m].
    """
    if "shift" not in analysis.guardrails:
        return None
    level = min(analysis.alpha, analysis.harm)
    found = compare_values(np.sort(ours), np.sort(theirs), level)
    outcome: Outcome = {"more": "fail", "within": "pass", "open": "inconclusive"}[found.verdict(analysis.shift)]  # type: ignore[assignment]
    told = f"distance {found.low:.3f} ± {found.radius:.3f} against {analysis.shift:g}"
    if math.isinf(found.radius):
        told = f"{min(len(ours), len(theirs)):,} scores are too few to tell"
        return Finding(check="score shift", candidate=candidate, outcome=outcome, reason=told, requests=len(ours))
    return Finding(
        check="score shift", candidate=candidate, outcome=outcome, reason=told, effect=found.low,
        low=max(0.0, found.low - found.radius), high=min(1.0, found.high + found.radius), requests=len(ours),
    )  # fmt: skip


def paired_scores(analysis: Analysis, candidate: int, rule: Disagreement, ours: Floats, theirs: Floats) -> Finding:
    """Whether both versions' scores of the same requests are too often far apart.

    Args:
        analysis: of the rollout.
        candidate: the version.
        rule: what is far apart, and how often.
        ours: the candidate's scores, [n].
        theirs: the stable version's of the same requests, [n].
    """
    apart = int((np.abs(ours - theirs) > rule.difference).sum())
    found = _rate(analysis, "paired scores", candidate, apart, len(ours), rule.share)
    return found.model_copy(update={"reason": f"{found.reason}, apart by more than {rule.difference:g}"})


def _rate(analysis: Analysis, check: str, candidate: int, events: int, rows: int, limit: float) -> Finding:
    """A share of rows against its limit."""
    above = math.exp(-max(0.0, RateTest(limit).log_evidence(events, rows)))
    below = math.exp(-max(0.0, RateTest(limit, "less").log_evidence(events, rows)))
    outcome: Outcome = "fail" if above <= analysis.harm else "pass" if below <= analysis.alpha else "inconclusive"
    low, high = rate_interval(events, rows, analysis.alpha)
    share = events / rows if rows else 0.0
    told = f"{events:,} of {rows:,} ({share:.2%}, from {low:.2%} to {high:.2%}) against {limit:.2%}"
    return Finding(
        check=check, candidate=candidate, outcome=outcome, reason=told, effect=share, low=low, high=high, requests=rows
    )
