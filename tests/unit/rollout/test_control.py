"""The loop that carries rollouts out: what it does, what it survives, and that it is the same killed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrow.contracts import Route
from evergrow.errors import ConflictError, RolloutError, ServingError, StoreError
from evergrow.integrations.memory import FixedClock, MemoryTraffic
from evergrow.integrations.memory_rollouts import MemoryChampions, MemoryFleet, MemoryRollouts, MemoryWitness
from evergrow.rollout.attempt import ORDER, TRAINED_ON
from evergrow.rollout.control import LOOK, Controller, model_status
from evergrow.rollout.desired import DRAIN
from evergrow.rollout.evidence import Evidence
from evergrow.spec import ContinualModel
from evergrow.spec.rollout import (
    AbTest,
    Bandit,
    BlueGreen,
    Canary,
    CanaryStep,
    Finding,
    ModelRollout,
    Rollout,
    RolloutSpec,
    Shadow,
    Single,
)
from tests.documents import model as model_document

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CANARY = Canary(
    steps=(CanaryStep(weight=10, requests=10, duration="1m"), CanaryStep(weight=50, requests=10, duration="1m"))
)
GOOD = Evidence(
    requests={4: 1000, 5: 1000},
    findings=tuple(
        Finding(check=check, candidate=c, outcome="pass", reason="0.01 against 0.02")
        for c in (4, 5)
        for check in ("errors", "loss")
    ),
    best=4,
)
BAD = Evidence(findings=(Finding(check="errors", candidate=4, outcome="fail", reason="0.05 against 0.01"),))


class ReadyTraffic(MemoryTraffic):
    """Where nobody is, nobody may be sent: a caller would see it."""

    def __init__(self, fleet: MemoryFleet) -> None:
        super().__init__(())
        self.fleet = fleet

    def apply(self, route: Route) -> None:
        up = self.fleet.ready(route.model)
        away = [version for version in (*route.weights, *route.warm) if not up.get(version)]
        assert not away, f"requests go to version {away[0]}, which is not ready"
        self.backends |= {*route.weights, *route.warm}
        super().apply(route)


class World:
    """Everything but the loop: it outlives it."""

    def __init__(self, serving: int | None = 3) -> None:
        self.clock = FixedClock(START)
        self.rollouts = MemoryRollouts(
            [ContinualModel.model_validate({**model_document(), "metadata": {"name": "bikes"}})]
        )
        self.fleet = MemoryFleet({} if serving is None else {serving: 1})
        self.traffic = ReadyTraffic(self.fleet)
        self.witness = MemoryWitness(GOOD)
        self.champions = MemoryChampions(serving)

    def ports(self) -> tuple[Any, ...]:
        return self.rollouts, self.fleet, self.traffic, self.witness, self.champions

    def controller(self) -> Controller:
        return Controller(*self.ports(), self.clock)

    def ask(
        self, name: str = "bikes-4", strategy: Any = CANARY, candidates: tuple[int, ...] = (4,), **more: Any
    ) -> None:
        rollout = None if strategy is None else Rollout(strategy=strategy, **more)
        self.rollouts.create(
            ModelRollout.model_validate(
                {
                    "apiVersion": "evergrow.dev/v1alpha1",
                    "kind": "ModelRollout",
                    "metadata": {"name": name, "annotations": {TRAINED_ON: "2024-02-01"}},
                    "spec": RolloutSpec(
                        model="bikes", candidates=candidates, rollout=rollout, reason="new features"
                    ).dump(),
                }
            )
        )

    def pass_time(self, by: timedelta = MINUTE) -> None:
        self.clock.move_to(self.clock.now() + by)
        self.fleet.settle()

    def look(self, times: int = 1, controller: Controller | None = None, by: timedelta = MINUTE) -> timedelta | None:
        controller, again = controller or self.controller(), None
        for _ in range(times):
            again = controller.reconcile("bikes")
            self.pass_time(by)
        return again

    def status(self, name: str = "bikes-4") -> Any:
        return next(a.status for a in self.rollouts.attempts("bikes") if a.name == name)

    @property
    def answers(self) -> dict[int, int]:
        route = self.traffic.read("bikes")
        return {} if route is None else dict(route.weights)


# -- the way of a rollout ----------------------------------------------------------------------------------------------


def test_a_good_canary_is_started_grown_promoted_and_put_on_record():
    world = World()
    world.ask()
    world.look(8)

    assert [dict(route.weights) for route in world.traffic.applied] == [
        {3: 100},
        {3: 90, 4: 10},
        {3: 50, 4: 50},
        {4: 100},
    ]
    assert world.champions.history == [(4, f"rollout bikes-4: new features: {world.status().reason}")]
    assert world.status().recorded is not None
    assert [reason for _, reason, _ in world.rollouts.events] == ["Started", "Progressing", "Progressing", "Promoted"]
    report = world.rollouts.reports["bikes"]
    assert (report.phase, report.serving, report.candidate) == ("Serving", 4, None)
    assert report.trained_on == datetime(2024, 2, 1, tzinfo=UTC)


def test_a_bad_canary_leaves_everything_as_it_was():
    world = World()
    world.ask()
    world.look(3)
    world.witness.evidence = BAD
    world.look()

    assert world.status().phase == "Aborted"
    assert world.status().findings == BAD.findings
    assert world.answers == {3: 100}
    assert world.champions.history == []
    assert world.rollouts.reports["bikes"].serving == 3


@pytest.mark.parametrize(
    ("strategy", "candidates"),
    [
        (Single(), (4,)), (Shadow(requests=10, duration="1m"), (4,)), (CANARY, (4,)),
        (BlueGreen(preview="1m", watch="2m"), (4,)), (AbTest(), (4,)), (Bandit(every="1m"), (4, 5)),
    ],
)  # fmt: skip
def test_every_strategy_comes_to_a_promotion_and_stops_what_is_not_needed(strategy, candidates):
    world = World()
    world.ask(strategy=strategy, candidates=candidates, keep_warm="1h")
    world.look(15)
    assert (world.status().phase, world.answers) == ("Promoted", {4: 100})
    assert set(world.fleet.wanted) == {3, 4}

    world.pass_time(timedelta(hours=1))
    assert world.look() is None
    assert set(world.fleet.wanted) == {4}


def test_the_first_version_of_a_model_serves_as_soon_as_it_is_ready():
    world = World(serving=None)
    assert world.look() is None
    world.ask()
    world.look()
    assert world.answers == {}
    world.look()
    assert (world.answers, world.status().phase) == ({4: 100}, "Promoted")


def test_how_it_goes_is_what_the_models_document_says_when_it_begins():
    world = World()
    world.ask(strategy=None)
    world.look()
    world.rollouts.models.clear()
    world.look(3)

    assert world.status().rollout == Rollout()
    assert world.status().phase == "Promoted"


def test_what_serves_is_served_without_any_rollout():
    world = World()
    world.fleet.lose(3)
    assert world.look() == LOOK
    assert world.look() is None
    world.look()
    assert (world.fleet.wanted, world.answers) == ({3: 1}, {3: 100})
    assert (world.rollouts.reports["bikes"].phase, world.rollouts.reports["bikes"].serving) == ("Serving", 3)


def test_a_candidate_that_failed_is_stopped_only_when_what_it_had_under_way_is_done():
    world = World()
    world.ask()
    world.look(3)
    world.rollouts.order("bikes", "bikes-4", "abort", "ada")
    controller = world.controller()
    world.look(5, controller, timedelta(seconds=10))
    assert set(world.fleet.wanted) == {3, 4}
    world.look(2, controller, timedelta(seconds=10))
    assert set(world.fleet.wanted) == {3}


def test_looking_again_is_asked_for_when_there_is_something_to_do():
    world = World()
    world.ask(strategy=Single(), keep_warm="1h")
    assert world.look() == LOOK
    assert world.look(controller=(controller := world.controller())) == DRAIN
    assert world.look(controller=controller) == timedelta(hours=1) - MINUTE


# -- orders ------------------------------------------------------------------------------------------------------------


def test_an_order_is_carried_out_once_and_taken_away():
    world = World()
    world.ask()
    world.look(2)
    for order, phase in (("pause", "Paused"), ("resume", "Progressing"), ("promote", "Promoted")):
        world.rollouts.order("bikes", "bikes-4", order, "ada")
        world.look()
        assert world.status().phase == phase
        assert ORDER not in world.rollouts.attempts("bikes")[0].document.metadata.annotations


def test_an_order_that_has_to_wait_stays():
    world = World()
    world.fleet = MemoryFleet({3: 4})
    world.traffic.fleet = world.fleet
    world.ask()
    world.look(2)
    world.fleet.broken.add(4)
    world.fleet.settle()
    world.rollouts.order("bikes", "bikes-4", "promote", "ada")
    world.look()
    assert world.rollouts.attempts("bikes")[0].order == "promote"
    world.fleet.broken.clear()
    world.look(8)
    assert world.status().phase == "Promoted"


def test_what_is_no_order_is_told_once_and_changes_nothing():
    world = World()
    world.ask()
    controller = world.controller()
    world.rollouts.order("bikes", "bikes-4", "hurry", "ada")  # type: ignore[arg-type]
    world.look(3, controller)

    told = [message for _, reason, message in world.rollouts.events if reason == "OrderUnknown"]
    assert told == ["annotation evergrow.dev/order: must be one of pause, resume, promote, abort, found 'hurry'"]
    assert world.status().phase == "Progressing"


@pytest.mark.parametrize("looks", [0, 1, 2, 3])
def test_an_abort_wins_from_every_state_at_once_even_if_nothing_can_be_read(looks):
    world = World()
    world.ask()
    world.look(looks)
    world.witness.fails = StoreError("the store does not answer", retriable=True)
    world.rollouts.order("bikes", "bikes-4", "abort", "ada")
    world.look()

    assert (world.status().phase, world.status().reason) == ("Aborted", "aborted by ada")
    assert world.answers == {3: 100}


def test_a_rollout_that_is_deleted_is_aborted_first():
    world = World()
    world.ask()
    world.look(3)
    world.rollouts.delete("bikes-4")
    world.look()

    assert world.answers == {3: 100}
    assert world.rollouts.attempts("bikes") == []
    assert ("bikes-4", "Aborted", "v3 100: aborted by its deletion") in world.rollouts.events


# -- two at once, and back ---------------------------------------------------------------------------------------------


def test_a_newer_rollout_takes_the_place_of_an_older_one_from_the_stable_version():
    world = World()
    world.ask()
    world.look(3)
    world.ask("bikes-5", Single(), (5,))
    world.look(2)

    assert (world.status().phase, world.status("bikes-5").phase) == ("Superseded", "Promoted")
    assert world.status("bikes-5").stable == 3
    assert world.answers == {5: 100}


def test_after_a_bad_version_another_bad_one_leaves_the_stable_version_too():
    world = World()
    for version in (4, 5):
        name = f"bikes-{version}"
        world.witness.evidence = GOOD
        world.ask(name, candidates=(version,))
        world.look(3)
        assert set(world.answers) == {3, version}
        found = BAD.findings[0].model_copy(update={"candidate": version})
        world.witness.evidence = Evidence(findings=(found,))
        world.look()
        assert (world.status(name).phase, world.status(name).stable, world.answers) == ("Aborted", 3, {3: 100})

    assert world.champions.history == []


def test_what_was_aborted_is_promoted_when_it_is_asked_for_again_and_does_well():
    world = World()
    world.ask()
    world.look(3)
    world.rollouts.order("bikes", "bikes-4", "abort", "ada")
    world.look()
    assert (world.status().phase, world.answers) == ("Aborted", {3: 100})

    world.ask("bikes-4-again")
    world.look(9)
    assert (world.status("bikes-4-again").phase, world.answers) == ("Promoted", {4: 100})
    assert world.status().phase == "Aborted"


def test_what_cannot_be_decided_pauses_and_is_promoted_once_it_is_resumed_and_can():
    world = World()
    world.witness.evidence = Evidence(requests={4: 1})
    world.ask(inconclusive_after="10m")
    world.look(20)
    paused = world.status()
    assert (paused.phase, world.answers) == ("Paused", {3: 90, 4: 10})
    assert "10m" in paused.reason

    world.rollouts.order("bikes", "bikes-4", "resume", "ada")
    world.witness.evidence = GOOD
    world.look(9)
    assert (world.status().phase, world.answers) == ("Promoted", {4: 100})


def test_a_rollback_to_what_is_no_longer_warm_waits_until_it_is_served():
    world = World()
    world.ask(keep_warm="10m")
    world.look(30)
    assert set(world.fleet.wanted) == {4}

    world.ask("bikes-3", strategy=Single(), candidates=(3,))
    world.controller().reconcile("bikes")
    assert (world.answers, set(world.fleet.wanted)) == ({4: 100}, {3, 4})
    world.look(3)
    assert (world.status("bikes-3").phase, world.answers) == ("Promoted", {3: 100})


def test_a_rollback_is_a_rollout_to_what_is_still_warm():
    world = World()
    world.ask()
    world.look(8)
    assert world.answers == {4: 100}
    world.ask("bikes-3-back", Single(), (3,))
    world.look()

    assert world.answers == {3: 100}
    assert [version for version, _ in world.champions.history] == [4, 3]


def test_what_serves_already_cannot_be_rolled_out():
    world = World()
    world.ask(candidates=(3,))
    world.look()
    assert (world.status().phase, world.status().reason) == ("Aborted", "version 3 serves already")


def test_several_candidates_are_refused_if_the_models_document_has_no_bandit():
    world = World()
    world.ask(strategy=None, candidates=(4, 5))
    world.look()
    assert world.status().phase == "Aborted"
    assert world.status().reason == "`candidates` must be one but for a bandit, found [4, 5] for single"


def test_what_serves_goes_on_serving_when_its_rollout_is_deleted_from_the_history():
    world = World()
    world.ask()
    world.look(8)
    world.ask("bikes-3-back", Single(), (3,))
    world.look(2)
    world.rollouts.delete("bikes-3-back")
    world.look(3)
    assert [a.name for a in world.rollouts.attempts("bikes")] == ["bikes-4"]
    assert (world.answers, world.rollouts.reports["bikes"].serving) == ({3: 100}, 3)

    world.rollouts.delete("bikes-4")
    world.look(3)
    assert (world.answers, world.rollouts.reports["bikes"].serving) == ({3: 100}, 3)
    world.ask("bikes-5", Single(), (5,))
    world.look(3)
    assert (world.status("bikes-5").stable, world.answers) == (3, {5: 100})


@pytest.mark.parametrize(("can", "phase"), [(False, "Aborted"), (True, "Progressing")])
def test_callers_are_kept_to_a_version_only_where_that_is_to_be_had(can, phase):
    world = World()
    world.traffic.can_stick = can
    world.ask(sticky=["guest"])
    world.look(2)
    assert world.status().phase == phase
    if not can:
        assert world.status().reason.startswith("`sticky` must be empty here")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_candidate_that_never_becomes_ready_is_given_up_and_its_servers_stopped():
    world = World()
    world.fleet.broken.add(4)
    world.ask(ready_within="5m")
    world.look(9)

    assert world.status().phase == "Aborted"
    assert [dict(route.weights) for route in world.traffic.applied] == [{3: 100}]
    assert set(world.fleet.wanted) == {3}


def test_a_candidate_that_cannot_be_started_does_not_keep_callers_from_being_answered():
    world = World()
    world.fleet.missing.add(4)
    world.ask(ready_within="3m")
    for _ in range(3):
        with pytest.raises(ServingError, match="no files of version 4"):
            world.look()
        world.pass_time()
    world.look()
    assert (world.answers, world.status().phase) == ({3: 100}, "Aborted")


def test_evidence_that_cannot_be_read_is_told_once_and_promotes_nothing():
    world = World()
    controller = world.controller()
    world.ask()
    world.look(2, controller)
    world.witness.fails = StoreError("the store does not answer", retriable=True)
    world.look(10, controller)

    assert (world.status().phase, world.status().step) == ("Progressing", 0)
    assert world.status().findings[0].outcome == "error"
    assert [r for _, r, _ in world.rollouts.events].count("EvidenceMissing") == 1
    world.witness.fails = None
    world.look(4, controller)
    assert world.status().phase == "Promoted"


def test_without_a_document_nothing_begins_and_the_error_says_what_to_do():
    world = World()
    world.rollouts.models.clear()
    world.ask(strategy=None)
    with pytest.raises(RolloutError, match=r"spec\.model must name a ContinualModel, found none named bikes"):
        world.look()
    assert world.status().started is None


def test_what_others_did_to_the_route_or_the_servers_is_mended():
    world = World()
    world.ask()
    world.look(8)
    world.traffic.applied.append(Route(model="bikes", weights={3: 100}))
    world.look()
    assert world.answers == {4: 100}

    world.fleet.lose(4)
    world.look(2)
    assert world.fleet.ready("bikes")[4] == 1


def test_evidence_that_changes_nothing_is_written_only_now_and_then():
    world = World()
    world.ask()
    controller = world.controller()
    world.look(2, controller)
    world.witness.evidence = Evidence(requests={4: 1}, findings=GOOD.findings[:1])
    before = len(list(_revisions(world, controller, 21)))
    assert before == 3


def _revisions(world: World, controller: Controller, looks: int):
    last = ""
    for _ in range(looks):
        world.witness.evidence = Evidence(
            findings=(Finding(check="errors", candidate=4, outcome="inconclusive", reason=str(world.clock.now())),)
        )
        world.look(1, controller, timedelta(seconds=1))
        now = world.rollouts.attempts("bikes")[0].revision
        if now != last:
            yield now
        last = now


# -- killed anywhere ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a kill -9: nobody catches it."""


