"""Builders of what monitoring looks at: scenes, days of answers, outcomes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from evergrow.monitoring.scene import Scene

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def scene(alpha=0.02, version=1, since=START):
    return Scene("delays", version, since, since + DAY, "holdout of version 1", alpha)


def outcomes(days=30, per_day=200, seed=0, loss=0.0, delay=timedelta(hours=3), never=0.0, start=START):
    """Predictions whose scores are right, but for `loss` taken off their logit; labels known after `delay`."""
    random = np.random.default_rng(seed)
    n = days * per_day
    asked = pd.Series(pd.DatetimeIndex([start] * n)) + pd.to_timedelta(np.sort(random.uniform(0, days * 86400, n)), "s")
    logit = random.normal(-1, 1, n)
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    known = asked + pd.to_timedelta(delay.total_seconds() * random.uniform(0.5, 1.5, n), "s")
    absent = random.random(n) < never
    label[absent] = np.nan
    known[absent] = pd.NaT
    return pd.DataFrame(
        {
            "prediction_id": [f"p{i}" for i in range(n)],
            "event_timestamp": asked.dt.as_unit("us"),
            "version": 1,
            "score": 1 / (1 + np.exp(-(logit - loss))),
            "origin": random.choice(["EWR", "JFK", "LGA"], n),
            "carrier": random.choice(["AA", "UA", "EV", "B6"], n),
            "wind": random.gamma(2, 5, n),
            "label": label,
            "label_known_at": known,
            "label_first_known_at": known,
            "corrected": False,
        }
    )
