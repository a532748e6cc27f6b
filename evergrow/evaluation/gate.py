"""May the challenger replace the champion? A paired test on the same rows, absolute floors, and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Check, Metric, Verdict
from evergrow.spec.model import MINIMUM_BLOCKS, Floor, Gate
from evergrow.statistics.means import Ints, mean


@dataclass(frozen=True)
class ChampionLosses:
    """Losses per row of what serves now, float64 [n]."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class ControlLosses:
    """Losses per row of what a refit would have been, on the same rows in the same order, float64 [n]."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class ChallengerLosses:
    """Losses per row of what wants to serve, on the same rows in the same order, float64 [n]."""

    values: NDArray[np.float64]


def compare(
    champion: ChampionLosses,
    challenger: ChallengerLosses,
    blocks: Ints,
    gate: Gate,
    minimum_rows: int,
    rival: str = "champion",
) -> Verdict:
    """Judge by mean(champion's loss - challenger's loss), the reduction, against the gate's margin.

    Pass if it is above the margin with confidence 1 - alpha, fail if below it with that confidence, else
    inconclusive; also inconclusive on too few rows or blocks. No rows, or a loss that is not finite, is an error.
    A challenger that is not better by the margin passes with probability alpha at most.

    Args:
        champion: its losses.
        challenger: its losses.
        blocks: the block of time of each row, 0 … T - 1 in order of time without gaps.
        gate: metric, margin and alpha.
        minimum_rows: fewer are inconclusive.
        rival: what the reason calls the champion.
    """
    old, new, n = champion.values, challenger.values, len(challenger.values)
    if fault := fault_of(old, new, gate.metric, rival):
        return Verdict(outcome="error", reason=fault)
    reduction = mean(old - new, blocks)
    low, high = reduction.lower(gate.alpha), reduction.upper(gate.alpha)
    reason = (
        f"{gate.metric} {new.mean():.4f} vs {rival} {old.mean():.4f}, "
        f"difference {reduction.value:+.4f} [{low:+.4f}, {high:+.4f}], "
        f"margin {gate.margin:g}, n={n:,} in {reduction.blocks} blocks"
    )
    if n < minimum_rows:
        return Verdict(outcome="inconclusive", reason=f"{reason}: needs {minimum_rows:,} rows")
    if reduction.blocks < MINIMUM_BLOCKS:
        return Verdict(outcome="inconclusive", reason=f"{reason}: needs {MINIMUM_BLOCKS} blocks")
    if low > gate.margin:
        return Verdict(outcome="pass", reason=reason)
    return Verdict(outcome="fail" if high < gate.margin else "inconclusive", reason=reason)


def check_control(
    control: ControlLosses, update: ChallengerLosses, blocks: Ints, gate: Gate, tolerance: float, minimum_rows: int
) -> Check:
    """Fail if an update is surely worse than its control, by more than is tolerated; else pass.

    Surely is with the confidence of `compare`, whose rows, blocks and errors are these; too few to tell is for the
    champion's check to say, which is made on the same rows.

    Args:
        control: losses of a refit.
        update: losses of what went on from the champion.
        blocks: the block of time of each row, as `compare` takes them.
        gate: metric and alpha.
        tolerance: by how much the update may be worse, as a share of the control's mean loss; in [0, 1].
        minimum_rows: fewer fail nothing.
    """
    tolerated = tolerance * float(control.values.sum()) / max(len(control.values), 1)
    gate = gate.model_copy(update={"margin": -tolerated})
    found = compare(ChampionLosses(control.values), update, blocks, gate, minimum_rows, "control")
    outcome = found.outcome if found.outcome in ("fail", "error") else "pass"
    return Check(name="control", verdict=Verdict(outcome=outcome, reason=found.reason))


def fault_of(old: NDArray[np.float64], new: NDArray[np.float64], metric: str, rival: str) -> str:
    """Why losses cannot be compared: there are none, or not as many, or one is not finite; empty if they can."""
    if not len(new):
        return f"{metric}: no rows to compare on"
    if len(old) != len(new):
        return f"{metric}: {len(new):,} losses of the challenger, {len(old):,} of the {rival}"
    for who, values in (("challenger", new), (rival, old)):
        if bad := int((~np.isfinite(values)).sum()):
            return f"{metric}: {bad:,} of the {who}'s {len(values):,} losses are not finite numbers"
    return ""


def check_floor(floor: Floor, metrics: Sequence[Metric]) -> Check:
    """Pass if the metric's whole interval clears the floor, fail if none of it does, else inconclusive.

    A metric that was not computed is an error.
    """
    name, found = f"floor {floor.metric}", next((m for m in metrics if m.name == floor.metric), None)
    if found is None or not all(map(math.isfinite, (found.low, found.high))):
        return Check(name=name, verdict=Verdict(outcome="error", reason=f"{floor.metric} is missing"))
    shown = f"{floor.metric} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    if floor.at_least is not None:
        clears, misses = found.low >= floor.at_least, found.high < floor.at_least
        reason = f"{shown}, at least {floor.at_least:g}, n={found.rows:,}"
    else:
        most = float(floor.at_most if floor.at_most is not None else math.nan)
        clears, misses = found.high <= most, found.low > most
        reason = f"{shown}, at most {most:g}, n={found.rows:,}"
    outcome = "pass" if clears else "fail" if misses else "inconclusive"
    return Check(name=name, verdict=Verdict(outcome=outcome, reason=reason))


def check_limit(name: str, value: float, limit: float, unit: str) -> Check:
    """Pass if a cost is within its limit; a cost that is no number is an error."""
    if not math.isfinite(value):
        return Check(name=name, verdict=Verdict(outcome="error", reason=f"{name} was not measured"))
    return Check(
        name=name, verdict=Verdict.when(value <= limit, f"{name} {value:.3g} {unit}, at most {limit:g} {unit}")
    )
