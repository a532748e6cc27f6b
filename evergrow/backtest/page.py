"""A backtest as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray

from evergrow.backtest.choose import TAIL, Recommendation, mean_of
from evergrow.backtest.compare import Comparison, Standing
from evergrow.backtest.past import DAY, instant_of
from evergrow.backtest.results import Result, Results, judged_days
from evergrow.pages import plots
from evergrow.pages.plots import Scale, Whisker
from evergrow.pages.shell import page
from evergrow.spec.policies import WhatIf

TEMPLATE = Path(__file__).with_name("page.html")
SMOOTH = 28
"""Days that a point of a curve is a mean of: the day and those before it."""
STYLES = ("new", "old", "third")
"""Of the policies that are drawn."""
TICKS = 6
Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A policy's line in the table, with its plot."""

    standing: Standing
    plot: Markup


def render(results: Results, found: Comparison, what_if: WhatIf) -> str:
    """The page: HTML without scripts or requests; the same arguments give the same bytes."""
    standings = {one.policy: one for one in found.standings}
    scale = Scale.around([v for one in found.standings for v in (one.against.low, one.against.high)], zero=True)
    return page(
        TEMPLATE,
        results=results,
        found=found,
        what_if=what_if,
        supposed=_yaml(what_if.spec) if what_if.spec else "",
        first=instant_of(found.days[0] * DAY),
        last=instant_of(found.days[1] * DAY),
        reference=standings[found.reference],
        recommended=standings[found.recommended.policy],
        patch=pasted(found.recommended),
        frugal_patch=pasted(found.frugal) if found.frugal else "",
        rows=[Row(one, _strip(scale, one)) for one in found.standings],
        front=_front(found),
        curves=_curves(results, found) if found.judged >= SMOOTH else None,
        keys=list(zip(shown(found), STYLES, strict=False)),
        trained=_trained(results, found),
        rolled_out=any(one.rollouts for one in found.standings),
    )


def shown(found: Comparison) -> list[str]:
    """Policies of which curves are drawn: the recommended, the reference and the frugal or the best, each once."""
    third = found.frugal.policy if found.frugal else found.standings[0].policy
    return list(dict.fromkeys([found.recommended.policy, found.reference, third]))


def pasted(one: Recommendation) -> str:
    """What to merge into the document to have a policy, YAML."""
    return _yaml(one.patch)


def _yaml(patch: Mapping[str, object]) -> str:
    return yaml.safe_dump({"spec": _plain(patch)}, sort_keys=False)


