"""Judge a fitted model on held-out rows, against the champion on the same rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Check, EvaluationReport, Slice, TrainingSet, Transfer, Verdict
from evergrow.data import training_set as training_sets
from evergrow.data.references import judged, microseconds
from evergrow.errors import NotEnoughData
from evergrow.evaluation import curves, forgetting
from evergrow.evaluation.gate import (
    ChallengerLosses,
    ChampionLosses,
    ControlLosses,
    check_control,
    check_floor,
    check_limit,
    compare,
)
from evergrow.evaluation.metrics import Floats
from evergrow.evaluation.slices import Scored, Skipped, by_column, by_month
from evergrow.learning.bundle import FILES, Bundle, bundle_digest
from evergrow.learning.losses import row_losses
from evergrow.learning.parts import labels, split
from evergrow.monitoring.baseline import Baseline
from evergrow.spec import ContinualModel
from evergrow.spec.model import References
from evergrow.statistics.means import Ints, time_blocks

REPORT, BASELINE = "report.json", "baseline"
PRIOR = "prior"
"""The champion's name where there is none: the constant prediction, mean of the labels that were fitted on."""
INTERVAL_BLOCKS = 60
"""Intervals of metrics are made of at most so many blocks of time; neighbours are joined until they are."""
LATENCY_ROWS = 200


def evaluate(
    model: ContinualModel,
    training_set: Path,
    challenger: Path,
    champion: Path | None,
    champion_name: str,
    out: Path,
    control: Path | None = None,
) -> EvaluationReport:
    """Measure, compare and judge; writes the report as `out`/report.json, and beside it what to hold service against.

    Args:
        model: the document.
        training_set: directory of a TrainingSet, whose holdout is judged on.
        challenger: bundle of the new model.
        champion: bundle of the one it wants to replace; None if there is none, then the prior takes its place.
        champion_name: what the report calls the champion; not used for the prior.
        out: directory of the report.
        control: bundle of a refit that the new model, an update, is held against, too; None: there is none.

    Raises:
        NotEnoughData: there is no holdout row.
        DataError: a label, feature or slice column is not what it should be.
        ServingError: a bundle cannot be loaded.
    """
    holdout = read_holdout(training_set, model)
    new, old = Bundle.load(challenger), Bundle.load(champion) if champion else None
    refitted = Bundle.load(control) if control else None
    report = _report(model, holdout, new, old, champion_name if champion else PRIOR, refitted)
    out.mkdir(parents=True, exist_ok=True)
    baseline(model, holdout, new).save(out / BASELINE)
    (out / REPORT).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return report


def baseline(model: ContinualModel, holdout: Holdout, new: Bundle) -> Baseline:
    """What the held-out rows look like to a model, and how it fares on them."""
    scores = new.predict(new.columns(holdout.rows))
    losses = row_losses(model.spec.evaluation.gate.metric, holdout.y, scores)
    slices = model.spec.monitoring.slices_of(model.spec.evaluation)
    return Baseline.of(new.info.features, slices, holdout.rows, scores, holdout.y, losses, holdout.seen)


def _report(
    model: ContinualModel, holdout: Holdout, new: Bundle, old: Bundle | None, champion: str, control: Bundle | None
) -> EvaluationReport:
    X = new.columns(holdout.rows)
    scored, rival = holdout.scored(new.predict(X)), _rival(holdout, new, old)
    names = metric_names(model)
    metrics = scored.measured(names)
    slices = [part for column in model.spec.evaluation.slices for part in by_column(scored, column, names)]
    months = list(by_month(scored, names))
    forgotten, transfers = _forgetting(model, holdout, new, old, rival)
    checks = (
        _champion_check(model, holdout, scored.scores, rival, old),
        *_control_checks(model, holdout, scored.scores, control),
        *(check_floor(floor, metrics) for floor in model.spec.evaluation.gate.floors),
        *forgotten,
        *_limits(model, new, holdout.rows),
    )
    asked = holdout.rows[EVENT_TIMESTAMP]
    return EvaluationReport(
        model=model.name,
        identity=new.info.identity.digest,
        model_digest=bundle_digest(new.path),
        task=holdout.about.task,
        as_of=holdout.about.as_of,
        holdout=(asked.min(), asked.max()),
        rows=len(asked),
        primary=model.spec.evaluation.gate.metric,
        metrics=metrics,
        champion=champion,
        champion_metrics=() if isinstance(rival, Verdict) else holdout.scored(rival).measured(names),
        slices=_kept(slices),
        months=_kept(months),
        transfers=transfers,
        curves={**_curves(model, new, scored, X), "skipped": _skipped([*slices, *months])},
        checks=checks,
        verdict=Verdict.worst(check.verdict for check in checks),
    )


