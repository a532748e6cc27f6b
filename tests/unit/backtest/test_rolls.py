"""Rollouts are replayed as they would have been live: by draws, by labels as they came, and by nothing of later."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.backtest import rolls
from evergrow.backtest.compare import compare
from evergrow.backtest.page import render
from evergrow.backtest.past import DAY, Past, instant_of, microseconds
from evergrow.backtest.policies import policies
from evergrow.backtest.replay import Setting, instants, replay
from evergrow.backtest.results import result
from evergrow.backtest.rolls import RARER, Roll, Rolled, chance
from evergrow.backtest.run import backtest
from evergrow.backtest.tasks import PAST, Fit, Judge, Select, opened_cut, scores
from evergrow.backtest.work import Shared, workers
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.errors import SpecError
from evergrow.learning.losses import row_losses
from evergrow.monitoring.baseline import Baseline
from evergrow.rollout.analysis import judge
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.guardrails import Answered
from evergrow.rollout.machine import Seen, advance, begin
from evergrow.rollout.prior import decisive, prior
from evergrow.simulation.worlds import ConceptDrift, Recurring, Sudden, World, draw
from evergrow.spec.policies import Recommend, WhatIf
from evergrow.spec.rollout import RolloutSpec
from tests.unit.backtest.places import policy_set, simulated, small_document

CHANGES = World(seed=3, days=110, rows=300, features=3, concept=ConceptDrift(course=Sudden(at=40), angle=150))
"""What was learned before day 40 is wrong from then on: who learns anew is better for good."""
RETURNS = CHANGES.model_copy(update={"concept": ConceptDrift(course=Recurring(every=39.5), angle=150)})
"""From day 39.5 to 79: who has learned anew by then is better on all that is known, and worse from then on."""
BEGIN = CHANGES.start + timedelta(days=38)
LAST = CHANGES.start + timedelta(days=108)
TRAINED = CHANGES.start + timedelta(days=79)
ONCE_MORE = {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 20 3 *"}], "cooldown": "0s"}}
"""On day 79, beside the first day."""
WEEKLY = {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 * * 1"}], "cooldown": "0s"}}
CALM = {"labelsWithin": "2d", "block": "6h", "effect": 0.1, "guardrails": ["errors", "shift"], "errors": {"limit": 0.1}}
STEPS = [{"weight": 20, "requests": 50, "duration": "1d"}, {"weight": 50, "requests": 100, "duration": "1d"}]
STRATEGIES = {
    "canary": {"kind": "canary", "steps": STEPS},
    "shadow": {"kind": "shadow", "share": 80, "requests": 300, "duration": "1d"},
    "ab-test": {"kind": "ab-test", "weight": 40, "requests": 900},
    "blue-green": {"kind": "blue-green", "preview": "6h", "watch": "2d"},
    "bandit": {"kind": "bandit", "every": "1h", "requests": 60},
}
HOW = {name: {"rollout": {"strategy": strategy, "analysis": CALM}} for name, strategy in STRATEGIES.items()}
NEVER_SURE = {
    "rollout": {"strategy": STRATEGIES["canary"], "analysis": {**CALM, "effect": 0.0001, "alpha": 1e-9, "harm": 1e-9}}
}
OPEN = {"evaluation": {"gate": {"margin": -5}}}


@pytest.fixture(autouse=True)
def _few_looks(monkeypatch):
    """Nobody looks as often as in service."""
    monkeypatch.setattr(rolls, "LOOK", timedelta(hours=6))


def tried(when, **how):
    return policy_set(base={**OPEN, **when, "training": {"window": {"kind": "sliding", "length": "30d"}}},
                      choices={"how": how})  # fmt: skip


def shorter(tried_):
    """The same policies for five weeks."""
    return tried_.model_copy(update={"until": BEGIN + timedelta(days=41)})


def replayed(folder, name, policy_set_, until=LAST, what_if=WhatIf()):  # noqa: B008 - frozen
    """A policy of a set, by name, with its results and what was spent."""
    policy = next(one for one in policies(small_document(), policy_set_) if one.name == name)
    setting = Setting(Past.open(folder / PAST), instants(BEGIN, until, timedelta(days=1)), what_if)
    with workers(1) as executor:
        shared = Shared(folder, executor)
        found = replay(policy, setting, shared)
        return found, result(policy, found, setting, shared), shared.spent()


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    found = tmp_path_factory.mktemp("changes")
    simulated(found, CHANGES)
    return found


@pytest.fixture(scope="module")
def returns(tmp_path_factory):
    found = tmp_path_factory.mktemp("returns")
    simulated(found, RETURNS)
    return found


# -- draws -------------------------------------------------------------------------------------------------------------


def mixed(z):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ (z >> shift)) * factor % 2**64
    return z


@given(st.integers(0, 2**32 - 1), st.integers(0, 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_a_rows_number_is_splitmix64_of_its_position(seed, stream, positions):
    found = chance(seed, stream, np.array(positions))
    step = 0x9E3779B97F4A7C15
    key = mixed((2 * seed + stream + step) % 2**64)
    assert found.tolist() == [(mixed(((key ^ p) + step) % 2**64) >> 11) / 2**53 for p in positions]


def test_numbers_are_evenly_spread_and_streams_and_seeds_have_nothing_to_do_with_each_other():
    columns = [chance(seed, stream, np.arange(40_000)) for seed in (0, 1, 7) for stream in (0, 1)]
    for one in columns:
        assert np.abs(np.histogram(one, 20, (0, 1))[0] - 2000).max() < 5 * np.sqrt(2000)
    off = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(off).max() < 5 / np.sqrt(40_000)
    assert abs(np.corrcoef(columns[0][1:], columns[0][:-1])[0, 1]) < 5 / np.sqrt(40_000)


# -- a rollout, against a plain service that is judged by the live witness's functions ---------------------------------


def pair(folder, name):
    """The rollout of who learned on day 79, where who learned on day 38 serves."""
    model = next(one for one in policies(small_document(), tried(ONCE_MORE, **HOW)) if one.name == name).document
    spec, done = model.spec, []
    for at in (BEGIN, TRAINED):
        select = Select.of(spec.training, spec.task, "log_loss", spec.evaluation.holdout, microseconds(at))
        cut = select.run(folder)
        done.append((cut, Fit.of(cut, spec.training, spec.task, "log_loss").run(folder)))
    (old, champion), (_, challenger) = done
    began = microseconds(TRAINED + timedelta(hours=1))
    return model, Roll.of(
        model, champion.model, old.rows, microseconds(BEGIN), challenger.model, began, began + 28 * DAY
    )  # fmt: skip


def plainly(folder, model, roll):
    """A service in which each request is drawn, logged and judged one by one; who gets what since when, and the end."""
    past, how, metric = Past.open(folder / PAST), model.spec.rollout, "log_loss"
    cut, spec = opened_cut(folder, roll.rows), RolloutSpec(model="m", candidates=(2,))
    y, held = cut["holdout_y"], scores(folder, roll.champion, cut["holdout"])
    at = pd.to_datetime(past.asked[cut["holdout"]], unit="us", utc=True).as_unit("us")
    frame = pd.DataFrame({EVENT_TIMESTAMP: at})
    known = Baseline.of((), (), frame, held, y, row_losses(metric, y, held))
    before = prior(model, how, 1, {1: known}) if decisive(how) else prior(model, how, 1, {})
    every = {1: scores(folder, roll.champion, slice(None)), 2: scores(folder, roll.challenger, slice(None))}
    first = {}
    for row, when in zip(past.label_row.tolist(), past.label_known.tolist(), strict=True):
        first.setdefault(row, when)
    truth = past.truth
    watch = getattr(how.strategy, "watch", timedelta(0))
    row, log = int(np.searchsorted(past.asked, roll.began - microseconds(instant_of(0) + watch))), []
    status = begin(spec, 1, instant_of(roll.began)).model_copy(update={"rollout": how})
    now, trail, looks = roll.began, [], []
    while True:
        looks.append(now)
        while row < len(past.asked) and past.asked[row] < now:
            # As the gateway does: who is drawn by the weights in force, and whether a copy goes to the shadow.
            share = next(((w, m) for t, w, m in reversed(trail) if t <= past.asked[row]), (0, 0))
            version = 2 if 100 * chance(roll.seed, 0, np.array([row]))[0] < share[0] else 1
            propensity = (share[0] if version == 2 else 100 - share[0]) / 100
            log.append((row, version, "weights", propensity, every[version][row], f"v{version}-{row}-0"))
            if 100 * chance(roll.seed, 1, np.array([row]))[0] < share[1]:
                log.append((row, 2, "shadow", np.nan, every[2][row], f"copy-{row}-0"))
            row += 1
        evidence = Evidence()
        if status.step_started is not None:
            table = pd.DataFrame(log, columns=["row", "version", "route", "propensity", "score", "prediction_id"])
            rows = table["row"].to_numpy(int)
            asked = pd.Series(pd.to_datetime(past.asked[rows], unit="us", utc=True)).dt.as_unit("us")
            came = [first.get(r, roll.until * 2) for r in rows]
            came_at = pd.Series(pd.to_datetime([c if c < now else None for c in came], unit="us", utc=True))
            label = [truth[r] if c < now else np.nan for r, c in zip(rows, came, strict=True)]
            table = table.assign(
                event_timestamp=asked, request_id=[f"r{r}" for r in rows], latency_ms=0.0, label=label,
                label_first_known_at=came_at.dt.as_unit("us"),
            )  # fmt: skip
            mine = table[(table["version"] == 2) & (asked >= instant_of(roll.began))]
            counted = {2: Answered(len(mine), 0, 0)}
            evidence = judge(model, status, (2,), table, counted, before, instant_of(now))
        seen = Seen({1: 1, 2: 1}, evidence.requests, evidence.findings, shares=evidence.shares, best=evidence.best)
        status = advance(spec, how, status, seen, instant_of(now))
        got = status.weights.get("2", 0), status.mirror_percent
        if not trail or trail[-1][1:] != got:
            trail.append((now, *got))
        if status.ended is not None:
            return trail, status, looks
        later = now + max(roll.look // timedelta(microseconds=1), (now - roll.began) // RARER)
        ends = [roll.began + how.inconclusive_after // timedelta(microseconds=1)]
        if hasattr(how.strategy, "steps"):
            span = how.strategy.steps[status.step].duration
        else:
            durations = {"shadow": ["duration"], "blue-green": ["preview", "watch"]}.get(how.strategy.kind)
            span = getattr(how.strategy, durations[status.step]) if durations else timedelta(0)
        ends.append(microseconds(status.step_started + span))
        now = min([later, *(end for end in ends if now < end)])
        if now >= roll.until:
            return trail, status, looks


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("world", ["changes", "returns"])
def test_a_rollout_goes_as_in_a_plain_service_that_is_judged_as_live(request, name, world):
    folder = request.getfixturevalue(world)
    model, roll = pair(folder, name)
    roll = roll.model_copy(update={"until": roll.began + 9 * DAY})
    found = roll.run(folder)
    trail, status, looks = plainly(folder, model, roll)
    assert [(one.since, one.percent, one.copies) for one in found.shares] == trail
    assert (found.looked, found.status.phase, found.status.ended) == (looks[-1], status.phase, status.ended)
    assert found.status.reason == status.reason
    assert found.status.findings == status.findings


def test_the_plain_service_has_seen_promotions_and_abortions(changes, returns):
    ends = {
        (world, name): pair(folder, name)[1].run(folder).status.phase
        for world, folder in (("changes", changes), ("returns", returns))
        for name in STRATEGIES
    }
    assert {ends["changes", name] for name in ("canary", "shadow", "ab-test", "bandit")} == {"Promoted"}
    assert {ends["returns", name] for name in ("canary", "shadow")} == {"Aborted"}
    # Nothing of what guardrails see is wrong with it.
    assert ends["returns", "blue-green"] == "Promoted"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_rollout_that_is_replayed_in_stretches_is_the_same(returns, name):
    _, roll = pair(returns, name)
    whole = roll.run(returns)
    part = roll.model_copy(update={"until": roll.began + 1}).run(returns)
    for days in (0.5, 3.3, 3.31, 28):
        part = Rolled.model_validate_json(part.model_dump_json())
        part = roll.then(part, roll.began + round(days * DAY)).run(returns)
    assert part == whole


def test_looks_become_rarer_and_meet_the_ends_of_moves_exactly(changes):
    _, roll = pair(changes, "blue-green")
    found = roll.run(changes)
    assert [(one.since - roll.began, one.percent) for one in found.shares] == [(0, 0), (DAY // 4, 100)]
    assert found.looked == roll.began + DAY // 4 + 2 * DAY
    usual = Roll.of(roll.document, roll.champion, roll.rows, 0, roll.challenger, roll.began, roll.until)
    assert (usual.look, usual.read) == (rolls.LOOK, roll.began - 2 * DAY)


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_harmful_challenger_is_aborted_by_a_canary_and_serves_where_nothing_is_rolled_out(returns):
    how = tried(ONCE_MORE, single={}, canary=HOW["canary"])
    single, at_once, _ = replayed(returns, "single", how)
    canary, guarded, _ = replayed(returns, "canary", how)
    assert [one.outcome for one in single.trainings] == [one.outcome for one in canary.trainings] == ["promoted"] * 2
    assert (len(single.served), len(canary.served)) == (2, 1)
    (attempt,) = canary.rollouts
    assert (attempt.phase, attempt.began, attempt.version) == ("Aborted", TRAINED + timedelta(hours=1), 2)
    assert attempt.ended < TRAINED + timedelta(days=12)
    assert max(one.percent for one in attempt.shares) == 50
    assert single.rollouts == ()
    later = microseconds(TRAINED + timedelta(days=2)) // DAY
    lost, saved = (sum(d.loss for d in one.days if d.day >= later) for one in (at_once, guarded))
    assert saved < 0.8 * lost
    assert [d.rows for d in guarded.days] == [d.rows for d in at_once.days]


def test_after_versions_that_were_sent_back_a_policy_waits_longer_than_where_they_serve(returns):
    """Asked for each day, behind an open gate: only what becomes of versions in service holds trainings up."""
    when = {"retraining": {"triggers": [{"kind": "model-age", "olderThan": "1d"}], "cooldown": "8d", "longest": "60d"}}
    how = tried(when, single={}, canary=HOW["canary"])
    single, canary = (replayed(returns, name, how)[0] for name in ("single", "canary"))
    back = [one.sent_back for one in canary.trainings]
    assert [one.ended for one in canary.rollouts if one.phase == "Aborted"] == [at for at in back if at is not None]
    assert any(back)
    assert all(one.outcome == "promoted" and one.sent_back is None for one in single.trainings)
    gaps, doubled = [later.began - one.ended for one, later in pairwise(canary.trainings)], set()
    assert {later.began - one.ended >= timedelta(days=8) for one, later in pairwise(single.trainings)} == {True}
    for number, gap in enumerate(gaps):
        until = canary.trainings[number].ended + timedelta(days=8)
        known = back[number] is not None and back[number] <= until
        assert (gap >= timedelta(days=16)) == known
        doubled.add(known)
    assert doubled == {True, False}
    assert len(canary.trainings) < len(single.trainings)


def test_a_good_challenger_takes_over_later_and_its_delay_costs(changes):
    how = tried(ONCE_MORE, single={}, canary=HOW["canary"], shadow=HOW["shadow"])
    single, at_once, _ = replayed(changes, "single", how)
    for name in ("canary", "shadow"):
        found, guarded, _ = replayed(changes, name, how)
        (attempt,) = found.rollouts
        assert attempt.phase == "Promoted"
        assert found.served[0] == single.served[0]
        assert found.served[1] == single.served[1].model_copy(update={"since": attempt.ended})
        assert attempt.ended > TRAINED + timedelta(days=2)
        assert sum(d.loss for d in guarded.days) > sum(d.loss for d in at_once.days)
        assert sum(d.age for d in guarded.days) > sum(d.age for d in at_once.days)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_day_counts_each_row_by_the_shares_in_which_versions_would_have_answered_it(changes, name):
    found, outcome, _ = replayed(changes, name, tried(ONCE_MORE, **HOW), until=LAST - timedelta(hours=7))
    past, (first, *_), (attempt,) = Past.open(changes / PAST), found.served, found.rollouts
    old, new = (scores(changes, model, slice(None)) for model in (first.model, attempt.model))
    expected = {}
    for row, asked in enumerate(past.asked.tolist()):
        if asked < microseconds(first.since) or asked >= microseconds(LAST) - DAY or np.isnan(past.truth[row]):
            continue
        share = 0.0
        for one in attempt.shares:
            share = one.percent / 100 if one.since <= asked else share
        if attempt.ended is not None and asked >= microseconds(attempt.ended):
            share = float(attempt.phase == "Promoted")
        y = past.truth[row : row + 1]
        losses = [float(row_losses("log_loss", y, score[row : row + 1])[0]) for score in (old, new)]
        ages = [(asked - microseconds(one.cut)) / DAY for one in (first, attempt)]
        day = expected.setdefault(asked // DAY, np.zeros(3))
        day += [1, *((1 - share) * a + share * b for a, b in (losses, ages))]
    got = {one.day: [one.rows, one.loss, one.age] for one in outcome.days}
    assert got.keys() == expected.keys()
    for day, numbers in expected.items():
        np.testing.assert_allclose(got[day], numbers, rtol=1e-9)


def test_a_later_rollout_supersedes_one_that_is_under_way(changes):
    found, _, _ = replayed(changes, "never", tried(WEEKLY, never=NEVER_SURE))
    assert len(found.served) == 1
    passed = [one for one in found.trainings if one.outcome == "promoted"][1:]
    assert len(found.rollouts) == len(passed) > 5
    assert [one.began for one in found.rollouts] == [one.ended for one in passed]
    for one, following in pairwise(found.rollouts):
        assert (one.phase, one.ended) == ("Superseded", following.began)
        assert one.reason == f"version {following.version} was asked for later"
        assert all(share.since < microseconds(one.ended) for share in one.shares)
    last = found.rollouts[-1]
    assert (last.phase, last.ended) == ("Progressing", None)


def test_what_cannot_be_told_in_time_is_paused_and_stays_so_or_is_aborted(changes):
    wanted = {"inconclusiveAfter": "4d"}
    for rule, phase in (({}, "Paused"), ({"onInconclusive": "abort"}, "Aborted")):
        how = {"rollout": {**NEVER_SURE["rollout"], **wanted, **rule}}
        found, _, _ = replayed(changes, "how", tried(ONCE_MORE, how=how))
        (attempt,) = found.rollouts
        assert attempt.phase == phase
        assert "inconclusive after 4d" in attempt.reason
        assert attempt.ended == (None if phase == "Paused" else attempt.began + timedelta(days=4))
        assert attempt.shares[-1].percent == 50


def test_a_challenger_is_judged_against_whom_was_promoted_by_the_end_of_its_training(changes):
    how = tried(WEEKLY, canary=HOW["canary"])
    found, _, _ = replayed(changes, "canary", how, what_if=WhatIf(takes=timedelta(days=3)))
    policy = policies(small_document(), how)[0]
    spec, champions = policy.document.spec, []
    assert len(found.served) > 2
    assert len({one.phase for one in found.rollouts}) > 1
    for training in found.trainings:
        champion = next((one for one in reversed(found.served) if one.since <= training.ended), None)
        if champion is not None and champion.since == training.ended and not champions:
            champion = None
        champions.append(champion.version if champion else 0)
        at = microseconds(training.began)
        cut = Select.of(spec.training, spec.task, "log_loss", spec.evaluation.holdout, at).run(changes)
        fitted = Fit.of(cut, spec.training, spec.task, "log_loss").run(changes)
        asked = Judge(
            rows=cut.rows, challenger=training.model, champion=champion.model if champion else "",
            prior=0.0 if champion else fitted.prior, gate=spec.evaluation.gate, task=spec.task,
            minimum_rows=spec.evaluation.minimum_rows,
        )  # fmt: skip
        assert asked.run(changes) == training.verdict
    assert len(set(champions)) > 2


@pytest.mark.parametrize(("name", "days"), [("canary", 14), ("shadow", 22), ("bandit", 23), ("blue-green", 30)])
def test_perturbing_the_future_changes_nothing_that_was_rolled_out_before(changes, tmp_path, name, days):
    now = BEGIN + timedelta(days=days)
    frame, random = draw(CHANGES), np.random.default_rng(days)
    later_label, later_row = (frame[KNOWN_AT] > now).to_numpy(), (frame[EVENT_TIMESTAMP] > now).to_numpy()
    frame.loc[later_label, "label"] = random.integers(0, 2, later_label.sum())
    moved = frame.loc[later_label, KNOWN_AT] + pd.to_timedelta(random.integers(0, 9, later_label.sum()), "D")
    frame.loc[later_label, KNOWN_AT] = moved
    for column in ("x0", "x1", "x2"):
        frame.loc[later_row, column] = random.normal(5, 3, later_row.sum())
    simulated(tmp_path, CHANGES, frame)
    how = tried(WEEKLY, **{name: HOW[name]})
    until = now + timedelta(days=8)
    before, after = (replayed(place, name, how, until)[0] for place in (changes, tmp_path))
    told = []
    for one in (before, after):
        shares = [
            (attempt.began, share)
            for attempt in one.rollouts
            for share in attempt.shares
            if share.since <= microseconds(now)
        ]
        ends = [(a.version, a.phase, a.reason, a.ended) for a in one.rollouts if a.ended is not None and a.ended <= now]
        champions = [(s.version, s.since) for s in one.served if s.since <= now]
        told.append((shares, ends, champions, one.decisions[: days + 1]))
    assert told[0] == told[1]
    assert len(told[0][0]) > 2
    assert before.rollouts != after.rollouts


def test_single_asks_for_no_rollout_and_has_none(changes):
    found, outcome, spent = replayed(changes, "single", tried(WEEKLY, single={}))
    assert {"roll", "divide"}.isdisjoint(spent)
    assert found.rollouts == outcome.rollouts == ()
    assert [one.since for one in found.served] == [one.ended for one in found.trainings if one.outcome == "promoted"]


def test_a_policy_of_one_training_serves_at_once_whatever_its_rollout(changes):
    once = {"retraining": {"triggers": [{"kind": "asked"}]}}
    how = tried(once, single={}, **HOW)
    single, alone, _ = replayed(changes, "single", how)
    for name in STRATEGIES:
        found, outcome, spent = replayed(changes, name, how)
        assert (found.served, found.rollouts) == (single.served, ())
        assert outcome.days == alone.days
        assert "roll" not in spent


def test_policies_that_ask_for_the_same_rollout_have_it_done_once(changes, tmp_path):
    """Cooldowns that withhold nothing, and how long what served stays warm, are no part of it."""
    warm = {"rollout": {**HOW["canary"]["rollout"], "keepWarm": "3d"}}
    cool = {**HOW["canary"], "retraining": {"cooldown": "2d"}}
    simulated(tmp_path, CHANGES)
    every = shorter(tried(WEEKLY, canary=HOW["canary"], warm=warm, cool=cool))
    ran = backtest(small_document(), every, tmp_path, tmp_path / "out")
    first, *others = ran.results.policies
    assert first.rollouts
    assert all(one.rollouts == first.rollouts and one.days == first.days for one in others)
    assert ran.spent["roll"].asked == 3 * ran.spent["roll"].done


def test_two_processes_give_the_same_bytes_as_one_thread_and_the_page_counts_rollouts(changes, tmp_path):
    every = shorter(tried(WEEKLY, single={}, canary=HOW["canary"], bandit=HOW["bandit"]))
    files = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        simulated(folder, CHANGES)
        ran = backtest(small_document(), every, folder, folder / "out", count=count)
        files.append({p.name: p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()})
    assert files[0] == files[1]
    found = compare(ran.results, Recommend())
    standings = {one.policy: one for one in found.standings}
    first, last = found.days
    for one in ran.results.policies:
        mine = [r.phase for r in one.rollouts if first <= microseconds(r.began) // DAY <= last]
        told = standings[one.policy]
        assert (told.rollouts, told.taken_over, told.aborted) == (
            len(mine), mine.count("Promoted"), mine.count("Aborted"),
        )  # fmt: skip
    assert standings["canary"].taken_over
    page = render(ran.results, found, WhatIf())
    assert "took over" in page
    assert f"<small>of {standings['canary'].rollouts}</small>" in page


def test_a_page_of_policies_that_roll_nothing_out_has_no_column_for_it(changes):
    ran = [replayed(changes, "single", tried(WEEKLY, single={}))[1]]
    from tests.unit.backtest.test_compare import results

    found = results(*ran)
    assert "took over" not in render(found, compare(found, Recommend()), WhatIf())


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"sticky": ["guest"]}, r"sticky: must be empty, a backtest draws each request, found guest"),
        (
            {"strategy": {"kind": "shadow"}, "analysis": {"decides": "estimate"}},
            r"analysis\.decides: a backtest replays what labels and guardrails say, found estimate",
        ),
    ],
)
def test_a_rollout_that_is_not_replayed_is_refused_and_named(changes, rollout, message):
    with pytest.raises(SpecError, match=rf"policy odd: spec\.rollout\.{message}"):
        replayed(changes, "odd", tried(WEEKLY, odd={"rollout": rollout}))
