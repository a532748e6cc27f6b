"""The story of a model in service: what was registered, rolled out, promoted, decided and seen, and who served when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Any, Literal

from evergrow.audit import Promotion
from evergrow.contracts import Decision, Instant, ModelVersion, Observation, Value
from evergrow.spec import ModelRollout

EventKind = Literal["registered", "rollout", "promoted", "decided", "alarm", "drift"]
# Of events of one instant, what led to what.
_ORDER: Mapping[EventKind, int] = {
    "registered": 0,
    "rollout": 1,
    "promoted": 2,
    "drift": 3,
    "alarm": 4,
    "decided": 4,
}
ACTIONS: Mapping[str, tuple[EventKind, str]] = {
    "none": ("decided", "Nothing to do"),
    "alert": ("alarm", "Somebody needs to look"),
}
CALM = 7
"""Judged days without drift after which it is over."""
NAMED = 5
"""Names of columns in a sentence; of more, the number."""


class Event(Value):
    """Something that happened to a model."""

    at: Instant
    model: str
    kind: EventKind
    version: int | None = None
    title: str
    reason: str
    link: str = ""
    """Place of the page about it, below the environment's folder; empty: there is none."""


class Look(Value):
    """One run of monitoring: what it decided, and the folder of its report ("watch=2013-10-08T000000Z")."""

    folder: str
    decision: Decision


class Period(Value):
    """A stretch of time in which one version was the champion."""

    since: Instant
    until: Instant | None
    """None: it still is."""
    promotion: Promotion


def report(model: str, folder: str) -> str:
    """Place of a report, below the environment's folder.

    >>> report("bikes", "version=3")
    'reports/bikes/version=3/report.html'
    """
    return f"reports/{model}/{folder}/report.html"


def card(model: str, version: int) -> str:
    """Place of a version's model card, below the environment's folder.

    >>> card("bikes", 3)
    'reports/bikes/version=3/card.html'
    """
    return f"reports/{model}/version={version}/card.html"


def periods(promotions: Iterable[Promotion]) -> tuple[Period, ...]:
    """Who was the champion of one model when, newest first; without gaps from the first promotion on."""
    ordered = sorted(promotions, key=lambda p: p.at)
    ends = [*(p.at for p in ordered[1:]), None]
    return tuple(Period(since=p.at, until=end, promotion=p) for p, end in zip(ordered, ends, strict=False))[::-1]


def timeline(
    versions: Iterable[ModelVersion],
    promotions: Iterable[Promotion],
    looks: Iterable[Look],
    days: Mapping[date, Sequence[Observation]],
    rollouts: Iterable[ModelRollout] = (),
    cut: bool = False,
) -> tuple[Event, ...]:
    """All events of one model, newest first; the same whatever the order of the arguments' parts.

    Args:
        versions: of the registry.
        promotions: of the audit log.
        looks: runs of monitoring. Consecutive ones that decided the same for alarms of the same kinds are one event,
            at the first of them.
        days: what was seen of each judged day.
        rollouts: that have begun. A promotion is the registry's to tell.
        cut: whether earlier days were left out, so that what drifts on the first of them did not begin there.
    """
    looks = sorted(looks, key=lambda look: look.decision.as_of)
    events = [
        *map(_registered, versions),
        *map(_promoted, promotions),
        *(event for rollout in rollouts for event in _rolled_out(rollout)),
        *_decided(looks),
        *_drifted(days, cut),
        *_unseen(days, looks),
    ]
    return tuple(sorted(events, key=lambda e: (e.at, _ORDER[e.kind], e.version or 0, e.title, e.reason), reverse=True))


def standing(looks: Iterable[Look]) -> Look | None:
    """The look since which all decided what the newest did; None if there was no look."""
    runs = _runs(sorted(looks, key=lambda look: look.decision.as_of), lambda look: (look.decision.action,))
    return runs[-1][0] if runs else None


def _registered(version: ModelVersion) -> Event:
    verdict = version.tags.get("verdict", "none")
    against = version.tags.get("judged_against", "")
    rival = f"version {against}" if against.isdigit() else f"the {against}"
    return Event(
        at=version.created,
        model=version.model,
        kind="registered",
        version=version.version,
        title=f"Version {version.version} registered",
        reason=f"verdict of the gate: {verdict}" + (f", against {rival}" if against else ""),
        link=report(version.model, f"version={version.version}") if against else "",
    )


