"""What the pages show of what was seen: facts, lines of tables and drawings; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from evergrow.contracts import Metric, Observation
from evergrow.integrations import seen as reading
from evergrow.integrations.seen import Seen
from evergrow.monitoring.page import DRIFT, metric_of, nearness, newest, performance, recent_worth, worth
from evergrow.monitoring.timeline import Look, card, periods, report, standing, timeline
from evergrow.monitoring.watch import Performance, Watch
from evergrow.pages.plots import tag
from evergrow.pages.shell import count, number

Share = Callable[[Observation], float]
EVENTS, COLUMNS, PAGES, DAYS, ROLLOUTS = 200, 20, 30, 10, 10
"""So many events, columns that drift, reports of a kind, days of performance and rollouts are shown at most."""
STATES = {"none": ("pass", "nothing to do"), "alert": ("fail", "somebody needs to look")}
BROKEN = ("fail", "error")
RUNS = {
    "Pending": "inconclusive",
    "Progressing": "inconclusive",
    "Paused": "inconclusive",
    "Promoted": "pass",
    "Aborted": "fail",
    "Superseded": "inconclusive",
}
"""By a rollout's phase, the outcome in whose colour it is shown."""
WEIGHTS = {"pass": 0.15, "inconclusive": 0.45, "fail": 1.0, "error": 1.0}
HEIGHT = 18
REPORTS = {
    ("watch", "report.html"): "monitoring",
    ("as_of", "report.html"): "training",
    ("as_of", "exploration.html"): "data",
}


@dataclass(frozen=True)
class Facts:
    """What everyone asks first."""

    model: str
    champion: int | None
    since: datetime | None
    state: tuple[str, str]
    """Outcome, and its words."""
    standing: Look | None
    longer: bool
    """Whether it may stand since before what was read."""
    look: Look | None
    newest: Performance | None
    metric: Metric | None
    name: str
    holdout: float | None
    day: date | None
    rows: int
    coverage: float | None
    troubles: int


@dataclass(frozen=True)
class Row:
    """A line of a table, with its drawing."""

    name: str
    note: str
    outcome: str
    plot: Markup


@dataclass(frozen=True)
class Grid:
    """Lines over the same days."""

    first: date
    last: date
    rows: Sequence[Row]
    rest: int
    """Lines that are not shown."""


def place(path: str) -> str:
    """URL of a page's place."""
    return "/" + quote(path, safe="/=:-")


def facts(seen: Seen) -> Facts:
    """Of one model."""
    watch, current = seen.watch, periods(seen.promotions)
    matured = newest(watch) if watch else None
    day = max((t.day for t in watch.traffic), default=None) if watch else None
    look = seen.looks[0] if seen.looks else None
    return Facts(
        model=seen.model,
        champion=seen.champion,
        since=current[0].since if current and current[0].promotion.version == seen.champion else None,
        state=STATES[look.decision.action] if look else ("inconclusive", "was not looked at yet"),
        standing=(since := standing(seen.looks)),
        longer=len(seen.looks) == reading.LOOKS and since == seen.looks[-1],
        look=look,
        newest=matured,
        metric=metric_of(matured, watch.metric) if watch and matured else None,
        name=watch.metric if watch else "",
        holdout=watch.reference.get(matured.version) if watch and matured else None,
        day=day,
        rows=sum(t.rows for t in watch.traffic if t.day == day) if watch else 0,
        coverage=watch.coverage if watch and watch.labels else None,
        troubles=len(seen.troubles),
    )


def model(seen: Seen) -> dict[str, Any]:
    """Values of a model's page."""
    watch = seen.watch
    cut = len(seen.days) == reading.DAYS
    events = timeline(seen.versions, seen.promotions, seen.looks, seen.days, seen.rollouts, cut)
    return {
        "facts": facts(seen),
        "decision": seen.looks[0].decision if seen.looks else None,
        "told": "; ".join(seen.looks[0].decision.reasons) if seen.looks else "",
        "watch": watch,
        "alarms": [o for o in watch.observations if o.alarm and o.verdict.outcome in BROKEN] if watch else [],
        "checked": sum(o.alarm for o in watch.observations) if watch else 0,
        "performance": performance(watch, intervals=True) if watch else None,
        "days": _days(watch) if watch else [],
        "worth": worth(watch) if watch else None,
        "earned": recent_worth(watch) if watch else [],
        "traffic": _traffic(watch) if watch else None,
        "rollouts": [(one, RUNS[one.status.phase]) for one in seen.rollouts[:ROLLOUTS]],
        "earlier": len(seen.rollouts[ROLLOUTS:]),
        "drift": _drift(seen.days),
        "checks": _checks(seen.days),
        "periods": [(period, seen.judged.get(period.promotion.version)) for period in periods(seen.promotions)],
        "events": events[:EVENTS],
        "older": max(0, len(events) - EVENTS),
        "pages": _pages(seen),
        "report": report,
        "card": card,
        "place": place,
    }


def _days(watch: Watch) -> list[tuple[date, int, Performance | None, Metric | None, Metric | None]]:
    """Of the newest days: by version what was realised, and what had been estimated."""
    realised = {(p.day, p.version): p for p in watch.performance if p.kind == "realised"}
    estimated = {(p.day, p.version): metric_of(p, watch.metric) for p in watch.performance if p.kind == "estimated"}
    found = []
    for key in sorted({*realised, *estimated}, reverse=True)[:DAYS]:
        known = realised.get(key)
        found.append((*key, known, metric_of(known, watch.metric) if known else None, estimated.get(key)))
    return found


