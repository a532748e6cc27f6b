"""The report as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from evergrow.contracts import EvaluationReport, Metric, Slice, TrainingSet, Transfer
from evergrow.errors import SpecError
from evergrow.evaluation.metrics import MEASURES
from evergrow.learning.identity import identify
from evergrow.pages import plots
from evergrow.pages.plots import Scale, Whisker
from evergrow.pages.shell import count, duration, instant, number, page
from evergrow.spec import ContinualModel

TEMPLATE = Path(__file__).with_name("page.html")

MEANING = {
    "pass": "Pass: the challenger may replace the champion",
    "fail": "Fail: the champion stays",
    "inconclusive": "Inconclusive: too little to tell, the champion stays",
    "error": "Error: it could not be judged, the champion stays",
}
LIBRARIES = ("evergrow", "scikit-learn", "numpy", "pandas")


class Row(NamedTuple):
    """One line of a table of metrics, with its plot."""

    name: str
    new: Metric
    old: Metric | None
    plot: Markup


class Kept(NamedTuple):
    """What is kept of an earlier period, with its plot."""

    transfer: Transfer
    plot: Markup


class Bar(NamedTuple):
    """One feature's importance."""

    name: str
    value: float
    plot: Markup


def render(report: EvaluationReport, model: ContinualModel, training_set: TrainingSet) -> str:
    """The page of a report: HTML without scripts or requests; the same arguments give the same bytes.

    Args:
        report: what was found.
        model: the document whose model was judged.
        training_set: whose held-out rows it was judged on.
    """
    champion = {metric.name: metric for metric in report.champion_metrics}
    overall = _named(report.metrics, report.primary)
    return page(
        TEMPLATE,
        report=report,
        model=model,
        data=training_set,
        meaning=MEANING[report.verdict.outcome],
        overall=overall,
        rival=champion.get(report.primary),
        champion=_champion(report),
        metrics=[_metric_row(metric, champion.get(metric.name)) for metric in report.metrics],
        better={name: "higher" if MEASURES[name].higher_is_better else "lower" for name in MEASURES},
        months=_slice_rows(report.months, report, overall),
        slices=_by_column(report, overall),
        skipped=report.curves.get("skipped", ()),
        kept=_kept(report.transfers),
        importance=_importance(report.curves.get("importance") or {}),
        confusion=_confusion(report.curves.get("confusion") or {}),
        plots=_plots(report, overall),
        residuals=_residuals(report.curves.get("residuals") or {}),
        periods=_periods(training_set, report, model),
        lineage=_lineage(report, model, training_set),
    )


def _champion(report: EvaluationReport) -> str:
    return "the prior (a constant prediction)" if report.champion == "prior" else f"version {report.champion}"


def _named(metrics: Iterable[Metric], name: str) -> Metric | None:
    return next((metric for metric in metrics if metric.name == name), None)


def _metric_row(new: Metric, old: Metric | None) -> Row:
    both = [new] if old is None else [new, old]
    ends = [v for metric in both for v in (metric.low, metric.high)]
    room = (max(ends) - min(ends)) / 4
    scale = Scale.around([min(ends) - room, max(ends) + room])
    whiskers = [_whisker(metric, css) for metric, css in zip(both, ("new", "old"), strict=False)]
    label = " against ".join(f"{who} {_said(m)}" for who, m in zip(("challenger", "champion"), both, strict=False))
    return Row(new.name, new, old, plots.strip(scale, whiskers, f"{new.name}: {label}"))


def _whisker(metric: Metric, css: str = "new") -> Whisker:
    return Whisker(metric.value, metric.low, metric.high, css)


def _said(metric: Metric) -> str:
    return f"{number(metric.value)}, from {number(metric.low)} to {number(metric.high)}"


def _slice_rows(slices: Sequence[Slice], report: EvaluationReport, overall: Metric | None) -> list[Row]:
    """The primary metric of each slice on one scale, with the value over all rows to compare with."""
    found = [(part.value, _named(part.metrics, report.primary)) for part in slices]
    kept = [(value, metric) for value, metric in found if metric is not None]
    ends = [end for _, metric in kept for end in (metric.low, metric.high)]
    scale = Scale.around([*ends, *([overall.value] if overall else [])])
    guide = overall.value if overall else None
    return [
        Row(value, metric, None, plots.strip(scale, [_whisker(metric)], f"{value}: {_said(metric)}", guide))
        for value, metric in kept
    ]


def _by_column(report: EvaluationReport, overall: Metric | None) -> list[tuple[str, list[Row]]]:
    """The slices of each column, worst first."""
    sign = 1 if MEASURES[report.primary].higher_is_better else -1
    parts = ((column, list(part)) for column, part in groupby(report.slices, key=lambda s: s.column))
    return [
        (column, sorted(_slice_rows(part, report, overall), key=lambda row: sign * row.new.value))
        for column, part in parts
    ]


def _kept(transfers: Sequence[Transfer]) -> list[Kept]:
    """All on one scale, around no change."""
    ends = (end for one in transfers for end in (one.transfer, one.low, one.high) if end is not None)
    scale = Scale.around(ends, zero=True)
    return [Kept(one, _change(one, scale)) for one in transfers]


def _change(one: Transfer, scale: Scale) -> Markup:
    low, high = (one.transfer if end is None else end for end in (one.low, one.high))
    label = f"{one.since:%Y-%m-%d} {one.slice}: {number(one.transfer)}"
    return plots.strip(scale, [Whisker(one.transfer, low, high)], label, 0.0)


