"""What the answers of the recent days tell together: joint drift of all features, and of what scores come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Comparison, Feature, Observation, ObservationKind, Verdict
from evergrow.errors import NotEnoughData
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.explanation import explanation_drift
from evergrow.monitoring.multivariate import classifier_test, kernel_test
from evergrow.monitoring.performance import VERSION
from evergrow.monitoring.scene import Scene
from evergrow.prediction_log.records import logged

Floats = NDArray[np.float64]
Explain = Callable[[pd.DataFrame], Floats]
"""Shapley values [n, k] of rows whose features have their own names."""

DAYS = 7
"""A week: blocks of days are what tests deal by, and a single one tells nothing."""
APART, MOVED = 0.1, 0.1
"""AUC beyond ½, and share of all attributions, from which features together have drifted, and explanations."""
EXPLAINED = 200
"""Rows of either side whose scores are explained, evenly spread."""
NAMED = 3


def observe(
    scene: Scene, rows: pd.DataFrame, baseline: Baseline, explain: Explain, hidden: frozenset[str] = frozenset()
) -> list[Observation]:
    """Joint drift of a version's recent answers; like all drift, no alarm.

    Args:
        scene: of the version, whose alpha the tests share.
        rows: the answers of up to DAYS days, as the log has them, [n].
        baseline: of the version; its sample is what is compared with.
        explain: of the version.
        hidden: the log's columns that do not have what the model saw (`inputs.private`).
    """
    every = [Feature(name=logged(f.name), kind=f.kind) for f in baseline.features]
    features = [feature for feature in every if feature.name not in hidden]
    sides = baseline.sample, rows
    blocks = _days(baseline.sample), _days(rows)
    alpha = scene.alpha / 3
    return [
        *_told(scene, "multivariate-drift", lambda: _apart(scene, sides, features, blocks, alpha), len(rows)),
        *_told(scene, "multivariate-drift", lambda: _kernel(scene, sides, features, blocks, alpha), len(rows)),
        *_told(
            scene, "explanation-drift", lambda: _explained(scene, sides, baseline, explain, alpha, hidden), len(rows)
        ),
    ]


_Sides = tuple[pd.DataFrame, pd.DataFrame]
_Blocks = tuple[NDArray[np.intp], NDArray[np.intp]]


def _told(scene: Scene, kind: ObservationKind, test: Callable[[], Observation], rows: int) -> Iterator[Observation]:
    """What a test says, or that there is too little for it."""
    try:
        yield test()
    except NotEnoughData as few:
        verdict = Verdict(outcome="inconclusive", reason=str(few))
        yield scene.observe(kind, "all features", "too little", 0.0, 0.0, rows, verdict)


def _apart(scene: Scene, sides: _Sides, features: Sequence[Feature], blocks: _Blocks, alpha: float) -> Observation:
    found = classifier_test(*sides, features, blocks=blocks)
    by = ", ".join(name for name, importance in found.importance[:NAMED] if importance > 0)
    effect, p = found.comparison.effect, _p(found.comparison)
    reason = (
        f"a classifier tells these days from {scene.reference} with AUC {effect + 0.5:.3f}, drift at {APART + 0.5:g}"
    )
    reason += f"; p {p:.2g}, unusual at {alpha:.2g}" + (f"; by {by}" if by else "")
    verdict = Verdict.when(effect < APART or p > alpha, reason)
    return _seen(scene, "multivariate-drift", found.comparison, APART, verdict)


def _kernel(scene: Scene, sides: _Sides, features: Sequence[Feature], blocks: _Blocks, alpha: float) -> Observation:
    found = kernel_test(*sides, features, blocks=blocks)
    p = _p(found)
    reason = f"mean discrepancy {found.effect:.4f} from {scene.reference}; p {p:.2g}, unusual at {alpha:.2g}"
    return _seen(scene, "multivariate-drift", found, 0.0, Verdict.when(p > alpha, reason))


def _explained(
    scene: Scene, sides: _Sides, baseline: Baseline, explain: Explain, alpha: float, hidden: frozenset[str]
) -> Observation:
    names = [feature.name for feature in baseline.features]
    if lost := [name for name in names if logged(name) in hidden]:
        raise NotEnoughData(f"scores cannot be explained without {', '.join(lost)}, which the log does not have")
    parts = [spread(side, EXPLAINED).rename(columns={logged(name): name for name in names}) for side in sides]
    values = [explain(part) for part in parts]
    found = explanation_drift(values[0], values[1], names, blocks=(_days(parts[0]), _days(parts[1])))
    effect, p = found.comparison.effect, _p(found.comparison)
    most = ", ".join(f"{s.feature} {s.reference:.0%} → {s.now:.0%}" for s in found.shares[:NAMED])
    reason = f"{effect:.1%} of all attributions moved, drift at {MOVED:.0%}; p {p:.2g}, unusual at {alpha:.2g}; {most}"
    return _seen(scene, "explanation-drift", found.comparison, MOVED, Verdict.when(effect < MOVED or p > alpha, reason))


def _seen(scene: Scene, kind: ObservationKind, found: Comparison, threshold: float, verdict: Verdict) -> Observation:
    return scene.observe(
        kind, "all features", found.test, found.effect, threshold, found.rows, verdict, p_value=found.p_value
    )


def _p(found: Comparison) -> float:
    assert found.p_value is not None, f"{found.test} has a p-value"
    return found.p_value


def _days(rows: pd.DataFrame) -> NDArray[np.intp]:
    days: NDArray[np.intp] = (rows[EVENT_TIMESTAMP].dt.floor("D") - pd.Timestamp(0, tz="UTC")).dt.days.to_numpy(np.intp)
    return days


def spread(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, evenly spread."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]


def newest_version(rows: pd.DataFrame, until: pd.Timestamp) -> pd.DataFrame:
    """The answers of the DAYS days before an instant, by the version that answered last."""
    recent = rows[(rows[EVENT_TIMESTAMP] >= until - timedelta(days=DAYS)) & (rows[EVENT_TIMESTAMP] < until)]
    if recent.empty:
        return recent
    version = recent.loc[recent[EVENT_TIMESTAMP].idxmax(), VERSION]
    of_version: pd.DataFrame = recent[recent[VERSION] == version].reset_index(drop=True)
    return of_version