def _traffic(watch: Watch) -> Grid | None:
    """Predictions by version and day, all versions on one scale."""
    if not watch.traffic:
        return None
    days = _stretch([t.day for t in watch.traffic])
    rows = {(t.version, t.day): t.rows for t in watch.traffic}
    top = max(rows.values()) or 1
    lines = []
    for version in sorted({t.version for t in watch.traffic}, reverse=True):
        by_day = [rows.get((version, day), 0) for day in days]
        bars = [
            _cell(i, n / top, "bars", 1.0, f"{day}: {count(n)}")
            for i, (day, n) in enumerate(zip(days, by_day, strict=True))
        ]
        label = f"predictions of version {version} by day, at most {count(max(by_day))}"
        lines.append(Row(f"version {version}", count(sum(by_day)), count(by_day[-1]), _strip(bars, len(days), label)))
    return Grid(days[0], days[-1], lines, 0)


def _drift(by_day: Mapping[date, Sequence[Observation]]) -> Grid | None:
    """How near each column was to its threshold, by day; what failed last and most first."""
    found = _by_subject(by_day, lambda one: one.kind in DRIFT and not one.alarm)
    if not found:
        return None
    days = _stretch(by_day)
    ranked = sorted(found.items(), key=lambda item: (*_urgency(item[1], days[-1]), item[0]))
    rows = [_heat(kind, subject, seen, days, nearness) for (kind, subject), seen in ranked]
    shown = max(COLUMNS, sum(row.outcome in BROKEN for row in rows))
    return Grid(days[0], days[-1], rows[:shown], len(rows[shown:]))


def _checks(by_day: Mapping[date, Sequence[Observation]]) -> Grid | None:
    """How the checks of the data ended, by day; only those that did not pass every day, and the number of the rest."""
    found = _by_subject(by_day, lambda one: one.alarm)
    if not found:
        return None
    days = _stretch(by_day)
    ever = {key: seen for key, seen in found.items() if any(o.verdict.outcome != "pass" for o in seen.values())}
    ranked = sorted(ever.items(), key=lambda item: (*_urgency(item[1], days[-1]), item[0]))
    rows = [_heat(k, s, seen, days, lambda o: WEIGHTS[o.verdict.outcome]) for (k, s), seen in ranked]
    return Grid(days[0], days[-1], rows, len(found) - len(ever))


def _by_subject(
    by_day: Mapping[date, Sequence[Observation]], wanted: Callable[[Observation], bool]
) -> dict[tuple[str, str], dict[date, Observation]]:
    """By kind and subject, the worst of each day: of several versions or slices the one furthest gone."""
    found: dict[tuple[str, str], dict[date, Observation]] = {}
    for day, seen in by_day.items():
        for one in filter(wanted, seen):
            known = found.setdefault((one.kind, one.subject), {})
            known[day] = max(known.get(day, one), one, key=lambda o: (WEIGHTS[o.verdict.outcome], nearness(o)))
    return found


def _urgency(seen: Mapping[date, Observation], last: date) -> tuple[bool, int, float]:
    """What fails now is before what failed, and that before what comes nearest to its threshold."""
    failed = [day for day, one in seen.items() if one.verdict.outcome in BROKEN]
    return last not in failed, -len(failed), -max(map(nearness, seen.values()))


def _heat(kind: str, subject: str, seen: Mapping[date, Observation], days: Sequence[date], share: Share) -> Row:
    cells = []
    for i, day in enumerate(days):
        if day in seen:
            one = seen[day]
            css = "negative" if one.verdict.outcome in BROKEN else "positive"
            cells.append(_cell(i, 1.0, css, 0.06 + 0.94 * share(one), f"{day}: {_told(one)}"))
    newest_day = max(seen)
    label = f"{subject} by day, last {newest_day}: {_told(seen[newest_day])}"
    return Row(subject, kind, seen[newest_day].verdict.outcome, _strip(cells, len(days), label))


def _told(one: Observation) -> str:
    return f"{one.verdict.outcome}, {number(one.effect)} against {number(one.threshold)}"


def _cell(i: int, height: float, css: str, opacity: float, title: str) -> Markup:
    size = {"x": round(i + 0.06, 2), "y": round(1 - height, 3), "width": 0.88, "height": round(height, 3)}
    return tag("rect", tag("title", title), class_=css, fill_opacity=round(opacity, 2), **size)


def _strip(cells: Sequence[Markup], days: int, label: str) -> Markup:
    box = {"viewBox": f"0 0 {days} 1", "preserveAspectRatio": "none", "width": "100%", "height": HEIGHT}
    return tag("svg", *cells, class_="days", role="img", aria_label=label, **box)


def _stretch(days: Iterable[date]) -> list[date]:
    """All days from the first to the last."""
    known = set(days)
    first, last = min(known), max(known)
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]


def _pages(seen: Seen) -> list[tuple[str, str, str]]:
    """Stored reports, newest first: kind, instant, URL."""
    found: dict[str, list[tuple[str, str, str]]] = {kind: [] for kind in REPORTS.values()}
    for page in seen.pages:
        folder, _, file = page.partition("/")
        name, _, at = folder.partition("=")
        if (name, file) in REPORTS:
            kind = REPORTS[name, file]
            found[kind].append((kind, _instant(at), place(f"reports/{seen.model}/{page}")))
    shown = [one for of_kind in found.values() for one in of_kind[:PAGES]]
    return sorted(shown, key=lambda one: (one[1], one[0]), reverse=True)


def _instant(text: str) -> str:
    """A folder's instant for people; as it is if it is none of ours."""
    try:
        return f"{datetime.strptime(text, '%Y-%m-%dT%H%M%SZ').replace(tzinfo=UTC):%Y-%m-%d %H:%M UTC}"
    except ValueError:
        return text
