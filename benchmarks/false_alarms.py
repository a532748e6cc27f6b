"""How many alarms a model raises that is well: simulated months in which nothing changes but what always does.

A month is a holdout of 28 days and 30 days of service, each judged as the pipeline judges it: by the day's profile, by
the labels known, by the sequential test of the loss. Days differ, and neighbouring days resemble each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import poisson

from benchmarks.measure import Result
from evergrow.contracts import Feature, Observation
from evergrow.learning.losses import log_loss
from evergrow.monitoring import harm
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.days import Day
from evergrow.monitoring.inputs import observe_day
from evergrow.monitoring.truth import LabelDay
from evergrow.spec import ContinualModel, parse
from evergrow.spec.model import Monitoring

MONTHS, HOLDOUT, SERVED, ROWS = 1000, 28, 30, 300
NUMBERS, WORDS = 8, 2
START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = (
    *(Feature(name=f"x{i}", kind="numeric") for i in range(NUMBERS)),
    *(Feature(name=f"c{i}", kind="categorical") for i in range(WORDS)),
)


def document(per_month: float) -> ContinualModel:
    """Of a model that accepts so many false alarms a month."""
    return parse(
        {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ContinualModel",
            "metadata": {"name": "quiet"},
            "spec": {
                "task": "binary-classification",
                "source": {"entrypoint": "quiet.data:Quiet"},
                "features": {"service": "quiet"},
                "label": {"column": "y"},
                "training": {"estimator": {"entrypoint": "quiet.estimator:build"}},
                "evaluation": {"holdout": "28d", "metrics": ["log_loss"], "gate": {"metric": "log_loss"}},
                "monitoring": {"falseAlarmsPerMonth": per_month},
            },
        }
    )


def month(seed: int, correlation: float = 0.3, spread: float = 0.3) -> pd.DataFrame:
    """Rows of holdout and service; what days have in common is AR(1) of this correlation, `spread` of a row's own."""
    random = np.random.default_rng(seed)
    days = HOLDOUT + SERVED
    volume = random.poisson(ROWS * np.exp(ar1(random, days, correlation) * 0.1))
    day = np.repeat(np.arange(days), volume)
    n = len(day)
    frame = {
        "day": day,
        "event_timestamp": pd.DatetimeIndex([START] * n)
        + pd.to_timedelta(day * 86400 + random.uniform(0, 86399, n), "s"),
    }
    for i in range(NUMBERS):
        values = random.normal(0, 1, n) + spread * ar1(random, days, correlation)[day]
        lacking = 1 / (1 + np.exp(-(-4 + spread * ar1(random, days, correlation)))) if i % 2 else np.zeros(days)
        frame[f"x{i}"] = np.where(random.random(n) < lacking[day], np.nan, values)
    for i in range(WORDS):
        tilt = 0.3 + 0.05 * ar1(random, days, correlation)[day]
        frame[f"c{i}"] = np.where(random.random(n) < tilt, "a", np.where(random.random(n) < 0.5, "b", "c"))
    logit = random.normal(-1, 1, n)
    luck = 0.3 * ar1(random, days, correlation)[day]
    y = (random.random(n) < 1 / (1 + np.exp(-(logit + luck)))).astype(float)
    return pd.DataFrame({**frame, "version": 1, "score": 1 / (1 + np.exp(-logit)), "label": y})


def ar1(random: np.random.Generator, days: int, correlation: float) -> NDArray[np.float64]:
    """Stationary, of variance 1."""
    noise = random.normal(size=days)
    for t in range(1, days):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * noise[t]
    return noise


def observed(rows: pd.DataFrame, model: ContinualModel) -> tuple[list[list[Observation]], int]:
    """What is seen of each day's inputs that may be an alarm, and how often the loss raised one."""
    before, after = rows[rows["day"] < HOLDOUT], rows[rows["day"] >= HOLDOUT].reset_index(drop=True)
    y, scores = before["label"].to_numpy(), before["score"].to_numpy()
    baseline = Baseline.of(FEATURES, [], before.reset_index(drop=True), scores, y, log_loss(y, scores))
    known: list[dict[int, Day]] = []
    found = []
    for number in range(HOLDOUT, HOLDOUT + SERVED):
        day = (START + timedelta(days=number)).date()
        part = pa.Table.from_pandas(after[after["day"] == number].drop(columns="day"), preserve_index=False)
        answers = Day.none(day, 1, baseline, part.column_names).add("s", part, baseline)
        seen = observe_day(model, day, {1: answers}, {1: baseline}, known[-HOLDOUT:])
        known.append({1: answers})
        found.append([one for one in seen if one.alarm])
    return found, _harm(after, baseline, model)


def _harm(after: pd.DataFrame, baseline: Baseline, model: ContinualModel) -> int:
    """Alarms of the loss; one that is raised again while it stands is not another."""
    days = [(START + timedelta(days=number)).date() for number in range(HOLDOUT, HOLDOUT + SERVED)]
    states = [LabelDay(day, 1, 1, 0, "matured") for day in days]
    raised = [i for i, one in enumerate(harm.follow(model, after, states, baseline.losses)) if one.alarm]
    return sum(i == raised[0] or i - raised[k - 1] > harm.STANDS * harm.PER_DAY for k, i in enumerate(raised))


def onsets(days: Sequence[Sequence[Observation]]) -> dict[str, int]:
    """How many alarms were raised, by kind: one that stands the day after is not another."""
    raised: dict[str, int] = {}
    standing: set[tuple[str, str]] = set()
    for seen in days:
        failing = {(one.kind, one.subject) for one in seen if one.verdict.outcome == "fail"}
        for kind, _ in failing - standing:
            raised[kind] = raised.get(kind, 0) + 1
        standing = failing
    return raised


def one_month(per_month: float, seed: int) -> dict[str, int]:
    """The alarms of one simulated month."""
    inputs, losses = observed(month(seed), document(per_month))
    return {**onsets(inputs), "performance": losses}


def run() -> list[Result]:
    """False alarms over 1,000 months, as many accepted as by default."""
    per_month = Monitoring().false_alarms_per_month
    with ProcessPoolExecutor(2) as pool:
        months = list(pool.map(partial(one_month, per_month), range(MONTHS), chunksize=10))
    by_kind: dict[str, int] = {}
    for raised in months:
        for kind, n in raised.items():
            by_kind[kind] = by_kind.get(kind, 0) + n
    alarms = sum(by_kind.values())
    low, high = poisson.interval(0.95, per_month * MONTHS)
    told = ", ".join(f"{kind} {n}" for kind, n in sorted(by_kind.items(), key=lambda k: -k[1]))
    return [
        Result(
            f"false alarms in {MONTHS:,} quiet months, {per_month:g} a month accepted",
            alarms,
            "alarms",
            f"{low:.0f} to {high:.0f}",
            bool(low <= alarms <= high),
            f"{NUMBERS + WORDS} features, {ROWS} rows a day, correlation 0.3 from day to day; {told}",
        )
    ]
