"""The loop against a world in memory: killed anywhere it comes to the same book as if it had not been."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrow.contracts import Observation, Verdict
from evergrow.errors import RegistryError, SpecError
from evergrow.integrations.memory import FixedClock
from evergrow.integrations.memory_loop import MemoryWorld
from evergrow.loop.book import Asked, Began, BookFile, Decided, Ended, Entry, Froze, SentBack, Thawed, written
from evergrow.loop.state import trainings, under_way
from evergrow.loop.tick import Loop
from evergrow.spec import ContinualModel, parse
from evergrow.triggers.decide import decide
from evergrow.triggers.history import Champion, History, Request, Trained
from tests.builders import document

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DAYS = 16
MEMORY = "/dev/shm" if Path("/dev/shm").exists() else None
"""Where each line need not wait for a disk."""
VOLUME, ASKED = {"kind": "data-volume", "rows": 40}, {"kind": "asked"}
LABELS = [START + n * HOUR for n in range(24 * DAYS)]
SEEN = [
    Observation(
        model="delays", version=None, kind="feature-drift", subject="wind", since=START, until=START, rows=9,
        reference="", test="psi", effect=0.3, threshold=0.2, alarm=False, verdict=Verdict(outcome="fail", reason="up"),
    )
]  # fmt: skip


class Killed(BaseException):
    """What no handler of errors catches."""


def model(*triggers: dict, **more: object) -> ContinualModel:
    dumped = document().dump()
    dumped["spec"]["retraining"] = {"triggers": list(triggers) or [VOLUME, ASKED], "cooldown": "1d", **more}
    return parse(dumped)


class Dying(BookFile):
    """A book whose writer dies before, within or after a line."""

    def __init__(self, path: Path, dies: Callable[[], str]) -> None:
        super().__init__(path)
        self.dies = dies

    def append(self, entry: Entry) -> None:
        how = self.dies()
        if how == "before":
            raise Killed
        if how == "within":
            line = written(entry)
            with self.path.open("ab") as file:
                file.write(line[: len(line) // 2])
            raise Killed
        super().append(entry)
        if how == "after":
            raise Killed


def replay(loop: Loop, days: int = DAYS) -> None:
    """Every instant from the start, as the command line has it."""
    assert isinstance(loop.clock, FixedClock)
    for number in range(days):
        loop.clock.move_to(START + number * DAY)
        loop.tick()


def new(path: Path, spoken: Sequence[Entry] = ()) -> Path:
    """A book in which somebody has spoken."""
    for entry in spoken:
        BookFile(path).append(entry)
    path.touch()
    return path


def ran(spoken: Sequence[Entry] = (), spec: ContinualModel | None = None, **world: object) -> list[Entry]:
    """The book of a run that nobody kills."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        book = BookFile(new(Path(folder) / "book.jsonl", spoken))
        replay(Loop(spec or model(), book, MemoryWorld(LABELS, **world), FixedClock(START)))
        return list(book.entries())


def began(book: Sequence[Entry]) -> list[int]:
    """Days on which trainings were begun."""
    return [(one.at - START).days for one in book if isinstance(one, Began)]


endings = st.dictionaries(
    st.integers(0, DAYS - 1).map(lambda day: START + day * DAY),
    st.sampled_from(["promoted", "rejected", "failed"]),
    max_size=DAYS,
)
at = st.integers(0, 24 * DAYS).map(lambda hour: START + hour * HOUR)
spoken = st.lists(
    st.one_of(*(st.builds(kind, at=at, by=st.just("ada"), reason=st.just("so")) for kind in (Asked, Froze, Thawed))),
    max_size=5,
)


returns = st.dictionaries(st.integers(1, 8), at, max_size=4)
"""Versions that rollouts take back, and when."""


