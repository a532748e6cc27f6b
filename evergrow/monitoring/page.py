"""What was seen of a model in service, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import groupby
from math import inf
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from evergrow.contracts import Decision, Metric, Observation, Slice
from evergrow.evaluation.metrics import MEASURES
from evergrow.monitoring.watch import Earned, Performance, Watch
from evergrow.pages import plots
from evergrow.pages.plots import Layer, Scale, Whisker
from evergrow.pages.shell import count, number, page
from evergrow.spec import ContinualModel

TEMPLATE = Path(__file__).with_name("page.html")
MEANING = {"none": "Nothing to do", "alert": "Somebody needs to look"}
DRIFT = ("prediction-drift", "label-drift", "feature-drift", "multivariate-drift", "explanation-drift")
QUALITY = ("schema", "nulls", "ranges", "categories", "jump", "volume", "freshness", "skew")
TICKS = 6
SHOWN = 15
"""Rows of a table of columns; what failed is always among them."""


class Row(NamedTuple):
    """One line of a table, with its plot."""

    name: str
    metric: Metric
    plot: Markup


class Column(NamedTuple):
    """One observation, with a bar as long as it is near its threshold."""

    seen: Observation
    plot: Markup


def render(watch: Watch, decision: Decision, model: ContinualModel) -> str:
    """The page: HTML without scripts or requests; the same arguments give the same bytes."""
    alarms = [one for one in watch.observations if one.alarm]
    return page(
        TEMPLATE,
        watch=watch,
        decision=decision,
        model=model,
        meaning=MEANING[decision.action],
        verdict="fail" if decision.action == "alert" else "pass",
        alarms=sorted(alarms, key=lambda one: _ORDER[one.verdict.outcome])[: max(SHOWN, _failed(alarms))],
        checked=len(alarms),
        newest=newest(watch),
        performance=performance(watch),
        traffic=_traffic(watch),
        coverage=_coverage(watch),
        slices=_slices(watch),
        worth=worth(watch),
        earned=recent_worth(watch),
        drift=_columns(watch, DRIFT),
        quality=_columns(watch, QUALITY),
        others=[one for one in watch.observations if one.kind in ("estimated-performance", "bias", "labels")],
    )


_ORDER = {"fail": 0, "error": 1, "inconclusive": 2, "pass": 3}


def _failed(observations: Sequence[Observation]) -> int:
    return sum(one.verdict.outcome in ("fail", "error") for one in observations)


def newest(watch: Watch) -> Performance | None:
    """The newest matured day's performance."""
    matured = [one for one in watch.performance if one.state == "matured"]
    return matured[-1] if matured else None


def metric_of(performance: Performance, name: str) -> Metric | None:
    """The metric of a name, if it was measured."""
    return next((metric for metric in performance.metrics if metric.name == name), None)


def performance(watch: Watch, intervals: bool = False) -> Markup | None:
    """The gate's metric by day: realised as dots, estimates as a band, the holdout as a dashed line.

    Args:
        watch: what was seen.
        intervals: draw the 95 % intervals of what was realised, too.
    """
    points = [(p, m) for p in watch.performance if (m := metric_of(p, watch.metric))]
    if not points:
        return None
    first, last = min(p.day for p, _ in points), max(p.day for p, _ in points)
    ends = [v for p, m in points for v in ((m.low, m.high) if intervals or p.kind == "estimated" else (m.value,))]
    y = Scale.around([*ends, *watch.reference.values()])
    x = Scale(0, max(1, (last - first).days))
    layers: list[Layer] = [plots.guide((0, x.high), (level, level)) for level in watch.reference.values()]
    for _, group in groupby(
        sorted(points, key=lambda p: (p[0].kind, p[0].version)), key=lambda p: (p[0].kind, p[0].version)
    ):
        layers += _drawn(list(group), first, intervals)
    label = f"{watch.metric} by day"
    return plots.chart(
        label, x, y, layers, x_name="day (UTC)", y_name=watch.metric, height=260, x_ticks=_ticks(first, last)
    )


