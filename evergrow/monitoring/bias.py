"""Bias in production: differences between groups, with intervals that allow for how rows of one day hang together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from evergrow.contracts import Observation, Verdict
from evergrow.evaluation.slices import values_of
from evergrow.monitoring.scene import Scene
from evergrow.prediction_log.records import logged
from evergrow.spec.model import Fairness
from evergrow.statistics.means import Ints, mean

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_ROWS = 50
"""A group is compared if its metric is made of at least this many rows."""


@dataclass(frozen=True)
class Gap:
    """The difference between two groups.

    Attributes:
        more: the group with the higher value.
        less: the other one.
        effect: their difference, ≥ 0.
        error: its standard error.
        freedom: degrees of freedom of Student's t.
        rows: that both values are made of.
    """

    more: str
    less: str
    effect: float
    error: float
    freedom: int
    rows: int

    def lower(self, alpha: float) -> float:
        """What the true difference is above with confidence 1 - alpha; -inf from a single day."""
        return self.effect - float(stdtrit(self.freedom, 1 - alpha)) * self.error if self.freedom else -np.inf


def by_group(rule: Fairness, groups: pd.Series, y: Floats, scores: Floats, losses: Floats) -> Mapping[str, float]:
    """The metric of each group, by fairlearn's MetricFrame.

    Args:
        rule: which metric, and from which score on a row is selected.
        groups: of each row, [n].
        y: labels, [n].
        scores: [n].
        losses: of the gate's metric, [n].
    """
    from fairlearn import metrics

    if rule.metric == "loss":
        frame = metrics.MetricFrame(
            metrics=lambda _, loss: float(np.mean(loss)), y_true=y, y_pred=losses, sensitive_features=groups
        )
    else:
        frame = metrics.MetricFrame(
            metrics=getattr(metrics, rule.metric),
            y_true=y,
            y_pred=(scores >= rule.threshold).astype(int),
            sensitive_features=groups,
        )
    return {str(name): float(value) for name, value in frame.by_group.items()}


def gaps(rule: Fairness, groups: pd.Series, y: Floats, scores: Floats, losses: Floats, blocks: Ints) -> list[Gap]:
    """The difference of each pair of groups that have enough rows; arguments as of `by_group`.

    Each of the metrics is a mean over some of a group's rows: of all, of those with label 1, or of those with label 0.

    Args:
        rule: which metric.
        groups: of each row, [n].
        y: labels, [n].
        scores: [n].
        losses: [n].
        blocks: the block of time of each row, 0 … T - 1 without gaps, [n].
    """
    counted = {"true_positive_rate": y == 1, "false_positive_rate": y == 0}.get(rule.metric, np.ones(len(y), bool))
    amount = losses if rule.metric == "loss" else (scores >= rule.threshold).astype(np.float64)
    names, values = groups.to_numpy(), by_group(rule, groups, y, scores, losses)
    rows = {name: (names == name) & counted for name in values}
    enough = [name for name in values if rows[name].sum() >= LEAST_ROWS]
    return [_gap(*_ordered(a, b, values), values, rows, amount, blocks) for a, b in combinations(enough, 2)]


def _ordered(a: str, b: str, values: Mapping[str, float]) -> tuple[str, str]:
    return (a, b) if values[a] >= values[b] else (b, a)


def _gap(
    more: str, less: str, values: Mapping[str, float], rows: Mapping[str, Mask], amount: Floats, blocks: Ints
) -> Gap:
    here, there = rows[more], rows[less]
    contribution = np.where(here, (amount - values[more]) / here.mean(), 0.0)
    contribution -= np.where(there, (amount - values[less]) / there.mean(), 0.0)
    error = mean(contribution, blocks)
    n = int(here.sum() + there.sum())
    return Gap(more, less, values[more] - values[less], error.error, error.freedom, n)


def observe(
    scene: Scene, rule: Fairness, rows: pd.DataFrame, y: Floats, scores: Floats, losses: Floats, blocks: Ints
) -> Observation:
    """The pair of groups that differs most certainly, against the limit; an alarm if it is beyond doubt above it.

    Args:
        scene: whose alpha all pairs share.
        rule: column, metric and limit.
        rows: of matured days, with the rule's column, [n].
        y: labels, [n].
        scores: [n].
        losses: of the gate's metric, [n].
        blocks: the block of time of each row, [n].
    """
    subject, test = f"{rule.metric} by {rule.column}", "largest difference between groups"
    column = logged(rule.column)
    if column not in rows:
        reason = f"neither predictions nor examples have a column {rule.column!r}"
        return scene.observe("bias", subject, test, 0.0, rule.limit, 0, Verdict(outcome="error", reason=reason))
    found = gaps(rule, values_of(rows[column]), y, scores, losses, blocks) if len(rows) else []
    if not found:
        reason = f"{rule.column}: fewer than two groups of {LEAST_ROWS} rows"
        return scene.observe(
            "bias",
            subject,
            test,
            0.0,
            rule.limit,
            len(rows),
            Verdict(outcome="inconclusive", reason=reason),
            alarm=True,
        )
    alpha = scene.alpha / len(found)
    worst = max(found, key=lambda gap: (gap.lower(alpha), gap.effect))
    return _judged(scene, rule, worst, alpha, subject, test)


def _judged(scene: Scene, rule: Fairness, worst: Gap, alpha: float, subject: str, test: str) -> Observation:
    surely = worst.lower(alpha)
    outcome = "fail" if surely > rule.limit else "pass" if worst.effect <= rule.limit else "inconclusive"
    reason = (
        f"{subject}: {worst.more} is {worst.effect:.3f} above {worst.less}, surely more than {surely:.3f}, "
        f"limit {rule.limit:g}, n={worst.rows:,}"
    )
    low, high = worst.lower(0.025), 2 * worst.effect - worst.lower(0.025)
    bounds = {"low": low, "high": high} if np.isfinite(low) else {}
    verdict = Verdict(outcome=outcome, reason=reason)
    return scene.observe(
        "bias", subject, test, worst.effect, rule.limit, worst.rows, verdict, alarm=True,
        slice=f"{rule.column}={worst.more}", **bounds,
    )  # fmt: skip
