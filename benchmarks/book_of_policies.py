"""Which policy for which world: simulated years with known truth, each replayed under the same policies.

What is asked comes in three parts: when and on which rows to train, by which update and behind which gate, and by which
rollout a version takes over. Writes the tables of docs/explanation/book-of-policies.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

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
SIZE = f"{SEEDS} seeds of {DAYS} days"

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
WEEKLY = {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 * * 1"}], "cooldown": "0s"}}
MONTHLY = {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 1 * *"}], "cooldown": "0s"}}
DYNAMIC = {"kind": "dynamic", "least": "14d"}
LENIENT = {"margin": -0.02, "alpha": 0.2}
TREES = {
    "entrypoint": "sklearn.ensemble:GradientBoostingClassifier",
    "parameters": {"max_iter": None, "n_estimators": 60, "max_depth": None, "subsample": 0.3},
}
"""Boosted trees like those of `document`, of the kind that may go on with other rows. It is slow where each tree sees
all of them, so each sees three tenths."""
LINEAR = {"entrypoint": "benchmarks.book_of_policies:linear", "parameters": None}


def linear() -> Pipeline:
    """A logistic regression by stochastic gradients, whose steps keep their length, so that it goes on learning."""
    return make_pipeline(
        StandardScaler(), SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.003, max_iter=20, tol=None)
    )


@dataclass(frozen=True)
class Mean:
    """How a policy has done, in the mean over all seeds of a world.

    Attributes:
        loss: mean log loss a row above that of the truth itself, in nats.
        trainings: that were begun.
        promoted: versions that passed the gate.
        rollouts: that were begun.
        taken_over: rollouts that promoted their version.
        aborted: rollouts that sent everyone back.
    """

    loss: float
    trainings: float
    promoted: float
    rollouts: float
    taken_over: float
    aborted: float


Found = Mapping[str, Mean]
"""By policy."""


@dataclass(frozen=True)
class Part:
    """Some of what a policy says, tried in every world.

    Attributes:
        name: of the part.
        tried: its PolicySet.
        down: the choice whose options are the rows of a world's table.
        across: choices whose options are its columns; none: there is one table, whose rows are the worlds and whose
            columns are the options of `down`.
        brackets: what a cell has in brackets.
        against: pairs of policies for the figures, with what is compared: excess loss of the first over the second's.
    """

    name: str
    tried: Mapping[str, Any]
    down: str
    across: Sequence[str]
    brackets: Callable[[Mean], str]
    against: Sequence[tuple[str, str, str]] = ()


WINDOWS = Part(
    "windows",
    {
        "base": {"retraining": {"quiet": ON_MONDAYS}},
        "choices": {
            "when": {
                "weekly": WEEKLY,
                "monthly": MONTHLY,
                "harm": {"retraining": {"triggers": [{"kind": "performance"}], "longest": "7d"}},
                "drift": {
                    "retraining": {"triggers": [{"kind": "data-change", "of": ["feature-drift", "label-drift"]}]}
                },
                "once": {"retraining": {"triggers": [{"kind": "asked"}]}},
            },
            "window": {
                "all": {"training": {"window": {"kind": "all"}}},
                "60d": {"training": {"window": {"kind": "sliding", "length": "60d"}}},
                "14d": {"training": {"window": {"kind": "sliding", "length": "14d"}}},
                "dynamic": {"training": {"window": DYNAMIC}},
                "decay": {"training": {"window": {"kind": "decay", "halfLife": "30d"}}},
                "season": {
                    "training": {"window": {"kind": "season", "period": "180d", "within": "20d", "recent": "14d"}}
                },
            },
        },
        "reference": {"when": "monthly", "window": "all"},
    },
    down="when",
    across=("window",),
    brackets=lambda mean: f"{mean.trainings:.0f}",
)
UPDATES = Part(
    "updates",
    {
        "base": {
            "retraining": {"quiet": ON_MONDAYS},
            "training": {"window": DYNAMIC, "calibration": "sigmoid", "calibrationLength": "7d"},
        },
        "choices": {
            "update": {
                "trees-refit": {},
                "trees-refit-guarded": {"evaluation": {"references": {}}},
                "trees-warm-start": {"training": {"estimator": TREES, "update": {"kind": "warm-start", "rounds": 20}}},
                "trees-recalibrate": {"training": {"update": {"kind": "recalibrate"}}},
                "linear-refit": {"training": {"estimator": LINEAR}},
                "linear-partial-fit": {"training": {"estimator": LINEAR, "update": {"kind": "partial-fit"}}},
            },
            "when": {"weekly": WEEKLY, "monthly": MONTHLY},
            "gate": {
                "lenient": {},
                "strict": {"evaluation": {"gate": {"margin": 0.0, "alpha": 0.05}}},
            },
        },
        "reference": {"when": "monthly"},
    },
    down="update",
    across=("when", "gate"),
    brackets=lambda mean: f"{mean.promoted:.0f}",
    against=(
        ("warm starts over refits", "trees-warm-start/weekly/lenient", "trees-refit/weekly/lenient"),
        ("partial fits over refits", "linear-partial-fit/weekly/lenient", "linear-refit/weekly/lenient"),
        ("recalibrating over refits", "trees-recalibrate/weekly/lenient", "trees-refit/weekly/lenient"),
        ("a strict gate over a lenient one", "trees-refit/weekly/strict", "trees-refit/weekly/lenient"),
        ("a guard against forgetting over none", "trees-refit-guarded/weekly/lenient", "trees-refit/weekly/lenient"),
    ),
)
ROLLOUTS = Part(
    "rollouts",
    {
        "base": {
            "retraining": {"quiet": ON_MONDAYS, **MONTHLY["retraining"]},
            "training": {"window": DYNAMIC},
            "rollout": {"analysis": {"margin": 0.02, "alpha": 0.2, "labelsWithin": "3d", "block": "1h"}},
        },
        "choices": {
            "rollout": {
                "single": {},
                "blue-green": {"rollout": {"strategy": {"kind": "blue-green", "watch": "7d"}}},
                "shadow": {"rollout": {"strategy": {"kind": "shadow", "requests": 600, "duration": "5d"}}},
                "canary": {
                    "rollout": {
                        "strategy": {
                            "kind": "canary",
                            "steps": [
                                {"weight": 25, "requests": 100, "duration": "1d"},
                                {"weight": 50, "requests": 200, "duration": "2d"},
                            ],
                        }
                    }
                },
            },
        },
    },
    down="rollout",
    across=(),
    brackets=lambda mean: (
        f"{mean.taken_over:.0f} of {mean.rollouts:.0f}, {mean.aborted:.0f} aborted" if mean.rollouts else ""
    ),
    against=(
        ("blue-green over single", "blue-green", "single"),
        ("a shadow over single", "shadow", "single"),
        ("a canary over single", "canary", "single"),
    ),
)
PARTS = (WINDOWS, UPDATES, ROLLOUTS)


def document() -> ContinualModel:
    """The model that is kept: small boosted trees, judged on ten days, promoted unless surely worse."""
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
            "gate": {"metric": "log_loss", **LENIENT},
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


def replayed(world: World) -> list[Year]:
    """All policies of all parts in one world; what they have in common is done once."""
    frame = draw(world)
    names = [name for name in frame.columns if name not in (EVENT_TIMESTAMP, KNOWN_AT, LABEL, TRUTH)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        past = Past.of("binary-classification", LABEL, names, frame.drop(columns=TRUTH), timedelta(0))
        past.save(folder / PAST)
        return [_year(part, frame, folder) for part in PARTS]


def _year(part: Part, frame: pd.DataFrame, folder: Path) -> Year:
    ran = backtest(document(), parse(part.tried, "policies", PolicySet), folder, folder / part.name, count=2)
    found = compare(ran.results, Recommend())
    first, last = (pd.Timestamp(np.datetime64(day, "D"), tz="UTC") for day in found.days)
    judged = frame[(frame[EVENT_TIMESTAMP] >= first) & (frame[EVENT_TIMESTAMP] < last + timedelta(days=1))]
    return Year(found, expected_loss(judged[TRUTH].to_numpy()))


def run() -> list[Result]:
    """Every world, several seeds each; rows for the figures, and the page's tables."""
    years: dict[str, dict[str, list[Year]]] = {part.name: {name: [] for name in WORLDS} for part in PARTS}
    for name, (_, changes) in WORLDS.items():
        for seed in range(SEEDS):
            world = World(seed=seed, days=DAYS, rows=ROWS, **changes)
            for part, year in zip(PARTS, replayed(world), strict=True):
                years[part.name][name].append(year)
    found = {part: {name: means(seeds) for name, seeds in worlds.items()} for part, worlds in years.items()}
    write(PAGE, found)
    best = [_best(name, told) for name, told in found[WINDOWS.name].items()]
    return [*best, *(row for part in PARTS for row in _compared(part, found[part.name]))]