def worth(watch: Watch) -> Markup | None:
    """Worth by matured day with its interval, net of serving where that is known; the same days without the model."""
    days = watch.worth
    if len(days) < 2:
        return None
    xs = [float((one.day - days[0].day).days) for one in days]
    costs = {one.day: one.cost for one in watch.served}
    net = [one.worth - costs.get(one.day, 0.0) for one in days]
    idle = [one.without for one in days]
    ends = [(one.low, one.high) if one.low > -inf else (one.worth, one.worth) for one in days]
    band = plots.band(xs, [low for low, _ in ends], [high for _, high in ends])
    titles = [
        f"{one.day}: {count(value)} {watch.currency} of {count(one.rows)}" for one, value in zip(days, net, strict=True)
    ]
    layers = [band, plots.line(xs, net), plots.dots(xs, net, titles), plots.line(xs, idle, "old")]
    y = Scale.around([*net, *idle, *(end for both in ends for end in both)])
    x, ticks, label = Scale(0, xs[-1]), _ticks(days[0].day, days[-1].day), f"worth by day in {watch.currency}"
    return plots.chart(
        label, x, y, layers, x_name="day (UTC)", y_name=watch.currency, height=220, x_ticks=ticks, y_text=count
    )


def recent_worth(watch: Watch, days: int = 10) -> list[tuple[Earned, float | None, float | None]]:
    """The newest days' worth, what serving them cost, and what each thousand predictions cost; newest first."""
    costs = {one.day: one.cost for one in watch.served}
    found = []
    for one in watch.worth[: -days - 1 : -1]:
        cost = costs.get(one.day)
        found.append((one, cost, None if cost is None else 1000 * cost / one.rows))
    return found


def _drawn(points: list[tuple[Performance, Metric]], first: date, intervals: bool) -> list[Layer]:
    xs = [float((p.day - first).days) for p, _ in points]
    ys = [m.value for _, m in points]
    band = [m.low for _, m in points], [m.high for _, m in points]
    if points[0][0].kind == "estimated":
        return [plots.band(xs, *band, "old"), plots.line(xs, ys, "old")]
    titles = [f"{p.day}, version {p.version}, {p.state}: {number(m.value)} of {count(m.rows)} rows" for p, m in points]
    return [*([plots.band(xs, *band)] if intervals else []), plots.line(xs, ys), plots.dots(xs, ys, titles)]


def _traffic(watch: Watch) -> Markup | None:
    if not watch.traffic:
        return None
    first, last = min(t.day for t in watch.traffic), max(t.day for t in watch.traffic)
    days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    rows = [sum(t.rows for t in watch.traffic if t.day == day) for day in days]
    return plots.histogram(f"predictions by day, at most {count(max(rows))}", rows, str(first), str(last))


def _coverage(watch: Watch) -> Markup | None:
    if not watch.labels:
        return None
    shares = [day.labelled / day.rows for day in watch.labels]
    first, last = str(watch.labels[0].day), str(watch.labels[-1].day)
    return plots.histogram("share of predictions with a label, by day", [*shares], first, last)


def _slices(watch: Watch) -> list[tuple[str, list[Row]]]:
    """By column, the worst value first."""
    worse = -1 if MEASURES[watch.metric].higher_is_better else 1
    found = [(s, m) for s in watch.slices if (m := next((m for m in s.metrics if m.name == watch.metric), None))]
    if not found:
        return []
    scale = Scale.around([v for _, m in found for v in (m.low, m.high)])
    by_column = groupby(sorted(found, key=lambda f: (f[0].column, -worse * f[1].value)), key=lambda f: f[0].column)
    return [(column, [_slice_row(s, m, scale) for s, m in rows]) for column, rows in by_column]


def _slice_row(part: Slice, metric: Metric, scale: Scale) -> Row:
    label = f"{part.value}: {number(metric.value)}, from {number(metric.low)} to {number(metric.high)}"
    return Row(part.value, metric, plots.strip(scale, [Whisker(metric.value, metric.low, metric.high)], label))


def _columns(watch: Watch, kinds: Sequence[str]) -> list[Column]:
    """What failed, then what is nearest to its threshold."""
    seen = [one for one in watch.observations if one.kind in kinds]
    seen.sort(key=lambda one: (_ORDER[one.verdict.outcome], -nearness(one)))
    return [_column(one) for one in seen[: max(SHOWN, _failed(seen))]]


def _column(one: Observation) -> Column:
    return Column(one, plots.bar(nearness(one), f"{one.subject}: {number(one.effect)} of {number(one.threshold)}"))


def nearness(one: Observation) -> float:
    """How near an effect is to its threshold: 0…1, 1 from the threshold on."""
    return min(1.0, one.effect / one.threshold) if one.threshold > 0 else float(one.effect > 0)


def _ticks(first: date, last: date) -> list[tuple[float, str]]:
    length = max(1, (last - first).days)
    step = max(1, -(-length // TICKS))
    return [(float(i), f"{first + timedelta(days=i):%d %b}") for i in range(0, length + 1, step)]