def _plain(value: object) -> object:
    """Mappings and sequences as YAML writes them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _strip(scale: Scale, one: Standing) -> Markup:
    against = one.against
    label = f"{against.value:+.4f}, from {against.low:+.4f} to {against.high:+.4f}"
    return plots.strip(scale, [Whisker(against.value, against.low, against.high)], label, guide=0.0)


def _front(found: Comparison) -> Markup:
    """Loss by trainings: a point a policy, and the front."""
    x = Scale.around([one.trainings for one in found.standings], zero=True)
    y = Scale.around([one.loss for one in found.standings])
    front = sorted((one for one in found.standings if one.front), key=lambda one: one.trainings)
    others = [one for one in found.standings if not one.front]
    layers = [
        plots.dots(*_points(others), css="old"),
        plots.line([one.trainings for one in front], [one.loss for one in front]),
        plots.dots(*_points(front)),
    ]
    label = f"{found.metric} by number of trainings; on the front: " + ", ".join(one.policy for one in front)
    return plots.chart(label, x, y, layers, x_name="trainings", y_name=found.metric, height=320)


def _points(standings: Sequence[Standing]) -> tuple[list[float], list[float], list[str]]:
    titles = [f"{one.policy}: {one.loss:.4f}, {one.trainings} trainings" for one in standings]
    return [float(one.trainings) for one in standings], [one.loss for one in standings], titles


def _curves(results: Results, found: Comparison) -> tuple[Markup, Markup]:
    """Loss over time as a moving mean with its interval, and what was lost so far beyond the reference."""
    days, _ = judged_days(results.policies)
    tables = {one.policy: one.table(days) for one in results.policies if one.policy in shown(found)}
    named = [(name, css, tables[name]) for name, css in zip(shown(found), STYLES, strict=False)]
    moved = [(css, days[SMOOTH - 1 :].tolist(), moving(table[1], table[0])) for _, css, table in named]
    layers = [plots.band(xs, line[1].tolist(), line[2].tolist(), css=css) for css, xs, line in moved[:1]]
    layers += [plots.line(xs, line[0].tolist(), css=css) for css, xs, line in moved]
    x, y = Scale(float(days[0]), float(days[-1])), Scale.around(np.concatenate([line.ravel() for _, _, line in moved]))
    names = ", ".join(shown(found))
    label = f"{found.metric}, mean of {SMOOTH} days, of {names}"
    first = plots.chart(label, x, y, layers, y_name=found.metric, x_ticks=_ticks(days))
    held = tables[found.reference]
    beyond = [(css, np.cumsum(table[1] - held[1]) / 1000) for _, css, table in named]
    layers = [plots.guide((days[0], days[-1]), (0.0, 0.0))]
    layers += [plots.line(days.tolist(), line.tolist(), css=css) for css, line in beyond]
    y = Scale.around([v for _, line in beyond for v in line], zero=True)
    label = f"sum of {found.metric} above that of {found.reference} so far, in thousands, of {names}"
    return first, plots.chart(label, x, y, layers, y_name="thousands", x_ticks=_ticks(days))


def moving(sums: Floats, rows: Floats) -> Floats:
    """Mean over the rows of SMOOTH days, at the end of each stretch: value, low, high, [3, days - SMOOTH + 1]."""
    found = []
    for end in range(SMOOTH, len(sums) + 1):
        part = slice(end - SMOOTH, end)
        mean = mean_of(sums[part], rows[part])
        found.append((mean.value, mean.lower(TAIL), mean.upper(TAIL)))
    return np.array(found).T


def _ticks(days: NDArray[np.int64]) -> list[tuple[float, str]]:
    places = np.linspace(0, len(days) - 1, TICKS).astype(int)
    return [(float(days[i]), f"{instant_of(int(days[i]) * DAY):%d %b %Y}") for i in places]


class Timeline(NamedTuple):
    """When a policy trained, and how that ended."""

    policy: str
    plot: Markup
    promoted: int
    other: int


def _trained(results: Results, found: Comparison) -> list[Timeline]:
    by_name = {one.policy: one for one in results.policies}
    return [_timeline(by_name[name], found) for name in shown(found)]


def _timeline(one: Result, found: Comparison) -> Timeline:
    x, y = Scale(float(found.days[0]), float(found.days[1] + 1)), Scale(0.0, 1.0)
    trained = one.trained(found.days[0], found.days[1] + 1)
    day = {id(t): (t.began - instant_of(0)) / timedelta(days=1) for t in trained}
    promoted = [t for t in trained if t.outcome == "promoted"]
    others = [t for t in trained if t.outcome != "promoted"]
    layers = [
        plots.dots([day[id(t)] for t in part], [0.5] * len(part), [_told(one.policy, t) for t in part], css=css)
        for part, css in ((others, "old"), (promoted, "new"))
    ]
    days = np.arange(found.days[0], found.days[1] + 1)
    label = f"trainings of {one.policy}: {len(promoted)} promoted, {len(others)} not"
    plot = plots.chart(label, x, y, layers, height=70, x_ticks=_ticks(days), y_text=lambda _: "")
    return Timeline(one.policy, plot, len(promoted), len(others))


def _told(policy: str, training: object) -> str:
    began, outcome, reason = (getattr(training, name) for name in ("began", "outcome", "reason"))
    return f"{policy}, {began:%Y-%m-%d}: {outcome}. {reason}"