def means(years: Sequence[Year]) -> Found:
    """How each policy has done that served in all years of a world."""
    found: dict[str, list[Standing]] = {}
    for year in years:
        for one in year.found.standings:
            found.setdefault(one.policy, []).append(one)
    least = float(np.mean([year.least for year in years]))
    return {policy: _mean(ones, least) for policy, ones in found.items() if len(ones) == len(years)}


def _mean(ones: Sequence[Standing], least: float) -> Mean:
    """Of a policy's standings, one a seed; `least` is the truth's own loss."""
    counted = ("trainings", "promoted", "rollouts", "taken_over", "aborted")
    counts = {name: float(np.mean([getattr(one, name) for one in ones])) for name in counted}
    return Mean(loss=float(np.mean([one.loss for one in ones])) - least, **counts)


def write(page: Path, found: Mapping[str, Mapping[str, Found]]) -> None:
    """Put the tables of all worlds between a page's markers, and then those of which worlds are rows.

    Args:
        page: in Markdown.
        found: by part and world.
    """
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    lines: list[str] = []
    for name, (told, _) in WORLDS.items():
        lines += [f"### {name}", "", f"{told[0].upper()}{told[1:]}.", ""]
        for part in PARTS:
            if part.across:
                lines += [*table(part, found[part.name][name]), ""]
    for part in PARTS:
        if not part.across:
            lines += [f"## The {part.name}", "", *table_of_worlds(part, found[part.name]), ""]
    page.write_text("\n".join([f"{before}{START}", *lines, f"{END}{rest.partition(END)[2]}"]), encoding="utf-8")


