"""What is seen of a day's answers before any label: broken data, drift of features and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

from evergrow.contracts import Observation, ObservationKind, Verdict, start_of
from evergrow.monitoring import drift, quality
from evergrow.monitoring.baseline import SCORE, Baseline
from evergrow.monitoring.days import ALL, Day
from evergrow.monitoring.profile import Profile
from evergrow.monitoring.scene import Scene, daily_alpha
from evergrow.prediction_log.records import logged
from evergrow.spec import ContinualModel
from evergrow.statistics.unusual import FEWEST

VALUES, JUMPS, FRESHNESS, VOLUME = 0.02, 0.02, 0.02, 0.01
"""Shares of the accepted false alarms: of checks of values, whole columns, ages of features, and number of rows."""
TAIL = 5.0
"""A day is found unusual among those before it so many times as often as its p-value says, where days hang together and
are few (`benchmarks/false_alarms.py`: 70 jumps instead of 10 in 1,000 months); the level of jumps is lower by this."""
NAMED = 3
"""Unseen categories that a reason names."""


def scene_of(document: ContinualModel, version: int | None, day: date, reference: str, share: float) -> Scene:
    """A day's answers, with a share of the model's accepted false alarms."""
    since = start_of(day)
    alpha = daily_alpha(document.spec.monitoring.false_alarms_per_month, share)
    return Scene(document.name, version, since, since + timedelta(days=1), reference, alpha)


def private(document: ContinualModel) -> frozenset[str]:
    """The log's columns that do not have what the model saw, being hashed or left out: nothing can be told of them."""
    log = document.spec.serving.log
    return frozenset(logged(column) for column in (*log.hashed, *log.left_out))


def observe_day(
    document: ContinualModel,
    day: date,
    versions: Mapping[int, Day],
    baselines: Mapping[int, Baseline],
    before: Sequence[Mapping[int, Day]],
) -> list[Observation]:
    """All that a day's profiles tell, once the day is over.

    Args:
        document: of the model.
        day: UTC.
        versions: the day's answers by version; empty if nothing was answered.
        baselines: of each of these versions.
        before: the same of the days before, in their order; a day without answers is empty.
    """
    rows = sum(of_version.rows for of_version in versions.values())
    counts = [sum(of_version.rows for of_version in earlier.values()) for earlier in before]
    served = next((i for i, count in enumerate(counts) if count), len(counts))
    whole = scene_of(document, None, day, "the days before", VOLUME)
    found = [quality.volume(whole, rows, counts[served:])]
    for version, answers in sorted(versions.items()):
        earlier = [known[version] for known in before if version in known]
        found += _version(document, answers, baselines[version], earlier, len(versions))
    hidden = private(document)
    return [one for one in found if one.subject not in hidden]


def _version(
    document: ContinualModel, answers: Day, baseline: Baseline, before: Sequence[Day], versions: int
) -> Iterator[Observation]:
    rule, k = document.spec.monitoring, len(baseline.axes)
    reference = f"holdout of version {answers.version}"
    parts = {name: part.first(k) for name, part in answers.profiles.items()}
    scene = scene_of(document, answers.version, answers.day, reference, VALUES / versions)
    hidden = private(document)
    misfits = {name: what for name, what in answers.misfits.items() if name not in hidden}
    yield from quality.schema(scene, answers.rows, misfits, baseline.axes)
    for observation in quality.values(scene, parts[ALL], list(baseline.days.values())):
        yield _named(observation, parts[ALL])
    aged = scene_of(document, answers.version, answers.day, "the days before", FRESHNESS / versions)
    same = [earlier.profiles[ALL] for earlier in before if earlier.axes == answers.axes]
    yield from quality.freshness(aged, answers.profiles[ALL], same)
    if len(same) >= FEWEST:
        jumps = scene_of(document, answers.version, answers.day, "the days before", JUMPS / TAIL / versions)
        earlier = [profile.first(k) for profile in same]
        yield from drift.observe(jumps, parts[ALL], earlier, ["jump"] * k, drift.JUMP, alarm=True)
    # What only explains has the accepted number of false ones once more, for itself.
    explains = scene_of(document, answers.version, answers.day, reference, 1.0 / versions)
    kinds = kinds_of(baseline)
    yield from drift.observe(explains, parts[ALL], list(baseline.days.values()), kinds, rule.drift)
    days = list(baseline.days.values())
    yield from drift.observe_slices(explains, parts, baseline.slices, days, kinds, rule.drift)


def kinds_of(baseline: Baseline) -> list[ObservationKind]:
    """Of drift, per axis of a baseline."""
    return ["prediction-drift" if axis.name == SCORE else "feature-drift" for axis in baseline.axes]


def _named(observation: Observation, now: Profile) -> Observation:
    """With the commonest unseen categories in its reason."""
    unseen = now.unseen.get(observation.subject, {})
    if observation.kind != "categories" or not unseen:
        return observation
    names = sorted(unseen, key=lambda name: (-unseen[name], name))[:NAMED]
    told = f"{observation.verdict.reason}; such as {', '.join(map(repr, names))}"
    verdict = Verdict(outcome=observation.verdict.outcome, reason=told)
    return observation.model_copy(update={"verdict": verdict})
