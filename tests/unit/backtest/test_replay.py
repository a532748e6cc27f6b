"""A policy is replayed by what was known at each instant: against a plain loop, and with the future perturbed."""

from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from evergrow.backtest.past import Past, instant_of, microseconds
from evergrow.backtest.policies import policies
from evergrow.backtest.replay import STRETCH, Setting, instants, replay
from evergrow.backtest.results import judged_days, result
from evergrow.backtest.tasks import PAST, Fit, Judge, Select, scores
from evergrow.backtest.work import Shared, workers
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.errors import SpecError
from evergrow.learning.losses import row_losses
from evergrow.simulation.worlds import ConceptDrift, CovariateShift, Sudden, World, draw
from evergrow.spec.policies import WhatIf
from tests.unit.backtest.places import WHEN, WINDOW, policy_set, simulated, small_document

WORLD = World(
    seed=3, days=140, rows=60, features=3, concept=ConceptDrift(course=Sudden(at=80), angle=120),
    covariates=CovariateShift(course=Sudden(at=100), by=4.0),
)  # fmt: skip
START = datetime.fromisoformat("2024-02-15T00:00:00+00:00")
END = datetime.fromisoformat("2024-05-18T00:00:00+00:00")
"""Decisions span more than three stretches of monitoring."""
USUAL = WhatIf()


def replayed(folder, name, what_if=USUAL, until=END, model=None, tried=None):
    """A policy of the set, by name, and what shared its work."""
    past = Past.open(folder / PAST)
    every = policies(model or small_document(), tried or policy_set())
    policy = next(one for one in every if one.name == name)
    setting = Setting(past, instants(START, until, timedelta(days=1)), what_if)
    with workers(1) as executor:
        shared = Shared(folder, executor)
        found = replay(policy, setting, shared)
        return policy, found, result(policy, found, setting, shared)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("replay")
    simulated(found, WORLD)
    return found


def plainly(folder, policy, due, takes):
    """The same policy by a loop that knows schedules and ages only, and does all work itself."""
    spec, past = policy.document.spec, Past.open(folder / PAST)
    champion, cut_at, trained, outcomes = None, None, [], []
    now = START
    while now <= END:
        serving = champion and champion[1] <= now
        if not champion or (serving and due(now, cut_at, trained)):
            select = Select.of(spec.training, spec.task, "log_loss", spec.evaluation.holdout, microseconds(now))
            cut = select.run(folder)
            fitted = Fit.of(cut, spec.training, spec.task, "log_loss").run(folder)
            judge = Judge(
                rows=cut.rows, challenger=fitted.model, champion=champion[0] if champion else "",
                prior=0.0 if champion else fitted.prior, gate=spec.evaluation.gate, task=spec.task, minimum_rows=50,
            )  # fmt: skip
            verdict = judge.run(folder)
            trained.append(now)
            outcomes.append((now, verdict.outcome == "pass"))
            if verdict.outcome == "pass":
                champion, cut_at = (fitted.model, now + takes), now
        now += timedelta(days=1)
    assert len(past.asked)
    return outcomes


@pytest.mark.parametrize("gate", ["strict", "open"])
@pytest.mark.parametrize("window", ["all", "30d"])
def test_a_schedule_is_replayed_as_a_plain_loop_would(folder, window, gate):
    policy, found, _ = replayed(folder, f"weekly/{window}/{gate}")
    mondays = plainly(
        folder, policy, lambda now, cut, trained: now.weekday() == 0 and now > trained[-1], timedelta(hours=1)
    )
    assert [(one.began, one.outcome == "promoted") for one in found.trainings] == mondays
    assert len({outcome for _, outcome in mondays}) == 2 or gate == "open"
    assert [one.cut for one in found.served] == [at for at, promoted in mondays if promoted]


