"""What drift tools of others say of each feature, of the recent days together; like all drift, no alarm.

Their tests take rows for independent, and those of one day are not: by p-values alone every week of a busy service is
unusual. So, as with drift of evergrow's own, a column drifted if the effect reaches a limit and is unusual; a distance
without a p-value has its limit alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from evergrow.contracts import EVENT_TIMESTAMP, Comparison, Feature, Observation, Outcome, Verdict
from evergrow.errors import EvergrowError
from evergrow.monitoring.baseline import SAMPLED, Baseline
from evergrow.monitoring.recent import spread
from evergrow.monitoring.scene import Scene
from evergrow.ports import DriftTool
from evergrow.prediction_log.records import logged

LIMITS: Mapping[str, float] = {
    "psi": 0.1,
    "jensenshannon": 0.1,
    "wasserstein": 0.1,
    "hellinger": 0.15,
    "ks": 0.1,
    "z": 0.1,
}
"""Effect from which a column drifted, by test: of distances Evidently's own limits, and from where on whylogs calls
"hellinger" possible drift. What "ks" and "z" measure is a share of rows, for which no tool has a limit: a tenth."""
ASSOCIATED = 0.3
"""The same of Pearson's statistics, which grow with the rows: a medium effect w by J. Cohen, Statistical Power Analysis
for the Behavioral Sciences, 1988. Of small changes w² is about the stability index, and its limit about the same."""
FEWEST_DAYS = 5
"""Days of either side below which nothing is told: a day or two differ from a month whatever happens."""
FEWEST_TESTED, FEWEST_MEASURED = 200, 1000
"""Values of either side below which a test tells nothing, and a distance without a p-value, whose limit chance alone
would reach."""

ALL = "all features"
Sides = tuple[pd.DataFrame, pd.DataFrame]


def observe(
    scene: Scene,
    rows: pd.DataFrame,
    baseline: Baseline,
    tools: Mapping[str, Callable[[], DriftTool]],
    hidden: frozenset[str] = frozenset(),
) -> list[Observation]:
    """The opinion that each tool has of each feature. An error of a tool is a verdict of its own, and no alarm.

    Args:
        scene: of the version; each tool has its alpha once, shared by all that it finds.
        rows: the answers of up to a week, as the log has them, [n].
        baseline: of the version; its sample is what is compared with.
        tools: what makes each, by what the tool calls itself.
        hidden: the log's columns that do not have what the model saw (`inputs.private`).
    """
    every = [Feature(name=logged(f.name), kind=f.kind) for f in baseline.features]
    features = [feature for feature in every if feature.name in rows and feature.name not in hidden]
    # Of few rows a test tells more than a distance does: Evidently takes tests if the reference has no more than these.
    most = SAMPLED if len(rows) >= FEWEST_MEASURED else FEWEST_MEASURED
    sides = spread(baseline.sample, most), spread(rows, most)
    return [one for name, make in tools.items() for one in _opinion(scene, name, make, sides, features)]


def _opinion(
    scene: Scene, name: str, make: Callable[[], DriftTool], sides: Sides, features: Sequence[Feature]
) -> Iterator[Observation]:
    days = min(side[EVENT_TIMESTAMP].dt.floor("D").nunique() for side in sides)
    if days < FEWEST_DAYS:
        yield _untold(scene, name, ALL, "inconclusive", f"{days} days to compare, needs {FEWEST_DAYS}")
        return
    try:
        found, failed = _asked(make(), sides, features)
    except EvergrowError as error:
        found, failed = [], {ALL: error}
    if failed and not found:
        failed = {ALL: next(iter(failed.values()))}
    alpha = scene.alpha / max(1, len(found))
    yield from (_told(scene, name, one, alpha) for one in found)
    yield from (_untold(scene, name, column, "error", _why(error)) for column, error in failed.items())


def _asked(
    tool: DriftTool, sides: Sides, features: Sequence[Feature]
) -> tuple[list[Comparison], dict[str, EvergrowError]]:
    """Comparisons, and columns that the tool fails on: where it fails on several, each half of them is asked alone.

    Raises:
        EvergrowError: the tool fails in a way that will pass, or without any feature.
    """
    try:
        return list(tool.compare(*sides, features)), {}
    except EvergrowError as error:
        if error.retriable or not features:
            raise
        if len(features) == 1:
            return [], {features[0].name: error}
        middle = len(features) // 2
        (found, failed), (more, too) = (_asked(tool, sides, part) for part in (features[:middle], features[middle:]))
        return found + more, failed | too


def limit(found: Comparison) -> float:
    """Effect from which a column drifted, in the test's own unit."""
    if found.test == "chi2-fit":
        return ASSOCIATED**2 * found.rows
    if found.test == "chi2":
        return ASSOCIATED**2 / (1 / found.rows + 1 / found.reference_rows)
    return LIMITS[found.test]


def _told(scene: Scene, name: str, found: Comparison, alpha: float) -> Observation:
    threshold, p = limit(found), found.p_value
    told = f"{found.column}: {found.test} by {name} {found.effect:.3g} to {scene.reference}, drift at {threshold:.3g}"
    told += f"; p {p:.2g}, unusual at {alpha:.2g}" if p is not None else "; no p-value"
    rows, needed = min(found.rows, found.reference_rows), FEWEST_MEASURED if p is None else FEWEST_TESTED
    if rows < needed:
        verdict = Verdict(outcome="inconclusive", reason=f"{told}; {rows:,} values to compare, needs {needed:,}")
    elif math.isnan(found.effect) or (p is not None and math.isnan(p)):
        verdict = Verdict(outcome="inconclusive", reason=f"{told}; the tool finds no number")
    else:
        verdict = Verdict.when(found.effect < threshold or (p is not None and p > alpha), told)
    return scene.observe(
        "feature-drift",
        found.column,
        f"{found.test} by {name}",
        found.effect,
        threshold,
        found.rows,
        verdict,
        p_value=p,
    )


def _untold(scene: Scene, name: str, subject: str, outcome: Outcome, why: str) -> Observation:
    verdict = Verdict(outcome=outcome, reason=f"{subject}, by {name}: {why}")
    return scene.observe("feature-drift", subject, f"drift by {name}", 0.0, 0.0, 0, verdict)


def _why(error: EvergrowError) -> str:
    return "; ".join([str(error), *error.hint.splitlines()])