def _promoted(promotion: Promotion) -> Event:
    over = "the first champion" if promotion.replaced is None else f"in the place of version {promotion.replaced}"
    return Event(
        at=promotion.at,
        model=promotion.model,
        kind="promoted",
        version=promotion.version,
        title=f"Version {promotion.version} promoted by {promotion.actor}: {over}",
        reason=promotion.reason,
        link=report(promotion.model, f"version={promotion.version}"),
    )


def _rolled_out(rollout: ModelRollout) -> Iterator[Event]:
    """Its beginning and, unless a version was promoted, its end."""
    spec, status = rollout.spec, rollout.status
    one = spec.candidates[0] if len(spec.candidates) == 1 else None
    about: dict[str, Any] = {"model": spec.model, "kind": "rollout", "version": one}
    named = f"version{'s' if len(spec.candidates) > 1 else ''} {', '.join(map(str, spec.candidates))}"
    if status.started is not None:
        how = f" by {status.rollout.strategy.kind}" if status.rollout else ""
        asked = f", asked for by {spec.requested_by}" if spec.requested_by else ""
        yield Event(at=status.started, title=f"Rollout of {named}{how} begun{asked}", reason=spec.reason, **about)
    if status.ended is not None and status.phase != "Promoted":
        yield Event(at=status.ended, title=f"Rollout of {named} {status.phase.lower()}", reason=status.reason, **about)


def _decided(looks: Sequence[Look]) -> Iterator[Event]:
    """One event for each run of looks that decided alike."""
    for run in _runs(looks, lambda look: (look.decision.action, *_kinds(look.decision))):
        first, last = run[0].decision, run[-1].decision
        kind, title = ACTIONS[first.action]
        again = f"; so in {len(run)} looks, the last of {last.as_of:%Y-%m-%d %H:%M}" if len(run) > 1 else ""
        yield Event(
            at=first.as_of,
            model=first.model,
            kind=kind,
            title=title,
            reason="; ".join(first.reasons) + again,
            link=report(first.model, run[0].folder),
        )


def _kinds(decision: Decision) -> list[str]:
    """Kinds of the alarms of an alert, whose reasons are "kind: what was seen"."""
    return sorted({reason.partition(":")[0] for reason in decision.reasons}) if decision.action == "alert" else []


def _runs(looks: Sequence[Look], alike: Callable[[Look], tuple[str, ...]]) -> list[list[Look]]:
    return [list(run) for _, run in groupby(looks, key=alike)]


def _drifted(days: Mapping[date, Sequence[Observation]], cut: bool) -> Iterator[Event]:
    """What began to drift on a judged day, and that nothing does any longer.

    What comes and goes has begun once: it begins again only after CALM judged days without it.
    """
    failing = [(seen, _failing(seen)) for _, seen in sorted(days.items()) if seen]
    for i, (seen, now) in enumerate(failing):
        before = [failed for _, failed in failing[max(0, i - CALM) : i]]
        if (begun := now.difference(*before)) and not (cut and i == 0):
            yield _drift(seen, sorted(begun))
        elif not now and len(before) == CALM and before[0] and not any(before[1:]):
            over = f"Nothing has drifted for {CALM} days"
            yield Event(at=seen[0].until, model=seen[0].model, kind="drift", title=over, reason="")


def _failing(seen: Iterable[Observation]) -> set[tuple[str, str]]:
    return {(o.subject, o.kind) for o in seen if "drift" in o.kind and not o.alarm and o.verdict.outcome == "fail"}


def _drift(seen: Sequence[Observation], begun: Sequence[tuple[str, str]]) -> Event:
    reasons = [o.verdict.reason for o in seen if (o.subject, o.kind) in begun]
    rest = len(reasons) - NAMED
    said = "; ".join([*reasons[:NAMED], *([f"and {rest} more"] if rest > 0 else [])])
    named = ", ".join(name for name, _ in begun) if len(begun) <= NAMED else f"{len(begun)} columns"
    return Event(at=seen[0].until, model=seen[0].model, kind="drift", title=f"{named} began to drift", reason=said)


def _unseen(days: Mapping[date, Sequence[Observation]], looks: Iterable[Look]) -> Iterator[Event]:
    """Alarms of days that were judged afterwards: no look's decision tells of them."""
    told = {(look.decision.as_of - timedelta(days=1)).date() for look in looks}
    for day, seen in sorted(days.items()):
        alarms = [o for o in seen if o.alarm and o.verdict.outcome in ("fail", "error")]
        if alarms and day not in told:
            yield Event(
                at=alarms[0].until,
                model=alarms[0].model,
                kind="alarm",
                title=f"Alarms of {day}, a day that was judged later",
                reason="; ".join(f"{o.kind}: {o.verdict.reason}" for o in alarms),
            )
