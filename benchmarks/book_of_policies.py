"""Which policy for which world: simulated years with known truth, each replayed under the same policies.

Writes the tables of docs/explanation/book-of-policies.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measure import Result
from evergrow.backtest.compare import Comparison, Standing, compare
from evergrow.backtest.past import Past
from evergrow.backtest.run import backtest
from evergrow.backtest.tasks import PAST
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.simulation.worlds import (
    LABEL,
    TRUTH,
    ConceptDrift,
    CovariateShift,
    Delay,
    Gradual,
    LabelShift,
    Recurring,
    Seasonal,
    Sudden,
    Upstream,
    World,
    draw,
    expected_loss,
)
from evergrow.spec import ContinualModel, parse
from evergrow.spec.policies import PolicySet, Recommend

PAGE = Path(__file__).parents[1] / "docs/explanation/book-of-policies.md"
START, END = "<!-- tables -->", "<!-- /tables -->"
DAYS, ROWS, SEEDS = 365, 120, 2

WORLDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "still": ("nothing changes", {}),
    "sudden": (
        "what features mean turns by 90° on day 180",
        {"concept": ConceptDrift(course=Sudden(at=180), angle=90)},
    ),
    "gradual": (
        "what features mean turns by 120° over 200 days",
        {"concept": ConceptDrift(course=Gradual(since=120, days=200), angle=120)},
    ),
    "recurring": (
        "what features mean turns by 90° and back, every 60 days",
        {"concept": ConceptDrift(course=Recurring(every=60), angle=90)},
    ),
    "seasonal": (
        "what features mean turns by 90° and back in a wave of 180 days",
        {"concept": ConceptDrift(course=Seasonal(period=180), angle=90)},
    ),
    "covariates": (
        "other rows are asked for from day 180 on, by 1.5 standard deviations",
        {"covariates": CovariateShift(course=Sudden(at=180), by=1.5)},
    ),
    "labels": ("the share of ones rises to 60 % on day 180", {"labels": LabelShift(course=Sudden(at=180), to=0.6)}),
    "late": (
        "as sudden, and labels take 21 days on average",
        {"concept": ConceptDrift(course=Sudden(at=180), angle=90), "delay": Delay(days=21)},
    ),
    "upstream": ("a feature comes in another unit from day 180 on", {"upstream": Upstream(course=Sudden(at=180))}),
}
"""Name, what happens, and how the world is told it."""

ON_MONDAYS = [
    {"since": "00:00", "until": "00:00", "days": ["tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]}
]
SET: dict[str, Any] = {
    "base": {"retraining": {"quiet": ON_MONDAYS}},
    "choices": {
        "when": {
            "weekly": {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 * * 1"}], "cooldown": "0s"}},
            "monthly": {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 1 * *"}], "cooldown": "0s"}},
            "harm": {"retraining": {"triggers": [{"kind": "performance"}], "longest": "7d"}},
            "drift": {"retraining": {"triggers": [{"kind": "data-change", "of": ["feature-drift", "label-drift"]}]}},
            "once": {"retraining": {"triggers": [{"kind": "asked"}]}},
        },
        "window": {
            "all": {"training": {"window": {"kind": "all"}}},
            "60d": {"training": {"window": {"kind": "sliding", "length": "60d"}}},
            "14d": {"training": {"window": {"kind": "sliding", "length": "14d"}}},
            "dynamic": {"training": {"window": {"kind": "dynamic", "least": "14d"}}},
            "decay": {"training": {"window": {"kind": "decay", "halfLife": "30d"}}},
            "season": {"training": {"window": {"kind": "season", "period": "180d", "within": "20d", "recent": "14d"}}},
        },
    },
    "reference": {"when": "monthly", "window": "all"},
}


def document() -> ContinualModel:
    """The model that is kept: small boosted trees, judged on a week, promoted unless surely worse."""
    spec = {
        "task": "binary-classification",
        "source": {"entrypoint": "models.arrival_delay.data:Flights"},
        "features": {"service": "simulated"},
        "label": {"column": LABEL},
        "training": {
            "estimator": {
                "entrypoint": "models.arrival_delay.estimator:build",
                "parameters": {"learning_rate": 0.1, "max_iter": 60, "max_leaf_nodes": 8, "min_samples_leaf": 20},
            },
            "calibrationLength": "0s",
        },
        "evaluation": {
            "holdout": "10d",
            "metrics": ["log_loss"],
            "gate": {"metric": "log_loss", "margin": -0.02, "alpha": 0.2},
        },
    }
    head = {"apiVersion": "evergrow.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": "simulated"}}
    return parse({**head, "spec": spec})


@dataclass(frozen=True)
class Year:
    """A world that was replayed.

    Attributes:
        found: how policies compare.
        least: expected loss of the truth itself on the judged days.
    """

    found: Comparison
    least: float


def replayed(world: World) -> Year:
    """All policies in one world."""
    frame = draw(world)
    names = [name for name in frame.columns if name not in (EVENT_TIMESTAMP, KNOWN_AT, LABEL, TRUTH)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        past = Past.of("binary-classification", LABEL, names, frame.drop(columns=TRUTH), timedelta(0))
        past.save(folder / PAST)
        ran = backtest(document(), parse(SET, "policies", PolicySet), folder, folder / "out", count=2)
    found = compare(ran.results, Recommend())
    first, last = (pd.Timestamp(np.datetime64(day, "D"), tz="UTC") for day in found.days)
    judged = frame[(frame[EVENT_TIMESTAMP] >= first) & (frame[EVENT_TIMESTAMP] < last + timedelta(days=1))]
    return Year(found, expected_loss(judged[TRUTH].to_numpy()))


def run() -> list[Result]:
    """Every world, several seeds each; a row a world, and the page's tables."""
    years = {
        name: [replayed(World(seed=seed, days=DAYS, rows=ROWS, **parts)) for seed in range(SEEDS)]
        for name, (_, parts) in WORLDS.items()
    }
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    tables = "\n".join(table(name, WORLDS[name][0], found) for name, found in years.items())
    PAGE.write_text(f"{before}{START}\n{tables}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return [_row(name, found) for name, found in years.items()]


def excess(years: list[Year]) -> dict[str, tuple[float, float]]:
    """By policy: mean loss above the truth's, and trainings, over all seeds."""
    found: dict[str, list[Standing]] = {}
    for year in years:
        for one in year.found.standings:
            found.setdefault(one.policy, []).append(one)
    least = float(np.mean([year.least for year in years]))
    return {
        policy: (float(np.mean([o.loss for o in ones])) - least, float(np.mean([o.trainings for o in ones])))
        for policy, ones in found.items()
        if len(ones) == len(years)
    }


def table(name: str, told: str, years: list[Year]) -> str:
    """A world's table: loss above the truth's by trigger and window, the trainings in brackets; the best is bold."""
    found = excess(years)
    best = min(loss for loss, _ in found.values())
    windows = list(SET["choices"]["window"])
    lines = [f"### {name}", "", f"{told[0].upper()}{told[1:]}.", "", f"| when | {' | '.join(windows)} |"]
    lines.append(f"|---|{'---|' * len(windows)}")
    for when in SET["choices"]["when"]:
        cells = [_cell(found.get(f"{when}/{window}"), best) for window in windows]
        lines.append(f"| {when} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(found: tuple[float, float] | None, best: float) -> str:
    if found is None:
        return "–"
    text = f"{1000 * found[0]:.0f} ({found[1]:.0f})"
    return f"**{text}**" if found[0] == best else text


def _row(name: str, years: list[Year]) -> Result:
    found = excess(years)
    best = min(found, key=lambda policy: found[policy][0])
    reference = found["monthly/all"]
    return Result(
        f"world {name}: excess loss of the best policy over that of monthly on everything",
        found[best][0] / reference[0], "×", "stated", holds=True,
        detail=f"{best} {found[best][0]:.4f} with {found[best][1]:.0f} trainings, monthly on everything "
        f"{reference[0]:.4f} with {reference[1]:.0f}; above the truth's own loss, {SEEDS} seeds of {DAYS} days",
    )  # fmt: skip