def test_each_instant_has_a_decision_and_each_training_one_that_wanted_it(folder):
    for name in ("weekly/all/open", "old/30d/strict", "volume/all/open", "harm/all/open", "drift/all/open"):
        _, found, _ = replayed(folder, name)
        assert [one.as_of for one in found.decisions] == [
            START + timedelta(days=i) for i in range((END - START).days + 1)
        ]
        assert [one.as_of for one in found.decisions if one.train] == [one.began for one in found.trainings]


def test_a_budget_that_is_supposed_is_kept_and_withholds_what_was_begun_without_it(folder):
    _, free, _ = replayed(folder, "weekly/30d/open")
    supposed = {"spec": {"retraining": {"budget": {"trainings": 1, "per": "20d"}}}}
    _, held, _ = replayed(folder, "weekly/30d/open", tried=policy_set(whatIf=supposed))
    began = [one.began for one in held.trainings]
    assert len(began) < len(free.trainings)
    assert all(later - earlier >= timedelta(days=20) for earlier, later in pairwise(began))
    assert began[0] == free.trainings[0].began
    assert any("budget" in one.withheld for one in held.decisions)
    assert not any("budget" in one.withheld for one in free.decisions)


def test_a_model_serves_from_when_its_training_has_ended_until_the_next_one_does(folder):
    takes = timedelta(hours=30)
    _, found, outcome = replayed(folder, "weekly/30d/open", WhatIf(takes=takes))
    assert len(found.served) > 3
    for one, training in zip(found.served, [t for t in found.trainings if t.outcome == "promoted"], strict=True):
        assert one.since == training.ended == training.began + takes
        assert one.cut == training.began
    past = Past.open(folder / PAST)
    loss, rows = 0.0, 0
    ends = [*(microseconds(one.since) for one in found.served[1:]), microseconds(END)]
    for one, end in zip(found.served, ends, strict=True):
        mine = past.between(microseconds(one.since), end)
        y = past.truth[mine]
        known = ~np.isnan(y)
        loss += row_losses("log_loss", y[known], scores(folder, one.model, mine)[known]).sum()
        rows += int(known.sum())
    assert sum(day.rows for day in outcome.days) == rows
    assert sum(day.loss for day in outcome.days) == pytest.approx(loss)


def test_nothing_is_begun_while_a_training_is_under_way(folder):
    _, found, _ = replayed(folder, "old/all/strict", WhatIf(takes=timedelta(days=4)))
    for one, following in pairwise(found.trainings):
        assert following.began >= one.ended
    assert any("a training is under way" in one.withheld for one in found.decisions)


def test_harm_starts_a_training_where_the_concept_changes_and_not_before(folder):
    _, found, _ = replayed(folder, "harm/30d/open")
    change = WORLD.start + timedelta(days=80)
    begun = [one.began for one in found.trainings[1:]]
    assert begun
    assert change < begun[0] < change + timedelta(days=10)


def test_drift_starts_a_training_where_the_covariates_change_and_not_before(folder):
    _, found, _ = replayed(folder, "drift/30d/open")
    change = WORLD.start + timedelta(days=100)
    begun = [one.began for one in found.trainings[1:]]
    assert begun
    assert change < begun[0] < change + timedelta(days=4)


def test_looks_do_not_depend_on_how_far_the_replay_goes(folder):
    whole = replayed(folder, "harm/30d/open")[1]
    part = replayed(folder, "harm/30d/open", until=START + timedelta(days=2 * STRETCH + 5))[1]
    assert part.decisions == whole.decisions[: len(part.decisions)]


PERTURBED = ["weekly/all/strict", "old/30d/open", "volume/30d/open", "harm/30d/open", "drift/all/open"]