@settings(max_examples=150)
@given(endings, spoken, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=12), st.booleans(), returns)
def test_killed_at_any_call_or_write_it_goes_on_to_the_same_book(endings, spoken, kills, looks, returns) -> None:
    spec = model(VOLUME, ASKED, {"kind": "data-change"}) if looks else model()
    seen = SEEN if looks else None
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        whole, killed = new(Path(folder) / "whole.jsonl", spoken), new(Path(folder) / "killed.jsonl", spoken)
        undisturbed = MemoryWorld(LABELS, endings, seen, returns=returns)
        replay(Loop(spec, BookFile(whole), undisturbed, FixedClock(START)))

        countdown = [0]

        def step(*_: str) -> None:
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Killed

        def writes() -> str:
            countdown[0] -= 1
            return how if countdown[0] == 0 else ""

        world = MemoryWorld(LABELS, endings, seen, fails=step, returns=returns)
        for steps, place in [*kills, (0, 0)]:
            countdown[0], how = steps, ("before", "within", "after")[place]
            try:
                replay(Loop(spec, Dying(killed, writes), world, FixedClock(START)))
            except Killed:
                continue
        assert killed.read_bytes() == whole.read_bytes()
        book = BookFile(killed).entries()
    assert under_way(book) is None
    assert Counter(one.number for one in book if isinstance(one, Began)) == Counter(
        one.number for one in book if isinstance(one, Ended)
    )
    assert world.trained == [one.at for one in book if isinstance(one, Began)]
    instants = [one.at for one in book if isinstance(one, Decided)]
    assert instants == [START + n * DAY for n in range(DAYS)]


@given(endings, spoken, returns)
def test_it_decides_as_somebody_would_by_hand(endings, spoken, returns) -> None:
    book = ran(spoken, endings=endings, returns=returns)
    champion, done = None, []
    said = sorted(spoken, key=lambda one: one.at)
    begun = {one.began.number: one.began.at for one in trainings(book)}
    for entry in book:
        if isinstance(entry, Ended):
            started = begun[entry.number]
            done.append(Trained(started, entry.at, entry.outcome, entry.cpu_hours))
            if entry.outcome == "promoted":
                champion = Champion(entry.version or 0, started, entry.at)
        if isinstance(entry, SentBack):
            assert returns[entry.version] <= entry.at
            done[entry.number - 1] = replace(done[entry.number - 1], sent_back=entry.at)
        if isinstance(entry, Decided):
            now = entry.at
            known = MemoryWorld(LABELS).known(now)
            last = [one for one in said if isinstance(one, Froze | Thawed) and one.at <= now][-1:]
            stopped = f"by ada since {last[0].at:%Y-%m-%d %H:%M}: so" if last and isinstance(last[0], Froze) else ""
            asked = [Request(one.at, one.by, one.reason) for one in said if isinstance(one, Asked)]
            by_hand = History([champion] if champion else [], known, (), done, asked, stopped)
            assert entry.decision == decide("delays", model().spec.retraining, by_hand, now)


def test_it_trains_first_where_nobody_serves_and_then_when_labels_have_come():
    book = ran()
    assert began(book) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert {one.outcome for one in book if isinstance(one, Ended)} == {"promoted"}


def test_nothing_is_begun_while_it_is_frozen_and_it_goes_on_when_thawed():
    book = ran([Froze(at=START + 3 * DAY, by="ada"), Thawed(at=START + 9 * DAY, by="ada")])
    assert began(book) == [0, 2, 9, 11, 13, 15]
    withheld = {(one.at - START).days for one in book if isinstance(one, Decided) and "frozen" in one.decision.withheld}
    assert withheld == {4, 5, 6, 7, 8}


def test_who_asks_need_not_wait_for_labels_or_a_cooldown():
    calm = model({"kind": "data-volume", "rows": 10_000}, ASKED, cooldown="10d")
    assert began(ran(spec=calm)) == [0]
    assert began(ran([Asked(at=START + 2 * DAY + HOUR, by="ada")], calm)) == [0, 3]
    deaf = model({"kind": "data-volume", "rows": 10_000}, cooldown="10d")
    assert began(ran([Asked(at=START + 2 * DAY + HOUR, by="ada")], deaf)) == [0]


def test_the_pause_grows_with_each_training_that_brings_no_champion():
    failing = {START + n * DAY: "rejected" for n in range(1, DAYS)}
    assert began(ran(endings=failing)) == [0, 2, 4, 8]
    failing[START + 2 * DAY] = failing[START + 4 * DAY] = "promoted"
    assert began(ran(endings=failing)) == [0, 2, 4, 6, 8, 12]


def test_a_budget_is_kept():
    assert began(ran(spec=model(VOLUME, budget={"per": "7d", "trainings": 2}))) == [0, 2, 7, 9, 14]
    assert began(ran(spec=model(VOLUME, budget={"per": "7d", "cpuHours": 0.5}))) == [0, 7, 14]


