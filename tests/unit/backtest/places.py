"""Pasts and policies that backtests are tried on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd

from evergrow.backtest.past import Past
from evergrow.backtest.tasks import PAST
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.simulation.worlds import LABEL, TRUTH, World, draw
from evergrow.spec import parse
from evergrow.spec.policies import PolicySet
from tests.builders import FEATURES, document, rows

NO_DELAY = timedelta(0)
ENDS = {"known_at", "event_timestamp", "label", "truth"}


def small_document(**parts):
    """A document whose parts are short and whose estimator is quick."""
    training = {"calibrationLength": "5d", **parts.pop("training", {})}
    evaluation = {"holdout": "10d", "slices": [], "minimumRows": 50, **parts.pop("evaluation", {})}
    return document(
        estimator=parts.pop("estimator", "tests.example_model.estimator:logistic"),
        training=training, evaluation=evaluation, **parts,
    )  # fmt: skip


def delays(folder: Path, frame: pd.DataFrame | None = None, late: timedelta = NO_DELAY) -> Past:
    """The past of the builders' delays, kept below `folder`."""
    frame = rows() if frame is None else frame
    past = Past.of("binary-classification", "late", [f.name for f in FEATURES], frame.drop(columns="minutes"), late)
    past.save(folder / PAST)
    return past


def simulated(folder: Path, world: World, frame: pd.DataFrame | None = None) -> Past:
    """The past of a world, kept below `folder`."""
    frame = draw(world) if frame is None else frame
    names = [name for name in frame.columns if name not in (EVENT_TIMESTAMP, KNOWN_AT, LABEL, TRUTH)]
    past = Past.of("binary-classification", LABEL, names, frame.drop(columns=TRUTH), NO_DELAY)
    past.save(folder / PAST)
    return past


WHEN = {
    "weekly": {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 * * 1"}], "cooldown": "0s"}},
    "once": {"retraining": {"triggers": [{"kind": "asked"}]}},
    "old": {"retraining": {"triggers": [{"kind": "model-age", "olderThan": "20d"}], "cooldown": "3d"}},
    "volume": {"retraining": {"triggers": [{"kind": "data-volume", "rows": 900}], "cooldown": "3d"}},
    "harm": {"retraining": {"triggers": [{"kind": "performance"}], "cooldown": "3d"}},
    "drift": {
        "retraining": {"triggers": [{"kind": "data-change", "of": ["feature-drift", "label-drift"]}]},
        # Of days of few rows, among few days, little is unusual.
        "monitoring": {"falseAlarmsPerMonth": 4},
    },
}
WINDOW = {
    "all": {"training": {"window": {"kind": "all"}}},
    "30d": {"training": {"window": {"kind": "sliding", "length": "30d"}}},
}
GATE = {"strict": {}, "open": {"evaluation": {"gate": {"margin": -0.05, "alpha": 0.4}}}}


def policy_set(**parts) -> PolicySet:
    """Twenty-four policies, unless told otherwise."""
    return parse({"choices": {"when": WHEN, "window": WINDOW, "gate": GATE}, **parts}, "policies", PolicySet)