def table(part: Part, found: Found) -> list[str]:
    """A world's table: loss above the truth's, and in brackets what the part has there; the best is bold.

    Args:
        part: what was tried, with something across.
        found: by policy.
    """
    choices, options = list(part.tried["choices"]), list(part.tried["choices"][part.down])
    across = list(product(*(part.tried["choices"][choice] for choice in part.across)))
    rows = []
    for option in options:
        chosen = [{part.down: option, **dict(zip(part.across, column, strict=True))} for column in across]
        policies = ["/".join(one[choice] for choice in choices) for one in chosen]
        rows.append([option, *(_cell(part, found, policy) for policy in policies)])
    return _lines([part.down, *(", ".join(column) for column in across)], rows)


def table_of_worlds(part: Part, worlds: Mapping[str, Found]) -> list[str]:
    """All worlds in one table, as above; the best of each is bold.

    Args:
        part: what was tried, with nothing across.
        worlds: what was found in each.
    """
    options = list(part.tried["choices"][part.down])
    rows = [[world, *(_cell(part, found, option) for option in options)] for world, found in worlds.items()]
    return _lines(["world", *options], rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(part: Part, found: Found, policy: str) -> str:
    if policy not in found:
        return "–"
    brackets = part.brackets(found[policy])
    text = f"{1000 * found[policy].loss:.0f}" + (f" ({brackets})" if brackets else "")
    return f"**{text}**" if found[policy].loss == min(one.loss for one in found.values()) else text


def _best(name: str, found: Found) -> Result:
    """A world's best policy against the reference."""
    best = min(found, key=lambda policy: found[policy].loss)
    one, reference = found[best], found["monthly/all"]
    return Result(
        f"world {name}: excess loss of the best policy over that of monthly on everything",
        one.loss / reference.loss, "×", "stated", holds=True,
        detail=f"{best} {one.loss:.4f} with {one.trainings:.0f} trainings, monthly on everything "
        f"{reference.loss:.4f} with {reference.trainings:.0f}; above the truth's own loss, {SIZE}",
    )  # fmt: skip


def _compared(part: Part, worlds: Mapping[str, Found]) -> Iterator[Result]:
    """Pairs of a part's policies, in the worlds in which both served."""
    for told, one, other in part.against:
        ratios = {
            name: found[one].loss / found[other].loss for name, found in worlds.items() if {one, other} <= found.keys()
        }
        each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        yield Result(
            f"{part.name}: excess loss of {told}, geometric mean of {len(ratios)} worlds",
            float(np.exp(np.mean(np.log(list(ratios.values()))))), "×", "stated", holds=True,
            detail=f"{one} over {other}: {each}; {SIZE}",
        )  # fmt: skip