@dataclass(frozen=True)
class Holdout:
    """Held-out rows with their labels [n], and the blocks of time of the gate and of the metrics' intervals.

    `seen` is the least and greatest value of each numeric feature in the whole training set, `set_aside` the rows of
    earlier periods that no model is fitted on.
    """

    about: TrainingSet
    rows: pd.DataFrame
    y: Floats
    blocks: Ints
    joined_blocks: Ints
    seen: Mapping[str, tuple[float, float]]
    set_aside: pd.DataFrame

    def scored(self, scores: Floats) -> Scored:
        """The rows with a model's scores."""
        return Scored(self.rows, self.y, scores, self.joined_blocks)


def read_holdout(training_set: Path, model: ContinualModel) -> Holdout:
    """The held-out rows of a training set.

    Raises:
        NotEnoughData: there are none.
        DataError: a label is missing, or is not what the task takes.
    """
    about, rows = training_sets.read(training_set)
    parts = split(about, rows)
    holdout = parts.holdout.reset_index(drop=True)
    if holdout.empty:
        raise NotEnoughData(f"holdout: no row was asked for on or after {about.holdout_from:%Y-%m-%d %H:%M} UTC")
    seconds = holdout[EVENT_TIMESTAMP].astype("datetime64[s, UTC]").to_numpy(dtype="datetime64[s]").astype(np.int64)
    length = model.spec.evaluation.gate.block.total_seconds()
    blocks, joined = time_blocks(seconds, length), time_blocks(seconds, length, INTERVAL_BLOCKS)
    return Holdout(about, holdout, labels(about, holdout), blocks, joined, _seen(about, rows), parts.set_aside)


def _seen(about: TrainingSet, rows: pd.DataFrame) -> Mapping[str, tuple[float, float]]:
    numbers = {f.name: rows[f.name].astype(np.float64) for f in about.features if f.kind == "numeric"}
    finite = {name: values[np.isfinite(values)] for name, values in numbers.items()}
    return {name: (float(values.min()), float(values.max())) for name, values in finite.items() if len(values)}


def metric_names(model: ContinualModel) -> tuple[str, ...]:
    """The gate's metric, the reported ones and those of floors, each once."""
    evaluation = model.spec.evaluation
    floors = (floor.metric for floor in evaluation.gate.floors)
    return tuple(dict.fromkeys((evaluation.gate.metric, *evaluation.metrics, *floors)))


def _rival(holdout: Holdout, new: Bundle, old: Bundle | None) -> Floats | Verdict:
    """Scores of the champion, or of the prior if there is none; an error if the champion cannot be asked."""
    if old is None:
        return np.full(len(holdout.rows), new.info.prior)
    lacking = [f.name for f in old.info.features if f.name not in holdout.rows]
    if lacking:
        reason = f"the champion takes {', '.join(lacking)}, which the training set lacks: nothing to compare with"
        return Verdict(outcome="error", reason=reason)
    return old.predict(old.columns(holdout.rows))


def _champion_check(
    model: ContinualModel, holdout: Holdout, scores: Floats, rival: Floats | Verdict, old: Bundle | None
) -> Check:
    if isinstance(rival, Verdict):
        return Check(name="champion", verdict=rival)
    evaluation = model.spec.evaluation
    verdict = compare(
        ChampionLosses(row_losses(evaluation.gate.metric, holdout.y, rival)),
        ChallengerLosses(row_losses(evaluation.gate.metric, holdout.y, scores)),
        holdout.blocks,
        evaluation.gate,
        evaluation.minimum_rows,
    )
    if old is not None and old.info.trained_on[1] >= holdout.about.holdout_from:
        seen = f"the champion was fitted on rows up to {old.info.trained_on[1]:%Y-%m-%d}, within this holdout"
        verdict = Verdict(outcome=verdict.outcome, reason=f"{verdict.reason} ({seen}: this favours it)")
    return Check(name="champion", verdict=verdict)


