"""A binary classification whose truth changes as it is told to, and whose labels come late.

Of a row with features x, asked for at t, the label is 1 with probability

    p(1 | x, t) = sigmoid(b + w(t)·x + log odds of π'(t) - log odds of π(t)),    x | label as of N(m(t), I)

where π is the share of ones that w, b and m come to, and π' the one that is told. So each part moves by itself: w is
the concept, m the covariates; π' moves the labels and leaves x given the label as it is, which is label shift as in
Z. Lipton, Y.-X. Wang & A. Smola, Detecting and correcting for label shift with black box predictors, ICML 2018. A
change upstream changes what is seen of x, and nothing else.

Each day is drawn by itself: it is the same whatever comes before and after, and in whichever process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.special import expit, logit

from evergrow.contracts import EVENT_TIMESTAMP, Instant
from evergrow.spec.base import Part

Floats = NDArray[np.float64]
KNOWN_AT, LABEL, TRUTH = "known_at", "label", "truth"
STRENGTH = 2.0
"""Length of w: how much x says of the label."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
"""For expectations over a standard normal."""


class Sudden(Part):
    """All at once."""

    kind: Literal["sudden"] = "sudden"
    at: Annotated[float, Field(ge=0)]
    """Day from the start, from 0."""


class Gradual(Part):
    """Evenly, from one day to another."""

    kind: Literal["gradual"] = "gradual"
    since: Annotated[float, Field(ge=0)]
    """Day on which it begins, from 0."""
    days: PositiveFloat
    """How many it takes."""


class Recurring(Part):
    """There and back again, all at once each time."""

    kind: Literal["recurring"] = "recurring"
    every: PositiveFloat
    """Days until it is there, and again until it is back."""


class Seasonal(Part):
    """There and back again, as a wave."""

    kind: Literal["seasonal"] = "seasonal"
    period: PositiveFloat = 365.0
    """Days of a wave."""


Course = Annotated[Sudden | Gradual | Recurring | Seasonal, Field(discriminator="kind")]


