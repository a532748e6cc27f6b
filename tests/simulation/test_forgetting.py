"""The check of forgetting, measured; and a world in which an update forgets, in the pipeline and in a backtest."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from benchmarks.false_promotions import day_effects
from evergrow.backtest.past import microseconds
from evergrow.backtest.tasks import Cut, Fit, Fitted, Judge, Select
from evergrow.backtest.work import perform
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, Verdict
from evergrow.data.training_set import build
from evergrow.evaluation.evaluate import evaluate
from evergrow.evaluation.forgetting import Remembered, judge
from evergrow.evaluation.gate import ChallengerLosses, ChampionLosses
from evergrow.learning.fit import fit
from evergrow.simulation.worlds import LABEL, TRUTH, ConceptDrift, Sudden, World, draw
from evergrow.spec.model import Gate, References
from tests.builders import document
from tests.unit.backtest.places import simulated

RULE, GATE = References(), Gate(metric="log_loss")
EACH, DAYS, RUNS = 10, 30 * RULE.periods, 300
ASKED = np.repeat(np.arange(DAYS), EACH) * 86_400_000_000
PERIOD = ASKED // (30 * 86_400_000_000)


def rejected(rise, correlation, *, runs=RUNS, heavy=False, days_differ=0.05, seed=0):
    """Share of runs in which a challenger is rejected whose expected loss has risen by shares of the champion's.

    Losses of rows vary as the champion's mean loss does, and the models' difference by days that hang together.
    """
    random = np.random.default_rng(seed)
    found = 0
    for _ in range(runs):
        old = random.gamma(2.0, 0.25, len(ASKED))
        days = days_differ * day_effects(correlation, 1, DAYS, heavy, random)[0]
        new = old * (1 + rise) + np.repeat(days, EACH) + random.normal(0, 0.1, len(ASKED))
        rows = Remembered(ASKED, pd.DataFrame(index=range(len(ASKED))))
        found += judge(RULE, GATE, rows, ChampionLosses(old), ChallengerLosses(new))[0].verdict.outcome == "fail"
    return found / runs


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_challenger_exactly_at_the_tolerance_everywhere_is_rejected_no_more_often_than_alpha(correlation, heavy):
    rate = rejected(RULE.tolerance, correlation, heavy=heavy, seed=21)
    assert rate <= binom.ppf(0.99, RUNS, RULE.alpha) / RUNS


def test_a_challenger_that_is_as_good_as_the_champion_is_hardly_ever_rejected():
    assert rejected(0.0, 0.3, seed=22) <= 0.005


@pytest.mark.parametrize(
    ("rise", "least"),
    [
        (np.where(PERIOD == 3, 0.3, 0.0), 0.9),
        (np.where(PERIOD == 3, 0.5, 0.0), 0.97),
        (np.where(PERIOD < 6, 0.2, 0.0), 0.8),
    ],
    ids=["one period by 30 %", "one period by 50 %", "six periods by 20 %"],
)
def test_a_clear_rise_is_found(rise, least):
    assert rejected(rise, 0.3, runs=100, seed=23) >= least


# -- a world in which an update forgets --------------------------------------------------------------------------------

TURNS, FIRST, SECOND = 95, timedelta(days=93), timedelta(days=185)
REFERENCES = {"share": 0.15, "tolerance": 0.2}


class Store:
    """A feature store of a world, whose rows have numbers as keys."""

    def __init__(self, frame):
        self.frame = frame

    def history(self, service, entities):
        features = [name for name in self.frame.columns if name.startswith("x")]
        return entities.merge(self.frame[["number", *features]], on="number", how="left")

    def digest(self, service):
        return service


def world(angle):
    """Of the second half, features mean something else."""
    drift = ConceptDrift(course=Sudden(at=TURNS), angle=angle) if angle else None
    found = World(days=190, rows=200, seed=5, concept=drift)
    frame = draw(found)
    return found, frame.assign(number=np.arange(len(frame)))


def updating(references):
    """A model that goes on from the champion on newer rows; the gate lets pass what is hardly worse on the newest."""
    changed = document(
        estimator="tests.example_model.estimator:by_gradient",
        training={"calibrationLength": "5d", "update": {"kind": "partial-fit", "passes": 5}},
        evaluation={"holdout": "12d", "slices": [], **({"references": references} if references else {})},
        gate={"margin": -0.05},
    ).dump()
    changed["spec"]["label"]["column"] = LABEL
    return type(document()).model_validate(changed)


def in_the_pipeline(model, found, frame, tmp_path):
    """What the evaluation says of the second training, but for the checks that a backtest does not replay."""
    bundles = [None]
    for number, after in enumerate((FIRST, SECOND)):
        out = tmp_path / str(number)
        examples = frame[[EVENT_TIMESTAMP, KNOWN_AT, "number", LABEL]]
        build(model, examples, Store(frame), found.start + after, "source", out / "set")
        fit(model, out / "set", out / "bundle", bundles[-1])
        bundles.append(out / "bundle")
    report = evaluate(model, tmp_path / "1/set", bundles[2], bundles[1], "1", tmp_path / "report")
    return Verdict.worst(one.verdict for one in report.checks if one.name not in ("latency", "size"))


def in_a_backtest(model, found, frame, folder):
    simulated(folder, found, frame)
    spec, champion = model.spec, ""
    for after in (FIRST, SECOND):
        evaluation, at = spec.evaluation, microseconds(found.start + after)
        metric, before = evaluation.gate.metric, champion
        asked = Select.of(spec.training, spec.task, metric, evaluation.holdout, at, evaluation.references)
        cut = done(folder, asked, Cut)
        champion = done(folder, Fit.of(cut, spec.training, spec.task, metric, before), Fitted).model
    judged = Judge(
        rows=cut.rows, challenger=champion, champion=before, prior=0.0, gate=evaluation.gate, task=spec.task,
        minimum_rows=evaluation.minimum_rows, references=evaluation.references,
    )  # fmt: skip
    return done(folder, judged, Verdict)


def done(folder, work, result):
    return result.model_validate_json(perform(folder, work).result)


@pytest.mark.parametrize(
    ("angle", "references", "outcome"),
    [(90, REFERENCES, "fail"), (90, None, "pass"), (0, REFERENCES, "pass")],
    ids=["forgets", "forgets unguarded", "forgets nothing"],
)
def test_an_update_that_forgets_is_rejected_and_one_that_does_not_is_promoted(tmp_path, angle, references, outcome):
    found, frame = world(angle)
    model = updating(references)
    live = in_the_pipeline(model, found, frame, tmp_path / "live")
    assert live.outcome == outcome, live.reason
    assert ("backward transfer -" in live.reason) or outcome == "pass"
    replayed = in_a_backtest(model, found, frame.drop(columns=[TRUTH]).assign(**{TRUTH: 0.0}), tmp_path / "backtest")
    assert replayed.outcome == outcome