@pytest.mark.parametrize("name", PERTURBED)
@pytest.mark.parametrize("days", [30, 61])
def test_perturbing_the_future_changes_no_decision_before_it(folder, tmp_path, name, days):
    """Features, labels and delays of all that became known, or was asked for, later are others."""
    now = START + timedelta(days=days)
    frame, random = draw(WORLD), np.random.default_rng(days)
    later_label = (frame[KNOWN_AT] > now).to_numpy()
    later_row = (frame[EVENT_TIMESTAMP] > now).to_numpy()
    frame.loc[later_label, "label"] = random.integers(0, 2, later_label.sum())
    moved = frame.loc[later_label, KNOWN_AT] + pd.to_timedelta(random.integers(0, 9, later_label.sum()), "D")
    frame.loc[later_label, KNOWN_AT] = moved
    for column in ("x0", "x1", "x2"):
        frame.loc[later_row, column] = random.normal(5, 3, later_row.sum())
    simulated(tmp_path, WORLD, frame)
    before, after = (replayed(place, name)[1] for place in (folder, tmp_path))
    count = days + 1
    assert after.decisions[:count] == before.decisions[:count]
    told = [[(t.began, t.rows, t.verdict) for t in one.trainings] for one in (before, after)]
    past = [[one for one in trainings if one[0] <= now] for trainings in told]
    assert past[0] == past[1]
    assert told[0] != told[1]


def test_a_trigger_that_is_not_replayed_is_refused_and_named(folder):
    for kind, trigger, message in (
        ("performance", {"by": ["estimated"]}, r"\.by: a backtest replays realised performance only, found estimated"),
        (
            "data-change",
            {"of": ["schema"]},
            r"\.of: a backtest replays feature-drift and label-drift only, found schema",
        ),
    ):
        tried = policy_set(choices={"when": {"odd": {"retraining": {"triggers": [{"kind": kind, **trigger}]}}}})
        with pytest.raises(SpecError, match=rf"policy odd: spec\.retraining\.triggers\[0\]{message}"):
            replayed(folder, "odd", tried=tried)


def test_a_training_without_enough_rows_has_failed_and_is_tried_again(folder):
    tried = policy_set(base={"evaluation": {"holdout": "60d"}})
    _, found, _ = replayed(folder, "weekly/all/open", tried=tried)
    assert [one.outcome for one in found.trainings[:2]] == ["failed", "failed"]
    assert "do not span more than evaluation.holdout" in found.trainings[0].verdict.reason
    assert found.served


def test_days_are_judged_from_when_the_last_policy_serves(folder):
    early = replayed(folder, "weekly/all/open")[2]
    late = replayed(folder, "weekly/all/open", tried=policy_set(base={"evaluation": {"holdout": "42d"}}))[2]
    days, left_out = judged_days([early, late])
    assert left_out == []
    assert days[0] == late.days[0].day + 1
    assert instant_of(int(days[-1]) * 86_400_000_000) < END
    nobody = early.model_copy(update={"policy": "nobody", "days": ()})
    days, left_out = judged_days([early, nobody])
    assert left_out == ["nobody"]
    assert len(days) == len(early.days) - 1


def test_a_control_rejects_what_is_kept_while_the_concept_changes_and_nothing_before(folder):
    recalibrate = {"kind": "recalibrate"}
    kinds = {"kept": recalibrate, "held": {**recalibrate, "control": {}}, "refit": {"kind": "refit"}}
    update = {name: {"training": {"calibration": "sigmoid", "update": kind}} for name, kind in kinds.items()}
    choices = {"when": {"weekly": WHEN["weekly"]}, "window": {"30d": WINDOW["30d"]}, "update": update}
    lenient = {"evaluation": {"gate": {"margin": -1}}}
    kept, held, refit = (
        replayed(folder, f"weekly/30d/{name}", tried=policy_set(base=lenient, choices=choices))[1].trainings
        for name in update
    )
    change = WORLD.start + timedelta(days=80)
    assert {one.outcome for one in kept} == {one.outcome for one in refit} == {"promoted"}
    before = [one for one in held if one.began < change]
    late = [one for one in held if one.began > change + timedelta(days=30)]
    assert {one.outcome for one in before} == {"promoted"}
    assert len(before) > 2
    assert {one.outcome for one in late} == {"rejected"}
    assert all("vs control" in one.verdict.reason for one in late)
    # A control is fitted where there is something to go on from, and costs as many rows again.
    assert [one.rows for one in held] == [one.rows * (1 if i == 0 else 2) for i, one in enumerate(kept)]
