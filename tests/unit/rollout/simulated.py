"""A service that is simulated: requests that are drawn, what the prediction log has of them, and labels that come late.

Version 3 serves; its absolute errors are those of a standard normal. A candidate's are so many times as large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from evergrow.contracts import Feature
from evergrow.monitoring.baseline import Baseline
from evergrow.spec import ContinualModel, parse
from evergrow.spec.rollout import Rollout, RolloutStatus
from tests import builders

START = datetime(2024, 3, 1, tzinfo=UTC)
STABLE, CANDIDATE = 3, 4
HOUR = timedelta(hours=1)
CALM = {"guardrails": [], "labelsWithin": "1h", "block": "10m", "effect": 0.1}
"""Analysis by losses alone."""


def document(**monitoring) -> ContinualModel:
    """Of a regression that is judged by its absolute errors."""
    dumped = builders.document(task="regression").dump()
    dumped["spec"]["monitoring"] = {**dumped["spec"]["monitoring"], **monitoring}
    return parse(dumped)


def rollout(kind="canary", analysis=None, sticky=(), **strategy) -> Rollout:
    """By a strategy, with an analysis merged over CALM."""
    return Rollout.model_validate(
        {"strategy": {"kind": kind, **strategy}, "analysis": {**CALM, **(analysis or {})}, "sticky": list(sticky)}
    )


def status(how: Rollout, started=START, step_started=None, **fields) -> RolloutStatus:
    """Of a rollout whose moves have begun."""
    return RolloutStatus(
        phase="Progressing", stable=STABLE, rollout=how, started=started, step_started=step_started or started, **fields
    )


def baseline(seed=9, size=1.0, rows=4000) -> Baseline:
    """Held-out rows of forty days before the start."""
    random = np.random.default_rng(seed)
    at = pd.Series(pd.DatetimeIndex([START - timedelta(days=40)] * rows)) + pd.to_timedelta(
        np.sort(random.uniform(0, 40 * 86_400, rows)), "s"
    )
    wind = random.gamma(2, 5, rows)
    score = wind + random.normal(0, 1, rows)
    label = score + size * random.normal(0, 1, rows)
    frame = pd.DataFrame({"event_timestamp": at.dt.as_unit("us"), "wind": wind})
    return Baseline.of([Feature(name="wind", kind="numeric")], [], frame, score, label, np.abs(label - score))


def answered(
    n: int = 6000,
    weights: Sequence[Mapping[int, float]] = ({STABLE: 0.5, CANDIDATE: 0.5},),
    size: Mapping[int, float] | None = None,
    really: Mapping[int, float] | None = None,
    lost: Mapping[int, float] | None = None,
    entities: int = 0,
    rows: int = 1,
    span: timedelta = 10 * HOUR,
    delay: timedelta = HOUR / 2,
    shift: Mapping[int, float] | None = None,
    start: datetime = START,
    seed: int = 0,
) -> pd.DataFrame:
    """The prediction log, with each label and when it becomes known.

    Args:
        n: requests, evenly spread over `span`.
        weights: of stretches of equal length, one after the other.
        size: of each version's errors; 1 if not named.
        really: weights that requests are drawn by, whatever the log says.
        lost: share of each version's answers that the log does not have.
        entities: so many callers keep their version for as long as weights let them; 0: each request is drawn.
        rows: of a request.
        span: how long requests come.
        delay: of labels.
        shift: what is added to each version's scores, and to the labels.
        start: when requests begin.
        seed: of everything random.
    """
    random = np.random.default_rng(seed)
    place = np.arange(n) * len(weights) // n
    who = random.integers(0, entities, n) if entities else np.arange(n)
    draw = random.random(entities or n)[who]
    version, propensity = np.empty(n, int), np.empty(n)
    for i, split in enumerate(weights):
        here, names = place == i, sorted(split)
        # The newest gets the lowest draws: a larger share of it leaves it all that it had.
        ends = np.cumsum([(really or split)[v] for v in names[::-1]])
        version[here] = np.array(names[::-1])[np.minimum(np.searchsorted(ends, draw[here], "right"), len(names) - 1)]
        propensity[here] = [split[v] for v in version[here]]
    kept = random.random(n) >= np.array([(lost or {}).get(v, 0.0) for v in version])
    every = np.repeat(np.flatnonzero(kept), rows)
    row = np.tile(np.arange(rows), int(kept.sum()))
    at = pd.Series(pd.DatetimeIndex([start] * n)) + pd.to_timedelta(np.arange(n) * span.total_seconds() / n, "s")
    scale = np.array([(size or {}).get(v, 1.0) for v in version[every]])
    moved = np.array([(shift or {}).get(v, 0.0) for v in version[every]])
    # What a caller is like goes with it: its losses hang together.
    hard = np.exp(0.5 * random.normal(0, 1, n))[who[every]] if entities else 1.0
    wind = random.gamma(2, 5, len(every))
    score = wind + moved
    label = score + scale * hard * random.normal(0, 1, len(every))
    asked = at.iloc[every].dt.as_unit("us").reset_index(drop=True)
    return pd.DataFrame(
        {
            "prediction_id": [f"host-v{version[i]}-00000001-{i}-{k}" for i, k in zip(every, row, strict=True)],
            "event_timestamp": asked,
            "request_id": [f"r{seed}-{i}" for i in every],
            "route": "weights",
            "propensity": propensity[every],
            "latency_ms": random.gamma(2, 10, len(every)),
            "version": version[every],
            "score": score,
            "guest": who[every],
            "wind": wind,
            "label": label,
            "label_first_known_at": asked + delay,
        }
    )


def copied(log: pd.DataFrame, size: float = 1.0, seed: int = 1, share: float = 1.0) -> pd.DataFrame:
    """The log of a shadow: of all requests, the stable version's answers, and the candidate's to copies of some."""
    random = np.random.default_rng(seed)
    theirs = log.assign(version=STABLE, propensity=1.0)
    ours = theirs[random.random(len(log)) < share]
    error = size * random.normal(0, 1, len(ours))
    ours = ours.assign(
        version=CANDIDATE,
        route="shadow",
        propensity=np.nan,
        score=ours["label"] + error,
        prediction_id=ours["prediction_id"].str.replace("host", "other"),
    )
    return pd.concat([theirs, ours], ignore_index=True)


def as_of(log: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """The log as it is known at an instant."""
    seen = log[log["event_timestamp"] <= now]
    later = (seen["label_first_known_at"] > now).to_numpy()
    return seen.assign(label=seen["label"].mask(later), label_first_known_at=seen["label_first_known_at"].mask(later))
