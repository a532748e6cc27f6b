"""A rollout's state machine: both directions of each decision, and laws that hold whatever happens in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from evergrow.rollout.desired import DRAIN, answering, desired, kept, route_of
from evergrow.rollout.machine import ENDS, GUARDRAILS, Seen, advance, begin, moves_of, next_weight
from evergrow.spec.rollout import (
    AbTest,
    Analysis,
    Bandit,
    BlueGreen,
    Canary,
    CanaryStep,
    Finding,
    Rollout,
    RolloutSpec,
    Shadow,
    Single,
)

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SPEC = RolloutSpec(model="bikes", candidates=(4,))
CANARY = Canary(
    steps=(CanaryStep(weight=10, requests=100, duration="10m"), CanaryStep(weight=50, requests=200, duration="10m"))
)
READY = {3: 1, 4: 1}


def found(check: str = "errors", outcome: str = "pass", candidate: int = 4) -> Finding:
    return Finding(check=check, outcome=outcome, candidate=candidate, reason=f"{check} 0.02 against 0.01")


def proved(outcome: str = "pass", check: str = "loss") -> list[Finding]:
    return [found(), found(check, outcome)]


def canary(**more) -> Rollout:
    return Rollout(strategy=CANARY, **more)


def enough(*findings: Finding, **more) -> Seen:
    return Seen(ready=READY, requests={4: 1000}, findings=findings or proved(), **more)


def started(rollout: Rollout, stable: int | None = 3):
    """In its first move, just begun."""
    return advance(SPEC, rollout, begin(SPEC, stable, START), Seen(ready=READY), START)


# -- the way of each strategy ------------------------------------------------------------------------------------------


def test_a_canary_grows_step_by_step_and_is_promoted_when_the_last_check_has_passed():
    rollout, status, weights = canary(), begin(SPEC, 3, START), []
    for i in range(4):
        status = advance(SPEC, rollout, status, enough(), START + i * 11 * MINUTE)
        weights.append(dict(status.weights))

    assert weights == [{"3": 90, "4": 10}, {"3": 50, "4": 50}, {"4": 100}, {"4": 100}]
    assert (status.phase, status.winner) == ("Promoted", 4)
    assert "loss 0.02 against 0.01" in status.reason


def test_single_is_promoted_when_ready_and_not_before():
    rollout, status = Rollout(strategy=Single()), begin(SPEC, 3, START)

    assert advance(SPEC, rollout, status, Seen(ready={3: 1}), START).phase == "Pending"
    assert advance(SPEC, rollout, status, Seen(ready=READY), START).phase == "Promoted"


def test_the_first_version_of_a_model_has_nothing_to_be_compared_with():
    status = advance(SPEC, canary(), begin(SPEC, None, START), Seen(ready={4: 1}), START)

    assert (status.phase, status.weights) == ("Promoted", {"4": 100})


def test_a_shadow_answers_nobody_and_is_promoted_by_its_pairs():
    rollout = Rollout(strategy=Shadow(share=30, requests=500, duration="5m"))
    shadowed = started(rollout)
    done = advance(SPEC, rollout, shadowed, enough(), START + 5 * MINUTE)

    assert (shadowed.weights, shadowed.mirror, shadowed.mirror_percent) == ({"3": 100, "4": 0}, 4, 30)
    assert (done.phase, done.mirror, done.mirror_percent) == ("Promoted", None, 0)


def test_blue_green_previews_switches_watches_and_goes_back_when_a_guardrail_fails():
    rollout = Rollout(strategy=BlueGreen(preview="5m", watch="1h"))
    preview = started(rollout)
    switched = advance(SPEC, rollout, preview, Seen(ready=READY), START + 5 * MINUTE)
    late = START + 70 * MINUTE
    good = advance(SPEC, rollout, switched, enough(found()), late)
    bad = advance(SPEC, rollout, switched, enough(found(outcome="fail")), START + 6 * MINUTE)

    assert preview.weights == {"3": 100, "4": 0}
    assert (switched.phase, switched.weights) == ("Progressing", {"3": 0, "4": 100})
    assert good.phase == "Promoted"
    assert (bad.phase, bad.weights) == ("Aborted", {"3": 100})


def test_an_ab_test_waits_for_its_one_look():
    rollout = Rollout(strategy=AbTest(weight=50))
    status = started(rollout)

    assert advance(SPEC, rollout, status, enough(*proved("inconclusive")), START + MINUTE).phase == "Progressing"
    assert advance(SPEC, rollout, status, enough(*proved("pass")), START + MINUTE).phase == "Promoted"


def test_a_bandits_shares_follow_the_evidence_when_it_is_time_and_the_best_wins():
    spec = RolloutSpec(model="bikes", candidates=(4, 5))
    rollout = Rollout(strategy=Bandit(every="15m"))
    ready = {3: 1, 4: 1, 5: 1}
    status = advance(spec, rollout, begin(spec, 3, START), Seen(ready=ready), START)
    assert status.weights == {"3": 34, "4": 33, "5": 33}

    asked = Seen(ready=ready, shares={3: 5, 4: 5, 5: 90})
    assert advance(spec, rollout, status, asked, START + 14 * MINUTE).weights == status.weights
    status = advance(spec, rollout, status, asked, START + 15 * MINUTE)
    assert status.weights == {"3": 5, "4": 5, "5": 90}

    assert advance(spec, rollout, status, Seen(ready=ready, best=5), START + 16 * MINUTE).winner == 5
    lost = advance(spec, rollout, status, Seen(ready=ready, best=3), START + 16 * MINUTE)
    assert (lost.phase, lost.weights) == ("Aborted", {"3": 100})


def test_an_arm_that_fails_is_dropped_and_the_others_go_on():
    spec = RolloutSpec(model="bikes", candidates=(4, 5))
    rollout, ready = Rollout(strategy=Bandit()), {3: 1, 4: 1, 5: 1}
    status = advance(spec, rollout, begin(spec, 3, START), Seen(ready=ready), START)
    broken = advance(spec, rollout, status, Seen(ready=ready, findings=[found(outcome="fail")]), START + MINUTE)
    both = [found(outcome="fail"), found(outcome="fail", candidate=5)]

    assert (broken.phase, broken.dropped, broken.weights) == ("Progressing", (4,), {"3": 67, "5": 33})
    assert advance(spec, rollout, broken, Seen(ready=ready, findings=both), START + MINUTE).phase == "Aborted"


# -- nothing promotes on silence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen",
    [
        enough(found(), found("loss", "inconclusive")),
        enough(found(), found("loss", "error")),
        enough(found()),
        enough(found("loss")),
        enough(found("errors", "inconclusive"), found("loss")),
        Seen(ready=READY, requests={4: 1000}),
        Seen(ready=READY, requests={4: 199}, findings=proved()),
        Seen(ready={3: 4, 4: 3}, requests={4: 1000}, findings=proved()),
    ],
    ids=[
        "inconclusive", "no data", "not judged", "no guardrail", "guardrail cannot tell", "nothing", "too few",
        "no replicas",
    ],
)  # fmt: skip
def test_the_last_step_is_not_left_without_all_its_evidence(seen):
    status = advance(SPEC, canary(), started(canary()), enough(), START + 11 * MINUTE)
    assert status.step == 1
    later = advance(SPEC, canary(), status, seen, START + 40 * MINUTE)

    assert (later.phase, later.step, later.weights) == ("Progressing", 1, {"3": 50, "4": 50})
    assert later.reason.startswith("waits: ")


@pytest.mark.parametrize(
    ("seen", "minutes", "step"),
    [
        (enough(found("errors", "inconclusive")), 10, 1),
        (enough(found("errors", "error")), 10, 0),
        (Seen(ready=READY, requests={4: 1000}), 10, 0),
        (enough(), 9, 0),
        (Seen(ready=READY, requests={4: 99}, findings=proved()), 10, 0),
        (Seen(ready=READY, requests={4: 100}, findings=proved()), 10, 1),
    ],
)
def test_a_step_between_needs_time_requests_and_guardrails_that_are_there(seen, minutes, step):
    assert advance(SPEC, canary(), started(canary()), seen, START + minutes * MINUTE).step == step


def test_what_cannot_be_told_in_time_asks_people_or_ends_as_asked_for():
    for then, phase in (("pause", "Paused"), ("abort", "Aborted")):
        rollout = canary(on_inconclusive=then, inconclusive_after="1d")
        status = advance(SPEC, rollout, started(rollout), Seen(ready=READY), START + timedelta(days=1))
        assert status.phase == phase
        assert "inconclusive after 1d" in status.reason


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [*GUARDRAILS, "loss", "worth", "estimate"])
def test_any_check_that_fails_ends_it_with_both_numbers(check):
    status = advance(SPEC, canary(), started(canary()), enough(found(check, "fail")), START + MINUTE)

    assert (status.phase, status.weights) == ("Aborted", {"3": 100})
    assert status.reason == f"{check}: {check} 0.02 against 0.01"


def test_a_candidate_that_never_becomes_ready_is_given_up_and_nothing_was_shifted():
    rollout, status = canary(ready_within="10m"), begin(SPEC, 3, START)
    waiting = advance(SPEC, rollout, status, Seen(ready={3: 1}), START + 9 * MINUTE)
    over = advance(SPEC, rollout, waiting, Seen(ready={3: 1}), START + 10 * MINUTE)

    assert (waiting.phase, waiting.weights) == ("Pending", {"3": 100})
    assert (over.phase, over.weights) == ("Aborted", {"3": 100})
    assert "version 4 not ready after 10m" in over.reason


def test_traffic_of_a_candidate_that_falls_goes_to_the_stable_version_and_comes_back_with_it():
    status = started(canary())
    fallen = advance(SPEC, canary(), status, Seen(ready={3: 1}), START + MINUTE)
    back = advance(SPEC, canary(), fallen, Seen(ready=READY), START + 2 * MINUTE)

    assert route_of(SPEC, canary(), fallen, {3: 1}).weights == {3: 100}
    assert fallen.unready_since == START + MINUTE
    assert route_of(SPEC, canary(), back, READY).weights == {3: 90, 4: 10}
    assert back.unready_since is None
    assert advance(SPEC, canary(), fallen, Seen(ready={3: 1}), START + 11 * MINUTE).phase == "Aborted"


# -- orders ------------------------------------------------------------------------------------------------------------


def test_a_pause_holds_and_a_resume_goes_on_with_all_the_time_again():
    rollout = canary(inconclusive_after="1d")
    status = advance(SPEC, rollout, started(rollout), enough(order="pause", by="ada"), START + 20 * MINUTE)
    held = advance(SPEC, rollout, status, enough(), START + timedelta(days=3))
    resumed = advance(SPEC, rollout, held, enough(order="resume"), START + timedelta(days=3))

    assert (status.phase, status.step, status.reason) == ("Paused", 0, "paused by ada")
    assert held == status.model_copy(update={"findings": held.findings})
    assert (resumed.phase, resumed.step) == ("Progressing", 1)


def test_a_paused_rollout_still_ends_when_a_guardrail_fails():
    status = advance(SPEC, canary(), started(canary()), enough(order="pause"), START + MINUTE)

    assert advance(SPEC, canary(), status, enough(found(outcome="fail")), START + 2 * MINUTE).phase == "Aborted"


def test_somebody_may_promote_without_evidence_but_not_what_is_not_ready():
    status = started(canary())

    assert advance(SPEC, canary(), status, Seen(ready=READY, order="promote", by="ada"), START).phase == "Promoted"
    assert advance(SPEC, canary(), status, Seen(ready={3: 1}, order="promote"), START).phase == "Progressing"
    few = advance(SPEC, canary(), status, Seen(ready={3: 4, 4: 2}, order="promote"), START)
    assert (few.phase, few.reason) == ("Progressing", "waits: version 4 has 2 of 4 replicas ready")


def test_an_abort_wins_over_everything_else():
    for status in (begin(SPEC, 3, START), started(canary())):
        aborted = advance(SPEC, canary(), status, enough(order="abort", newer="later"), START)
        assert (aborted.phase, aborted.weights) == ("Aborted", {"3": 100})


def test_a_newer_rollout_takes_its_place():
    status = advance(SPEC, canary(), started(canary()), enough(newer="bikes-9"), START)

    assert (status.phase, status.reason, status.weights) == ("Superseded", "bikes-9 was asked for later", {"3": 100})


@pytest.mark.parametrize("order", ["pause", "resume", "promote", "abort"])
def test_an_end_is_an_end(order):
    ended = advance(SPEC, canary(), started(canary()), enough(order="abort"), START)

    assert advance(SPEC, canary(), ended, enough(order=order), START + MINUTE) == ended


# -- what must be so ---------------------------------------------------------------------------------------------------


def test_the_candidate_has_replicas_for_its_next_share_before_it_gets_it():
    status = started(canary())
    wanted = desired(SPEC, canary(), status, {3: 4, 4: 1}, next_weight(canary(), status))

    assert next_weight(canary(), status) == 50
    assert wanted.replicas == {4: 2}


def test_what_served_is_kept_warm_after_a_promotion_and_a_candidate_that_failed_only_till_it_is_drained():
    aborted = advance(SPEC, canary(), started(canary()), enough(order="abort"), START)
    promoted = advance(SPEC, canary(), started(canary()), enough(order="promote"), START)

    assert kept(SPEC, canary(), started(canary())) == {}
    assert kept(SPEC, canary(), aborted) == {3: None, 4: START + DRAIN}
    assert kept(SPEC, canary(keep_warm="2h"), promoted) == {3: START + timedelta(hours=2), 4: None}
    assert kept(SPEC, canary(keep_warm="0s"), promoted) == {3: START + DRAIN, 4: None}
    assert (answering(aborted), answering(promoted)) == (3, 4)
    assert desired(SPEC, canary(), promoted, READY, 0).champion == 4


def test_with_nobody_ready_the_route_stays_as_it_is():
    assert route_of(SPEC, canary(), started(canary()), {}) is None


# -- laws --------------------------------------------------------------------------------------------------------------

STRATEGIES = [
    Single(),
    Shadow(requests=10, duration="5m"),
    CANARY,
    BlueGreen(preview="5m", watch="10m"),
    AbTest(),
    Bandit(every="5m"),
]
CHECKS = [*GUARDRAILS, "loss", "worth", "estimate"]
outcomes = st.sampled_from(["pass", "pass", "pass", "fail", "inconclusive", "error"])


class RolloutMachine(RuleBasedStateMachine):
    """Anything may be seen at any time; time may even step back."""

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        decides=st.sampled_from(["loss", "worth", "estimate", "guardrails"]),
        stable=st.sampled_from([3, None]),
        arms=st.integers(1, 3),
    )
    def begin(self, strategy, decides, stable, arms):
        candidates = tuple(range(4, 4 + arms)) if strategy.kind == "bandit" else (4,)
        self.spec = RolloutSpec(model="bikes", candidates=candidates)
        self.rollout = Rollout(
            strategy=strategy, analysis=Analysis(decides=decides), ready_within="20m", inconclusive_after="2h"
        )
        self.now, self.status, self.ready = START, begin(self.spec, stable, START), {}

    @rule(
        minutes=st.integers(-5, 40),
        replicas=st.lists(st.integers(0, 3), min_size=4, max_size=4),
        requests=st.integers(0, 400),
        checks=st.lists(st.tuples(st.sampled_from(CHECKS), outcomes, st.integers(4, 6))),
        order=st.sampled_from([None, None, None, None, "pause", "resume", "promote", "abort"]),
        newer=st.sampled_from(["", "", "", "", "later"]),
        shares=st.none() | st.lists(st.integers(0, 100), min_size=4, max_size=4),
        best=st.sampled_from([None, None, 3, 4, 5]),
    )  # fmt: skip
    def look(self, minutes, replicas, requests, checks, order, newer, shares, best):
        self.now += minutes * MINUTE
        self.ready = dict(zip(range(3, 7), replicas, strict=True))
        known = (3, *self.spec.candidates) if self.status.stable else self.spec.candidates
        findings = [found(check, outcome, candidate) for check, outcome, candidate in checks if candidate in known]
        seen = Seen(
            ready=self.ready,
            requests=dict.fromkeys(self.spec.candidates, requests),
            findings=findings,
            order=order,
            newer=newer,
            shares=dict(zip(range(3, 7), shares, strict=True)) if shares else None,
            best=best if best in known else None,
        )
        before, self.status = self.status, advance(self.spec, self.rollout, self.status, seen, self.now)
        self._moved(before, seen)

    def _moved(self, before, seen):
        after = self.status
        if before.phase in ENDS:
            assert after == before
            return
        if seen.order == "abort":
            assert after.phase == "Aborted"
        assert after.step - before.step in (0, 1)
        if after.phase == "Promoted":
            assert seen.ready[after.winner] > 0
            assert after.winner not in after.dropped
            failed = {f.candidate for f in seen.findings if f.outcome == "fail"}
            assert after.winner not in failed
            if seen.order != "promote" and moves_of(self.rollout, before):
                self._was_proved(after.winner, seen)
        # A candidate's share only grows while it is ready.
        grown = [v for v, w in after.weights.items() if w > before.weights.get(v, 0) and int(v) != after.stable]
        assert all(seen.ready.get(int(v), 0) > 0 for v in grown)
        # Asked again of the same world at the same instant, it goes on or stays: it never goes back.
        again = advance(self.spec, self.rollout, after, seen, self.now)
        assert again.step >= after.step
        assert again.phase != "Pending" or after.phase == "Pending"
        assert (again == after) or after.phase not in ENDS

    def _was_proved(self, winner, seen):
        if self.rollout.strategy.kind == "bandit":
            assert seen.best == winner
            return
        decides = self.rollout.analysis.decides if self.rollout.strategy.kind != "blue-green" else "guardrails"
        said = [f for f in seen.findings if f.candidate == winner]
        assert any(f.check in GUARDRAILS for f in said)
        assert all(f.outcome == "pass" for f in said if f.check in GUARDRAILS)
        if decides != "guardrails":
            assert any(f.check == decides and f.outcome == "pass" for f in said)

    @invariant()
    def weights_are_whole(self):
        if not hasattr(self, "status"):
            return
        assert sum(self.status.weights.values()) == (100 if self.status.weights else 0)
        assert bool(self.status.weights) or self.status.stable is None

    @invariant()
    def only_ready_versions_answer(self):
        if not hasattr(self, "status"):
            return
        route = route_of(self.spec, self.rollout, self.status, self.ready)
        if route is not None:
            assert all(self.ready[version] > 0 for version in route.weights)
            assert not {*route.weights} & {*self.status.dropped}
            assert route.mirror is None or self.ready[route.mirror] > 0

    @invariant()
    def an_end_that_is_no_promotion_leaves_all_as_it_was(self):
        if hasattr(self, "status") and self.status.phase in ("Aborted", "Superseded"):
            assert self.status.weights == ({} if self.status.stable is None else {"3": 100})
            assert self.status.winner is None
            assert self.status.mirror is None


RolloutMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestRollouts = RolloutMachine.TestCase