class Mortal:
    """A port whose caller dies just before or just after one of its actions."""

    def __init__(self, port: Any, alive: Callable[[], None]) -> None:
        self._port, self._alive = port, alive

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found):
            return found

        def call(*args: Any, **more: Any) -> Any:
            self._alive()
            result = found(*args, **more)
            self._alive()
            return result

        return call


def lived_through(scenario: Callable[[World, Callable[[], None]], None], dies_at: int) -> tuple[World, int]:
    """The world after a scenario whose loop dies at one of its actions, and is started again; and their number."""
    world, actions = World(), 0

    def alive() -> None:
        nonlocal actions
        actions += 1
        if actions == dies_at:
            raise Killed

    controllers = [Controller(*(Mortal(port, alive) for port in world.ports()), world.clock)]

    def look() -> None:
        try:
            controllers[-1].reconcile("bikes")
        except Killed:
            controllers.append(world.controller())
            controllers[-1].reconcile("bikes")
        world.pass_time()

    scenario(world, look)
    return world, actions


def promoted(world: World, look: Callable[[], None]) -> None:
    world.ask()
    for _ in range(8):
        look()


def failed(world: World, look: Callable[[], None]) -> None:
    world.ask()
    for i in range(6):
        world.witness.evidence = GOOD if i < 3 else BAD
        look()