def _importance(rises: Mapping[str, float]) -> list[Bar]:
    top = max((abs(value) for value in rises.values()), default=0.0) or 1.0
    ordered = sorted(rises.items(), key=lambda item: -item[1])
    return [Bar(name, value, plots.bar(max(0.0, value) / top, f"{name}: {number(value)}")) for name, value in ordered]


def _confusion(found: Mapping[str, Any]) -> dict[str, Any]:
    """Each cell as its count and its share of its row's true label."""
    if not found:
        return {}
    rows = [[(n, n / sum(row) if sum(row) else math.nan) for n in row] for row in found["matrix"]]
    return {**found, "rows": list(zip(found["labels"], rows, strict=True))}


def _plots(report: EvaluationReport, overall: Metric | None) -> dict[str, Markup]:
    drawn = {}
    if found := report.curves.get("calibration"):
        drawn["calibration"] = _calibration(found)
        drawn["scores"] = _scores(found)
    if found := report.curves.get("roc"):
        drawn["roc"] = _roc(found, _named(report.metrics, "roc_auc"))
    return drawn


def _calibration(found: Mapping[str, list[float]]) -> Markup:
    predicted, observed, rows = found["predicted"], found["observed"], found["rows"]
    scale = Scale.around([*predicted, *observed], zero=True)
    titles = [
        f"{count(n)} rows: predicted {number(p)}, observed {number(o)}"
        for n, p, o in zip(rows, predicted, observed, strict=True)
    ]
    ends = (scale.low, scale.high)
    layers = [plots.guide(ends, ends), plots.line(predicted, observed), plots.dots(predicted, observed, titles)]
    label = "Calibration: " + "; ".join(titles)
    return plots.chart(label, scale, scale, layers, x_name="mean predicted score", y_name="share of positives")


def _scores(found: Mapping[str, list[float]]) -> Markup:
    """How dense the rows lie along the scores: each bin's rows over the width between its neighbours' middles."""
    predicted, rows = found["predicted"], found["rows"]
    scale = Scale.around([*predicted, *found["observed"]], zero=True)
    middles = [(a + b) / 2 for a, b in pairwise(predicted)]
    edges = [scale.low, *middles, scale.high]
    widths = [max(b - a, 1e-9) for a, b in pairwise(edges)]
    densities = [n / width / sum(rows) for n, width in zip(rows, widths, strict=True)]
    label = "Density of the scores, one bar a tenth of the rows"
    y = Scale.around(densities, zero=True)
    return plots.chart(label, scale, y, [plots.bars(edges, densities)], x_name="score", y_name="density", height=90)


def _roc(found: Mapping[str, list[float]], area: Metric | None) -> Markup:
    unit = Scale(0.0, 1.0)
    layers = [plots.guide((0, 1), (0, 1)), plots.line(found["fpr"], found["tpr"])]
    label = "ROC curve" + (f", area {_said(area)}" if area else "")
    return plots.chart(label, unit, unit, layers, x_name="false positive rate", y_name="true positive rate")


def _residuals(found: Mapping[str, list[float]]) -> list[tuple[float, float, Markup]]:
    """Quantile, residual and a plot of how far it is from nothing."""
    if not found:
        return []
    scale = Scale.around(found["values"], zero=True)
    return [
        (q, v, plots.strip(scale, [Whisker(v, min(v, 0.0), max(v, 0.0))], f"quantile {q:g}: {number(v)}", 0.0))
        for q, v in zip(found["quantiles"], found["values"], strict=True)
    ]


def _periods(data: TrainingSet, report: EvaluationReport, model: ContinualModel) -> list[tuple[str, str, str]]:
    training, window = model.spec.training, model.spec.training.window
    told = f"the newest {duration(window.length)} of" if window.kind == "sliding" else f"window {window.kind}"
    fitted = "fitted on" if window.kind == "all" else f"fitted on ({told})"
    until = data.calibration_from if training.calibrates else data.holdout_from
    rows = [(fitted, instant(data.first), f"before {instant(until)}")]
    if training.calibrates:
        rows += [("calibration, search and selection", instant(until), f"before {instant(data.holdout_from)}")]
    if data.set_aside is not None:
        aside = f"set aside ({data.set_aside.share:g} of all rows)"
        rows += [(aside, "the beginning", f"before {instant(data.holdout_from)}")]
    return [*rows, ("holdout", instant(report.holdout[0]), instant(report.holdout[1]))]


def _lineage(report: EvaluationReport, model: ContinualModel, data: TrainingSet) -> list[tuple[str, str]]:
    """What the model came from, by content."""
    return [
        ("model", report.model_digest),
        ("identity", report.identity),
        *_identity_parts(report, model, data),
        ("source data", data.source_digest),
        ("seed", str(model.spec.training.seed)),
        ("page written by", ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)),
    ]


def _identity_parts(report: EvaluationReport, model: ContinualModel, data: TrainingSet) -> list[tuple[str, str]]:
    """The identity's parts, if code and document are still those the model was fitted with; else what data tells."""
    known = [("data", data.data_digest), ("features", data.features_digest)]
    try:
        identity = identify(model, data)
    except (SpecError, ModuleNotFoundError):
        return known
    if identity.digest != report.identity:
        return known
    return [("code", identity.code), *known, ("parameters", identity.parameters)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
