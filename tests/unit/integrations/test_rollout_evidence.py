"""The evidence as it is read: from a log that grows, labels that come, and whoever was killed in between."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrow.data.lake import Lake
from evergrow.errors import DataError, RegistryError
from evergrow.integrations import rollout_evidence
from evergrow.rollout.analysis import judge
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.prior import prior
from evergrow.spec.rollout import Rollout
from tests.unit.integrations.logged_world import COUNTED, LOSS, MINUTE, World, attempt, model, of_version
from tests.unit.rollout.simulated import HOUR, STABLE, START, answered, as_of, copied, rollout, status

NEW = (4, 5)


def expected(world: World, how: Rollout, now: datetime, candidates=(4,), of=None) -> Evidence:
    """By the core alone, of all that was shipped."""
    of = of or model()
    known = prior(of, how, STABLE, {v: of_version(v) for v in (STABLE, *candidates)})
    log = as_of(world.log[world.log["shipped"] <= now], now)
    return judge(of, status(how), candidates, log, COUNTED, known, now)


LOG = answered(6000, size={4: 0.6}, span=2 * HOUR, delay=2 * MINUTE, rows=1, entities=0)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, LOG)


@pytest.mark.parametrize("key", [("order",), ()])
def test_what_is_read_is_judged_as_the_core_judges_it(world, key):
    now, how = START + 97 * MINUTE, rollout(analysis=LOSS)
    world.ship(now)
    world.ingest(now)
    found = world.witness().examine(model(key), attempt(how), now)

    assert found == expected(world, how, now)
    assert {f.check: f.outcome for f in found.findings}["loss"] == "pass"


@pytest.mark.parametrize(
    ("kind", "decides"),
    [
        *((kind, "loss") for kind in ("canary", "shadow", "ab-test", "bandit", "blue-green")),
        ("shadow", "estimate"),
        ("canary", "estimate"),
        ("canary", "guardrails"),
    ],
)
def test_every_strategy_is_judged_as_the_core_judges_it(tmp_path, kind, decides):
    log = copied(LOG[:2000]) if kind == "shadow" else LOG[:2000]
    world, now = World(tmp_path, log, segment=HOUR / 4), START + 2 * HOUR
    how = rollout(kind, analysis={**LOSS, "decides": decides})
    world.ship(now)
    if decides == "loss":
        world.ingest(now)

    assert world.witness().examine(model(), attempt(how), now) == expected(world, how, now)


def test_of_two_candidates_both_are_read(tmp_path):
    thirds = ({3: 0.34, 4: 0.33, 5: 0.33},)
    world, now = World(tmp_path, answered(3000, thirds, {5: 0.4}, span=HOUR, delay=MINUTE)), START + 2 * HOUR
    how = rollout("bandit", analysis=LOSS)
    world.ship(now)
    world.ingest(now)
    found = world.witness().examine(model(), attempt(how, NEW), now)

    assert found == expected(world, how, now, NEW)
    assert found.best == 5


def test_nothing_in_the_log_is_no_exception_and_needs_no_labels(world):
    found = world.witness().examine(model(), attempt(rollout(analysis=LOSS)), START + HOUR)

    assert found.requests == {4: 0}
    assert {f.check: f.outcome for f in found.findings} == {
        "sample ratio": "inconclusive", "errors": "pass", "latency": "pass", "score shift": "inconclusive",
        "loss": "inconclusive",
    }  # fmt: skip


def test_labels_wait_until_they_are_there_and_are_missed_when_their_time_is_over(world):
    how, witness = rollout(analysis=LOSS), world.witness()
    world.ship(START + 3 * HOUR)
    with pytest.raises(DataError, match="'examples' does not exist"):
        witness.examine(model(), attempt(how), START + 3 * HOUR)
    world.ingest(START - HOUR)
    never = witness.examine(model(), attempt(how), START + 3 * HOUR)
    world.ingest(START + 3 * HOUR)
    there = witness.examine(model(), attempt(how), START + 3 * HOUR)

    assert [e.findings[-1].outcome for e in (never, there)] == ["error", "pass"]


def test_labels_are_not_read_where_they_decide_nothing(world, monkeypatch):
    monkeypatch.setattr(Lake, "read", lambda *_: pytest.fail("the lake was read"))
    world.ship(START + 3 * HOUR)
    for how in (rollout("blue-green"), rollout(analysis={"decides": "guardrails"})):
        world.witness().examine(model(), attempt(how), START + 3 * HOUR)


def test_who_looks_again_reads_and_computes_nothing_that_it_knows(world, monkeypatch):
    how, witness, now = rollout(analysis=LOSS), world.witness(), START + HOUR
    asked: list[str] = []
    kept = witness.predictions.segment
    monkeypatch.setattr(
        witness.predictions, "segment", lambda name, columns: (asked.append(name), kept(name, columns))[1]
    )
    for name in ("guarded", "decided"):
        whole = getattr(rollout_evidence.analysis, name)
        counted = lambda case, rows, name=name, whole=whole: (asked.append(name), whole(case, rows))[1]  # noqa: E731
        monkeypatch.setattr(rollout_evidence.analysis, name, counted)
    world.ship(now - HOUR / 2)
    world.ingest(now)
    first = witness.examine(model(), attempt(how), now)
    assert [asked.count(name) for name in ("guarded", "decided")] == [1, 1]
    assert len(asked) == 2 + 2 * 30

    asked.clear()
    assert witness.examine(model(), attempt(how), now + timedelta(seconds=2)) == first
    assert witness.examine(model(), attempt(how), now + timedelta(seconds=20)) == first
    assert asked == []
    world.ship(now - HOUR / 2 + MINUTE)
    witness.examine(model(), attempt(how), now + timedelta(seconds=30))
    assert len([name for name in asked if "parquet" in name]) == 2


def test_labels_are_fetched_when_another_blocks_time_has_come_and_now_and_then_otherwise(world, monkeypatch):
    fetched: list[timedelta] = []
    how, witness, due = rollout(analysis=LOSS), world.witness(), START + HOUR  # the end of a block's ten minutes
    monkeypatch.setattr(rollout_evidence, "fetch", lambda environment, what: fetched.append(now - due))
    world.ship(due)
    world.ingest(due)
    for seconds in (-30, -20, -10, 0, 1, 10, 40, 61, 70):
        now = due + timedelta(seconds=seconds)
        witness.examine(model(), attempt(how), now)

    assert [one.total_seconds() for one in fetched] == [-30, 0, 61]


def test_an_attempt_that_is_over_or_another_one_is_forgotten(world):
    how, witness, now = rollout(analysis=LOSS), world.witness(), START + HOUR
    world.ship(now)
    world.ingest(now)
    witness.examine(model(), attempt(how), now)
    witness.examine(model(), attempt(how, name="delays-4-again", started=START + HOUR / 2), now)
    assert len(witness._readings) == 1
    assert witness._readings["delays"].rows["event_timestamp"].min() >= START + HOUR / 2

    over = attempt(how, name="delays-4-again")
    over.document.status.__dict__["phase"] = "Aborted"
    assert witness.examine(model(), over, now) == Evidence()
    assert witness._readings == {}


def test_answers_of_another_time_and_day_are_left_out(tmp_path):
    world = World(tmp_path, answered(3000, span=48 * HOUR, delay=MINUTE), segment=HOUR)
    now = START + 30 * HOUR
    world.ship(START + 48 * HOUR)
    world.ingest(START + 48 * HOUR)
    how = rollout(analysis=LOSS)
    found = world.witness().examine(model(), attempt(how, started=START + 20 * HOUR), now)
    (split,) = (f for f in found.findings if f.check == "sample ratio")

    assert split.requests == pytest.approx(10 / 48 * 3000, abs=5)


def test_a_version_that_the_registry_lost_or_that_kept_no_baseline_is_an_error(tmp_path):
    world = World(tmp_path, LOG[:10], baselines=(3,))
    with pytest.raises(DataError, match="no baseline"):
        world.witness().examine(model(), attempt(rollout(analysis=LOSS)), START + HOUR)
    with pytest.raises(RegistryError, match="version 9"):
        world.witness().examine(model(), attempt(rollout(analysis=LOSS), (9,)), START + HOUR)
    assert world.witness().examine(model(), attempt(rollout("blue-green")), START + HOUR).requests == {4: 0}


def test_a_log_without_the_callers_key_is_told_as_an_error(world):
    world.ship(START + HOUR)
    how = rollout("blue-green", sticky=["nobody"])
    found = world.witness().examine(model(), attempt(how), START + HOUR)

    assert [(f.check, f.outcome) for f in found.findings] == [("sample ratio", "error")]


def test_personal_data_is_joined_by_its_hashes(tmp_path, monkeypatch):
    from evergrow.prediction_log.records import HASH_KEY, hashed

    world, now, how = World(tmp_path, LOG[:3000]), START + 2 * HOUR, rollout(analysis=LOSS)
    world.ingest(now)
    plain = world.log["order"]
    world.log["order"] = [hashed(one, b"secret") for one in plain]
    world.ship(now)
    private = model(serving={"log": {"hashed": ["order"]}})
    monkeypatch.setenv(HASH_KEY, "secret")
    found = world.witness().examine(private, attempt(how), now)

    assert found.findings[-1].requests == 3000


def test_scores_of_before_are_read_for_a_version_that_takes_all_traffic_at_once(tmp_path):
    world = World(tmp_path, answered(4000, ({3: 1.0}, {4: 1.0}), span=2 * HOUR))
    how = rollout("blue-green", analysis={"guardrails": ["shift"]}, watch="1h")
    world.ship(START + 2 * HOUR)
    found = world.witness().examine(model(), attempt(how, started=START + HOUR), START + 2 * HOUR)

    assert [(f.check, f.outcome) for f in found.findings] == [("sample ratio", "pass"), ("score shift", "pass")]


looks = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 300), st.sampled_from([None, 3, 4]), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=10, deadline=None)
@given(looks, st.sampled_from(["canary", "bandit"]), st.sampled_from([(), ("guest",)]))
def test_a_witness_that_starts_from_nothing_says_the_same_as_one_that_saw_all(steps, kind, sticky):
    """Segments come late and in any order, labels come, and somebody is killed between any two looks."""
    log = answered(600, size={4: 0.6}, span=HOUR, delay=2 * MINUTE, entities=200)
    with TemporaryDirectory() as folder:
        world, now = World(Path(folder), log, segment=2 * MINUTE), START + 5 * MINUTE
        how = rollout(kind, analysis=LOSS, sticky=sticky)
        kept = world.witness()
        world.ingest(now)
        for seconds, behind, without, labels in steps:
            now += timedelta(seconds=seconds)
            world.ship(now - timedelta(seconds=behind), without)
            if labels:
                world.ingest(now)
            seen = [one.examine(model(), attempt(how), now) for one in (kept, world.witness())]
            assert seen[0] == seen[1]


def test_what_comes_late_or_settles_changes_what_was_told(world):
    how, witness, now = rollout(analysis=LOSS), world.witness(), START + 2 * HOUR
    world.ingest(now)
    world.ship(now, without=4)
    told = [witness.examine(model(), attempt(how), now)]
    world.ship(now)
    for later in (timedelta(0), 3 * MINUTE, HOUR):
        told.append(witness.examine(model(), attempt(how), now + later))
        assert told[-1] == world.witness().examine(model(), attempt(how), now + later)
    ratio, loss = (
        [next(f.requests for f in e.findings if f.check == c) for e in told] for c in ("sample ratio", "loss")
    )

    assert ratio == [pytest.approx(2950, abs=120), 5901, 6000, 6000]
    # Labels of the last two minutes have never been ingested.
    assert loss == [pytest.approx(2750, abs=120), 5500, 5500, 5901]


def test_days_are_listed_from_the_start_to_the_present_and_old_ones_seldom(world, monkeypatch):
    witness, listed = world.witness(), []
    monkeypatch.setattr(witness.predictions, "segments", lambda model, day: listed.append(day) or [])
    how, now = rollout("blue-green", watch="1m"), START + 72 * HOUR
    for seconds in (0, 2, 70):
        witness.examine(model(), attempt(how, started=START + HOUR), now + timedelta(seconds=seconds))
    days = [date(2024, 3, n) for n in (1, 2, 3, 4)]

    assert listed == [*days, *days[2:], *days]