def progress(course: Course | None, day: Floats) -> Floats:
    """How far a change has come, in [0, 1]; 0 where there is none.

    >>> progress(Gradual(since=10, days=20), np.array([0.0, 10.0, 20.0, 30.0, 99.0])).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    >>> progress(Recurring(every=30), np.array([0.0, 30.0, 59.9, 60.0])).tolist()
    [0.0, 1.0, 1.0, 0.0]

    Args:
        course: of the change.
        day: since the start, [n].
    """
    match course:
        case None:
            return np.zeros_like(day)
        case Sudden():
            return (day >= course.at).astype(np.float64)
        case Gradual():
            return np.clip((day - course.since) / course.days, 0.0, 1.0)
        case Recurring():
            return (day // course.every % 2).astype(np.float64)
        case Seasonal():
            wave: Floats = (1 - np.cos(2 * np.pi * day / course.period)) / 2
            return wave


class ConceptDrift(Part):
    """What features mean changes."""

    course: Course
    """When."""
    angle: Annotated[float, Field(gt=0, le=180)] = 60.0
    """By how much w turns, in degrees: at 90 what was learned says nothing, at 180 the opposite is true."""


class CovariateShift(Part):
    """Other rows are asked for; what they mean stays."""

    course: Course
    """When."""
    by: Annotated[float, Field(gt=0)] = 1.0
    """How far the mean of the features moves, in their standard deviations."""


class LabelShift(Part):
    """Ones become more frequent, or rarer; what a one looks like stays."""

    course: Course
    """When."""
    to: Annotated[float, Field(gt=0, lt=1)]
    """Share of ones at its end."""


class Upstream(Part):
    """Who delivers the first feature delivers it in another unit: the world is as it was."""

    course: Course
    """When."""
    factor: float = 1000.0
    """What it is multiplied by."""


class Delay(Part):
    """When labels become known."""

    days: Annotated[float, Field(ge=0)] = 1.0
    """Mean of an exponential delay."""
    lost: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of labels that never come."""


class World(Part):
    """What happens, by which seed."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything random."""
    start: Instant = datetime(2024, 1, 1, tzinfo=UTC)
    """Its first day."""
    days: PositiveInt = 365
    """How long it lasts."""
    rows: PositiveInt = 500
    """Rows a day."""
    features: Annotated[int, Field(ge=2, le=1000)] = 5
    """How many: x0, x1 and so on."""
    intercept: float = -1.0
    """b: below 0, ones are rarer than zeros."""
    concept: ConceptDrift | None = None
    """None if null; so for the others."""
    covariates: CovariateShift | None = None
    """Of the features."""
    labels: LabelShift | None = None
    """Of the label."""
    upstream: Upstream | None = None
    """Of what is seen of the first feature."""
    delay: Delay = Delay()
    """Of labels."""


def draw(world: World, since: int = 0, until: int | None = None) -> pd.DataFrame:
    """Rows of days [since, until), in the order in which they are asked for.

    Args:
        world: whose.
        since: first day, from 0.
        until: the day after the last; all if None.

    Returns:
        `event_timestamp`, `known_at` (NaT: never), `x0` and so on, `label` (0 or 1), and `truth`: the probability of
        a one, given the world's own features at that instant. No model has a lower expected log loss.

    Raises:
        ValueError: these are no days of the world.
    """
    until = world.days if until is None else until
    if not 0 <= since < until <= world.days:
        raise ValueError(f"`since` and `until` must be days from 0 to {world.days}, found {since} and {until}")
    return pd.concat([_day(world, day) for day in range(since, until)], ignore_index=True)


def weights(world: World, day: Floats) -> Floats:
    """w, [n, features]: turned within a plane from where it was."""
    first, other = np.random.default_rng((world.seed, 0)).normal(size=(2, world.features))
    first /= np.linalg.norm(first)
    other -= (other @ first) * first
    other /= np.linalg.norm(other)
    drift = world.concept
    angle = np.radians(drift.angle) * progress(drift.course, day) if drift else np.zeros_like(day)
    turned: Floats = STRENGTH * (np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * other)
    return turned


def means(world: World, day: Floats) -> Floats:
    """m, [n, features]: moves along one direction."""
    direction = np.random.default_rng((world.seed, 1)).normal(size=world.features)
    shift = world.covariates
    by = shift.by * progress(shift.course, day) if shift else np.zeros_like(day)
    return by[:, None] * direction / np.linalg.norm(direction)


def share_of_ones(world: World, day: Floats) -> tuple[Floats, Floats]:
    """π, which the concept and the covariates come to, and π', which it is; both [n]."""
    centre = world.intercept + (weights(world, day) * means(world, day)).sum(axis=1)
    natural = expit(centre[:, None] + STRENGTH * _NODES) @ _WEIGHTS / np.sqrt(2 * np.pi)
    shift = world.labels
    if shift is None:
        return natural, natural
    return natural, natural + (shift.to - natural) * progress(shift.course, day)


def _day(world: World, day: int) -> pd.DataFrame:
    random = np.random.default_rng((world.seed, 2 + day))
    at = day + np.sort(random.random(world.rows))
    w, m = weights(world, at), means(world, at)
    natural, share = share_of_ones(world, at)
    label = random.random(world.rows) < share
    x = _given(random, label, m, w, world.intercept)
    truth = expit(world.intercept + (w * x).sum(axis=1) + logit(share) - logit(natural))
    asked = pd.Series(pd.Timestamp(world.start) + pd.to_timedelta(at, "D")).dt.as_unit("us")
    late = pd.to_timedelta(random.exponential(world.delay.days, world.rows), "D")
    known = (asked + late).dt.as_unit("us").where(random.random(world.rows) >= world.delay.lost)
    if world.upstream is not None:
        x[:, 0] *= 1 + (world.upstream.factor - 1) * progress(world.upstream.course, at)
    columns = {f"x{i}": x[:, i] for i in range(world.features)}
    return pd.DataFrame(
        {EVENT_TIMESTAMP: asked, KNOWN_AT: known, **columns, LABEL: label.astype(np.int8), TRUTH: truth}
    )


def _given(random: np.random.Generator, label: NDArray[np.bool_], m: Floats, w: Floats, b: float) -> Floats:
    """X given the label: drawn without it, and kept with the label's probability there, until all are."""
    x = np.empty_like(m)
    left = np.arange(len(label))
    while len(left):
        tried = m[left] + random.normal(size=(len(left), m.shape[1]))
        one = expit(b + (w[left] * tried).sum(axis=1))
        kept = random.random(len(left)) < np.where(label[left], one, 1 - one)
        x[left[kept]] = tried[kept]
        left = left[~kept]
    return x


def expected_loss(truth: Floats, predicted: Floats | None = None) -> float:
    """Mean log loss that predictions have in expectation over the labels; of the truth itself if none are given.

    >>> round(expected_loss(np.array([0.5])), 4), round(expected_loss(np.array([0.5]), np.array([0.9])), 4)
    (0.6931, 1.204)
    """
    q = truth if predicted is None else predicted
    return float(-(truth * np.log(q) + (1 - truth) * np.log1p(-q)).mean())
