"""What is known before the first request: by what the held-out rows of versions tell, tests are planned.

It follows from what the registry keeps of the versions, and from nothing else: whoever asks again gets the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Task
from evergrow.errors import DataError, NotEnoughData
from evergrow.learning.losses import row_losses
from evergrow.monitoring import estimated, worth
from evergrow.monitoring.baseline import LABEL, SCORE, Baseline
from evergrow.prediction_log.records import logged
from evergrow.rollout.gains import Plan
from evergrow.spec import ContinualModel
from evergrow.spec.rollout import Analysis, Rollout

Floats = NDArray[np.float64]
Foresee = Callable[[pd.DataFrame, Floats], Floats]
"""The loss to expect of each row, from its features and a version's score of it."""

DECIDED_BY_GUARDRAILS = ("single", "blue-green")
"""Strategies that wait for guardrails alone."""
DAY = 86_400_000_000


@dataclass(frozen=True)
class Prior:
    """What is known before the first request.

    Attributes:
        plans: by check: "loss", "worth", "estimate".
        foreseen: by version, where the estimate decides.
        missing: by check, why there is no plan of it.
    """

    plans: Mapping[str, Plan]
    foreseen: Mapping[int, Foresee] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def decisive(rollout: Rollout) -> str | None:
    """The check whose failure drops a candidate, and without which none is promoted; None: guardrails alone decide.

    >>> decisive(Rollout()), decisive(Rollout.model_validate({"strategy": {"kind": "canary"}}))
    (None, 'loss')
    """
    decides, kind = rollout.analysis.decides, rollout.strategy.kind
    if kind in DECIDED_BY_GUARDRAILS:
        return None
    if decides != "guardrails":
        return decides
    return "loss" if kind == "bandit" else None


def checks(document: ContinualModel, rollout: Rollout) -> tuple[str, ...]:
    """What is compared, in its order: what decides, and what labels tell beside it."""
    decides = decisive(rollout)
    if decides is None:
        return ()
    if decides == "estimate" or rollout.strategy.kind == "bandit":
        return (decides,)
    told = ("loss", *(("worth",) if document.spec.monitoring.worth else ()))
    return told if decides in told else (*told, decides)


def prior(document: ContinualModel, rollout: Rollout, stable: int, baselines: Mapping[int, Baseline]) -> Prior:
    """By the held-out rows of versions.

    Args:
        document: of the model.
        rollout: how.
        stable: the version that serves: its outcomes plan the tests.
        baselines: of the stable version; of the candidates, too, where the estimate decides.

    Raises:
        DataError: the stable version's held-out rows have no finite outcomes.
    """
    wanted = checks(document, rollout)
    plans: dict[str, Plan] = {}
    foreseen: dict[int, Foresee] = {}
    missing: dict[str, str] = {}
    if "estimate" in wanted:
        foreseen, missing = _foreseen(document, baselines)
    for check in wanted:
        if check == "worth" and document.spec.monitoring.worth is None:
            missing[check] = "the document does not say what predictions are worth: spec.monitoring.worth"
        elif check not in missing:
            known = outcomes(document, check, baselines[stable].sample, foreseen.get(stable))
            plans[check] = _plan(check, check == decisive(rollout), rollout.analysis, known)
    return Prior(plans, foreseen, missing)


def outcomes(document: ContinualModel, check: str, rows: pd.DataFrame, foresee: Foresee | None = None) -> Floats:
    """What is compared of each row, [n]; NaN without a label.

    Args:
        document: of the model.
        check: "loss", "worth" or "estimate".
        rows: with `score`, and `label` or, for an estimate, features.
        foresee: of the version that answered, for an estimate.
    """
    scores = rows[SCORE].to_numpy(np.float64)
    if check == "estimate":
        assert foresee is not None, "an estimate is made by what foresees losses"
        return foresee(rows, scores)
    y = rows[LABEL].to_numpy(np.float64)
    if check == "loss":
        found = row_losses(document.spec.evaluation.gate.metric, y, scores)
    else:
        assert document.spec.monitoring.worth is not None, "without it, nothing is planned"
        found = worth.of_rows(document.spec.monitoring.worth, y, scores)
    return np.where(np.isnan(y), np.nan, found)


def _plan(check: str, decides: bool, analysis: Analysis, known: Floats) -> Plan:
    """The smallest effect worth finding is in the unit of what decides; of anything else, a part of its mean."""
    finite = known[np.isfinite(known)]
    if len(finite) < 2:
        raise DataError(
            f"{check}: the stable version's held-out rows must have at least 2 finite outcomes, found {len(finite)}",
            hint="train and judge the stable version again",
        )
    better = "higher" if check == "worth" else "lower"
    return Plan.of(check, better, finite, analysis.effect if decides else None)  # type: ignore[arg-type]


def _foreseen(document: ContinualModel, baselines: Mapping[int, Baseline]) -> tuple[dict[int, Foresee], dict[str, str]]:
    """Of each version by its own held-out rows: none may be the judge of how sure another is."""
    try:
        return {version: _foresee(document, baseline) for version, baseline in sorted(baselines.items())}, {}
    except NotEnoughData as few:
        return {}, {"estimate": f"losses cannot be foreseen by a version's held-out rows: {few}"}


def _foresee(document: ContinualModel, baseline: Baseline) -> Foresee:
    task, metric, sample = document.spec.task, document.spec.evaluation.gate.metric, baseline.sample
    columns = features(document, baseline)
    known = _rows(sample, sample[SCORE].to_numpy(np.float64), columns)
    estimator = estimated.fit(task, metric, known, sample[LABEL].to_numpy(np.float64))
    predict = estimator.predictors[0]

    def foresee(rows: pd.DataFrame, scores: Floats) -> Floats:
        return _loss(task, metric, scores, predict(_rows(rows, scores, columns))) if len(rows) else np.empty(0)

    return foresee


def features(document: ContinualModel, baseline: Baseline) -> list[str]:
    """Columns of the log that a regression's losses are foreseen by; none of a classification's, which scores tell."""
    log = document.spec.serving.log
    hidden = {*log.hashed, *log.left_out}
    numeric = [logged(f.name) for f in baseline.features if f.kind == "numeric" and f.name not in hidden]
    return numeric if document.spec.task == "regression" else []


def _rows(rows: pd.DataFrame, scores: Floats, columns: list[str]) -> estimated.Rows:
    days = rows[EVENT_TIMESTAMP].dt.as_unit("us").astype("int64").to_numpy() // DAY
    return estimated.Rows(scores, days.astype(np.intp), rows[columns].to_numpy(np.float32))


def _loss(task: Task, metric: str, scores: Floats, said: Floats) -> Floats:
    """Of a regression it is what was said; of a classification, over both labels by what was said of the positive."""
    if task == "regression":
        return said
    one, zero = (row_losses(metric, np.full(len(scores), label), scores) for label in (1.0, 0.0))
    return np.asarray(said * one + (1 - said) * zero, np.float64)