def _control_checks(model: ContinualModel, holdout: Holdout, scores: Floats, control: Bundle | None) -> Iterator[Check]:
    wanted, evaluation = model.spec.training.update.control, model.spec.evaluation
    if wanted is not None and control is not None:
        metric, refitted = evaluation.gate.metric, control.predict(control.columns(holdout.rows))
        yield check_control(
            ControlLosses(row_losses(metric, holdout.y, refitted)),
            ChallengerLosses(row_losses(metric, holdout.y, scores)),
            holdout.blocks,
            evaluation.gate,
            wanted.tolerance,
            evaluation.minimum_rows,
        )


def _forgetting(
    model: ContinualModel, holdout: Holdout, new: Bundle, old: Bundle | None, rival: Floats | Verdict
) -> tuple[tuple[Check, ...], tuple[Transfer, ...]]:
    """The check of what is set aside, and what it measured; none without references or a champion that answers."""
    evaluation, about = model.spec.evaluation, holdout.about
    rule, metric = evaluation.references, evaluation.gate.metric
    if rule is None or old is None or isinstance(rival, Verdict):
        return (), ()
    if old.info.set_aside != about.set_aside and new.info.parent != old.info.identity.digest:
        seen = "the champion was fitted on rows that are now set aside: nothing can be shown before the next one"
        return (Check(name=forgetting.CHECK, verdict=Verdict(outcome="pass", reason=seen)),), ()
    rows = _remembered(rule, holdout)
    y = labels(about, rows)
    check, transfers = forgetting.judge(
        rule,
        evaluation.gate,
        forgetting.Remembered(microseconds(rows[EVENT_TIMESTAMP]), rows),
        ChampionLosses(row_losses(metric, y, old.predict(old.columns(rows)))),
        ChallengerLosses(row_losses(metric, y, new.predict(new.columns(rows)))),
    )
    return (check,), transfers


def _remembered(rule: References, holdout: Holdout) -> pd.DataFrame:
    """The rows that are set aside, of the periods that are judged."""
    asked = microseconds(holdout.set_aside[EVENT_TIMESTAMP])
    rows: pd.DataFrame = holdout.set_aside[judged(asked, holdout.about.holdout_from, rule)]
    return rows


def _limits(model: ContinualModel, new: Bundle, rows: pd.DataFrame) -> Iterator[Check]:
    limits = model.spec.evaluation.gate.limits
    yield check_limit("latency", median_latency(new, rows), limits.latency_ms, "ms")
    size = sum((new.path / name).stat().st_size for name in FILES if (new.path / name).exists())
    yield check_limit("size", size / 1e6, limits.size_mb, "MB")


def median_latency(bundle: Bundle, rows: pd.DataFrame, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median milliseconds from a row's named values to its score, in process, one row at a time."""
    names = [f.name for f in bundle.info.features]
    requests = [dict(zip(names, row, strict=True)) for row in rows[names].head(LATENCY_ROWS).itertuples(index=False)]
    times = []
    for request in [*requests[:10], *requests]:  # the first ten warm up
        start = clock()
        bundle.predict(bundle.vector([request]))
        times.append(clock() - start)
    return 1000 * statistics.median(times[min(10, len(requests)) :])


def _curves(model: ContinualModel, new: Bundle, scored: Scored, X: NDArray[np.float32]) -> dict[str, Any]:
    names = [f.name for f in new.info.features]
    metric, seed = model.spec.evaluation.gate.metric, model.spec.training.seed
    importance = curves.importance(new.predict, X, scored.y, names, metric, seed)
    if model.spec.task == "regression":
        return {"residuals": curves.residuals(scored.y, scored.scores), "importance": importance}
    return {
        "roc": curves.roc(scored.y, scored.scores),
        "calibration": curves.calibration(scored.y, scored.scores),
        # At the share of positives fitted on: half as a threshold calls nothing positive where positives are rare.
        "confusion": curves.confusion(scored.y, scored.scores, new.info.prior),
        "importance": importance,
    }


def _kept(parts: Iterable[Slice | Skipped]) -> tuple[Slice, ...]:
    return tuple(part for part in parts if isinstance(part, Slice))


def _skipped(parts: Iterable[Slice | Skipped]) -> list[dict[str, Any]]:
    return [asdict(part) for part in parts if isinstance(part, Skipped)]
