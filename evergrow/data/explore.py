"""A data snapshot as one self-contained HTML page: look at it before you trust a model made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from evergrow.contracts import TrainingSet
from evergrow.data.leakage import AUC_LIMIT, DELAY_LIMIT, MISSING_LIMIT, RHO_LIMIT
from evergrow.data.profile import DELAYS, Distribution, LabelMean, Profile, profile, strongest
from evergrow.errors import NotEnoughData
from evergrow.pages import plots
from evergrow.pages.plots import Scale, Whisker
from evergrow.pages.shell import number, page, percent

TEMPLATE = Path(__file__).with_name("explore.html")
MOST_CELLS = 60
"""Columns of the table of missing values: weeks are joined until they are no more."""


class Card(NamedTuple):
    """One feature with its plot."""

    about: Distribution
    plot: Markup


class Mean(NamedTuple):
    """A mean label with its plot."""

    about: LabelMean
    plot: Markup


def render(training_set: TrainingSet, rows: pd.DataFrame) -> str:
    """The page of a snapshot: HTML without scripts or requests; the same arguments give the same bytes.

    Args:
        training_set: what the rows are.
        rows: as `evergrow.data.training_set.read` gives them.

    Raises:
        NotEnoughData: there is no row.
    """
    if rows.empty:
        raise NotEnoughData(f"{training_set.model}: the training set of {training_set.as_of:%Y-%m-%d} has no rows")
    found, binary = profile(training_set, rows), training_set.task == "binary-classification"
    label = pd.to_numeric(rows[training_set.label])
    return page(
        TEMPLATE,
        data=training_set,
        profile=found,
        mean_label=float(label.mean()),
        binary=binary,
        show_label=percent if binary else number,
        cards=[Card(feature, _distribution(feature)) for feature in found.features],
        weeks=_weeks(found.weeks, training_set.label, binary),
        slices={column: _means(means) for column, means in found.slices.items()},
        days=_days(found),
        delays=list(zip(DELAYS, found.delays, strict=True)),
        delay_plot=_delay_plot(found),
        missing={name: _fewer(shares) for name, shares in found.missing.items()},
        heat_map=_heat_map(found),
        pairs=[(*pair, _correlation(pair[2])) for pair in strongest(found.numeric, found.correlations)],
        limits={"alone": AUC_LIMIT if binary else RHO_LIMIT, "missing": MISSING_LIMIT, "delay": DELAY_LIMIT},
    )


def _distribution(feature: Distribution) -> Markup:
    if feature.heights:
        low, high = map(number, feature.edges)
        return plots.histogram(f"Histogram of {feature.name}, from {low} to {high}", feature.heights, low, high)
    return Markup()


def _weeks(weeks: Sequence[LabelMean], label: str, binary: bool) -> Markup:
    at, values = [float(i) for i in range(len(weeks))], [week.value for week in weeks]
    lows, highs = [week.low for week in weeks], [week.high for week in weeks]
    said = percent if binary else number
    titles = [f"week of {w.name}: {said(w.value)} of {w.rows:,} rows" for w in weeks]
    every = max(1, math.ceil(len(weeks) / 4))
    ticks = [(float(i), weeks[i].name) for i in range(every // 2, len(weeks), every)]
    layers = [plots.band(at, lows, highs), plots.line(at, values), plots.dots(at, values, titles)]
    y = Scale.around([*values, *(highs if len(weeks) > 1 else ())], zero=True)
    text = f"Mean {label} by week: from {said(min(values))} to {said(max(values))}"
    x = Scale(-0.5, len(weeks) - 0.5)
    return plots.chart(text, x, y, layers, x_name="week from", x_ticks=ticks, y_text=said)


def _means(means: Sequence[LabelMean]) -> list[Mean]:
    """Highest first, on one scale."""
    scale = Scale.around([end for mean in means for end in (mean.low, mean.high)], zero=True)
    drawn = [
        Mean(m, plots.strip(scale, [Whisker(m.value, m.low, m.high)], f"{m.name}: {number(m.value)}")) for m in means
    ]
    return sorted(drawn, key=lambda mean: -mean.about.value)


def _days(found: Profile) -> Markup:
    first, heights = found.days
    edges = [float(i) for i in range(len(heights) + 1)]
    every = max(1, math.ceil(len(heights) / 4))
    ticks = [(i + 0.5, f"{first + timedelta(days=i):%Y-%m-%d}") for i in range(every // 2, len(heights), every)]
    label = f"Rows per day: from {min(heights):,} to {max(heights):,}"
    y = Scale.around([float(h) for h in heights], zero=True)
    layers = [plots.bars(edges, [float(h) for h in heights])]
    x = Scale(0.0, float(len(heights)))
    return plots.chart(label, x, y, layers, x_name="day", x_ticks=ticks, height=160, y_text=lambda v: f"{v:,.0f}")


def _delay_plot(found: Profile) -> Markup:
    top = found.delays[DELAYS.index(0.99)]
    label = f"Hours from question to label, from 0 to {number(top)}"
    return plots.histogram(label, found.delay_heights, "0 h", f"{number(top)} h and more")


def _fewer(shares: Sequence[float]) -> list[float]:
    """The means of neighbours, so that at most MOST_CELLS are left."""
    size = math.ceil(len(shares) / MOST_CELLS)
    parts = [shares[i : i + size] for i in range(0, len(shares), size)]
    return [sum(part) / len(part) for part in parts]


def _heat_map(found: Profile) -> Markup | None:
    if len(found.numeric) < 3:
        return None
    label = f"Rank correlations of {len(found.numeric)} numeric features; the strongest are in the table"
    return plots.heat_map(label, found.numeric, found.correlations.tolist())


def _correlation(value: float) -> Markup:
    return plots.bar(abs(value), f"{value:+.2f}", "positive" if value >= 0 else "negative")