def test_what_monitoring_sees_is_asked_for_only_if_a_trigger_goes_by_it():
    def calls(spec: ContinualModel, seen: Sequence[Observation] | None) -> Counter[str]:
        found: Counter[str] = Counter()
        book = ran(spec=spec, seen=seen, fails=lambda call: found.update([call]))
        found["begun"] = len(began(book))
        return found

    change = {"kind": "data-change", "of": ["feature-drift"]}
    assert calls(model(), SEEN)["look"] == 0
    assert (calls(model(change), None)["look"], calls(model(change), None)["begun"]) == (DAYS, 1)
    assert calls(model(change), SEEN)["begun"] == DAYS


def world_that(error: Exception, *, once: bool) -> MemoryWorld:
    left = [error]

    def fails(call: str) -> None:
        if call == "train" and left:
            raise left.pop() if once else left[0]

    return MemoryWorld(LABELS, fails=fails)


def test_what_may_go_well_a_moment_later_loses_nothing(tmp_path: Path) -> None:
    book = BookFile(tmp_path / "book.jsonl")
    loop = Loop(model(), book, world_that(RegistryError("away", retriable=True), once=True), FixedClock(START))
    with pytest.raises(RegistryError):
        loop.tick()
    assert under_way(book.entries()) is not None
    loop.tick()
    assert under_way(book.entries()) is None
    assert list(book.entries()) == ran()[:3]


def test_a_document_that_asks_for_what_there_is_not_ends_the_loop_and_can_be_mended(tmp_path: Path) -> None:
    book = BookFile(tmp_path / "book.jsonl")
    broken = world_that(SpecError("spec.training.estimator.entrypoint: there is no such module"), once=False)
    with pytest.raises(SpecError):
        Loop(model(), book, broken, FixedClock(START)).tick()
    later = FixedClock(START + DAY)
    mended = MemoryWorld(LABELS)
    Loop(model(), book, mended, later).tick()
    first = next(one for one in book.entries() if isinstance(one, Ended))
    assert (mended.trained[0], first.at) == (START, START + DAY)


def test_versions_that_rollouts_send_back_make_the_loop_wait_longer_and_longer() -> None:
    spec = model({"kind": "model-age", "olderThan": "12h"}, cooldown="1d", longest="8d")
    kept, known_too_late = (ran(spec=spec, returns=returns) for returns in ({}, {1: START + 99 * DAY}))
    back = ran(spec=spec, returns=dict.fromkeys(range(1, 9), START + HOUR))
    assert kept == known_too_late
    assert began(kept) == list(range(DAYS))
    assert began(back) == [0, 2, 6, 14]
    assert [(one.number, one.version) for one in back if isinstance(one, SentBack)] == [(1, 1), (2, 2), (3, 3), (4, 4)]


class Ticking:
    """A clock on which a training takes an hour."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def pass_by(self, call: str) -> None:
        if call == "trained":
            self.at += HOUR


def test_in_the_present_a_training_ends_later_than_it_began_and_what_was_asked_meanwhile_is_open(tmp_path) -> None:
    clock, book = Ticking(), BookFile(tmp_path / "book.jsonl")
    loop = Loop(model(cooldown="0s"), book, MemoryWorld(LABELS, fails=clock.pass_by), clock)
    loop.tick()
    assert [one.at for one in book.entries()] == [START, START, START + HOUR]
    book.append(Asked(at=START + HOUR / 2, by="ada"))
    loop.tick()
    assert [one.at - START for one in book.entries() if isinstance(one, Began)] == [timedelta(), HOUR]


def test_a_tick_that_comes_late_begins_what_was_decided_as_of_its_own_instant(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    whole = ran()
    BookFile(path).append(whole[0])
    clock = FixedClock(START + 5 * DAY)
    world = MemoryWorld(LABELS)
    Loop(model(), BookFile(path), world, clock).tick()
    first = next(one for one in BookFile(path).entries() if isinstance(one, Began))
    assert (first.at, first.by, world.trained[0]) == (START + 5 * DAY, START, START + 5 * DAY)


def test_an_instant_that_was_decided_is_not_decided_again_nor_is_one_before_it(tmp_path: Path) -> None:
    book = BookFile(tmp_path / "book.jsonl")
    world = MemoryWorld(LABELS)
    loop = Loop(model(), book, world, FixedClock(START))
    replay(loop)
    before = book.path.read_bytes()
    world.fails = pytest.fail
    replay(loop)
    assert book.path.read_bytes() == before