def superseded_then_back(world: World, look: Callable[[], None]) -> None:
    world.ask(strategy=BlueGreen(preview="0s", watch="30m"))
    for i in range(9):
        if i == 3:
            world.ask("bikes-5", Single(), (5,))
        if i == 5:
            world.ask("bikes-3-back", Single(), (3,))
        look()


def ordered(world: World, look: Callable[[], None]) -> None:
    world.ask()
    for order in (None, None, "pause", "resume", "abort", None):
        if order:
            world.rollouts.order("bikes", "bikes-4", order, "ada")  # type: ignore[arg-type]
        look()


def deleted(world: World, look: Callable[[], None]) -> None:
    world.ask()
    for i in range(5):
        if i == 3:
            world.rollouts.delete("bikes-4")
        look()


@pytest.mark.parametrize("scenario", [promoted, failed, superseded_then_back, ordered, deleted])
def test_killed_between_any_two_actions_it_ends_as_if_it_had_not_been(scenario):
    world, actions = lived_through(scenario, dies_at=0)
    expected = _told(world)
    assert actions > 50
    for dies_at in range(1, actions + 1):
        survived, _ = lived_through(scenario, dies_at)
        assert _told(survived) == expected, f"killed at action {dies_at} of {actions}"


def _told(world: World) -> dict[str, Any]:
    """What people and callers can tell of a world; when exactly something happened may differ by a look."""
    attempts = world.rollouts.attempts("bikes")
    return {
        "answers": world.answers,
        "routes": [weights for weights, _ in groupby(route.weights for route in world.traffic.applied)],
        "champions": [version for version, _ in world.champions.history],
        "ends": [(a.name, a.status.phase, a.status.winner, a.status.stable) for a in attempts],
        "servers": set(world.fleet.wanted),
    }


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.integers(0, 1), min_size=12, max_size=40), when=st.integers(0, 10))
def test_two_loops_at_once_do_no_harm(turns, when):
    world = World()
    world.ask()
    both = [world.controller(), world.controller()]
    for i, turn in enumerate(turns):
        if i == when:
            world.ask("bikes-5", Single(), (5,))
        world.look(1, both[turn])
    world.look(12)

    assert world.answers == {5: 100}
    assert world.status("bikes-5").phase == "Promoted"


def test_a_status_that_somebody_else_has_written_is_not_written_over():
    world = World()
    world.ask()
    world.look(2)
    attempt = world.rollouts.attempts("bikes")[0]
    world.rollouts.order("bikes", "bikes-4", "pause", "ada")
    with pytest.raises(ConflictError):
        world.rollouts.write(attempt, attempt.status)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.integers(-120, 300), min_size=15, max_size=40))
def test_a_clock_that_steps_makes_nothing_happen_sooner(steps):
    """By the latest instant that the clock has ever shown, a step has lasted at most so long."""
    world = World()
    world.ask(strategy=Canary(steps=(CanaryStep(weight=10, requests=10, duration="10m"),)))
    controller, latest, begun = world.controller(), START, None
    for seconds in steps:
        controller.reconcile("bikes")
        if begun is None and world.status().step_started:
            begun = world.status().step_started
        world.pass_time(timedelta(seconds=seconds))
        latest = max(latest, world.clock.now())
        if world.status().phase == "Promoted":
            assert latest - begun >= timedelta(minutes=10)


def test_a_models_status_says_when_what_should_serve_is_not_there():
    world = World()
    world.ask()
    world.look(8)
    attempts = world.rollouts.attempts("bikes")

    assert model_status(attempts, {4: 1}).phase == "Serving"
    assert model_status(attempts, {}).phase == "Degraded"


def test_a_registry_that_is_away_keeps_nothing_else_from_being_done():
    world = World()
    world.champions.promote = _away  # type: ignore[method-assign]
    world.ask(strategy=Single())
    world.look()
    for _ in range(3):
        with pytest.raises(StoreError):
            world.look()
        world.pass_time()

    assert world.answers == {4: 100}
    assert "bikes-4" in world.rollouts.released
    assert world.rollouts.reports["bikes"].serving == 4
    assert world.status().recorded is None
    del world.champions.promote
    world.look()
    assert (world.champions.history[-1][0], world.status().recorded) == (4, world.clock.now() - MINUTE)


def _away(*_: Any) -> None:
    raise StoreError("the registry does not answer", retriable=True)
