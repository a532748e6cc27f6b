"""What a book says, in both directions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from evergrow.loop.book import Asked, Began, Decided, Ended, Entry, Froze, SentBack, Thawed
from evergrow.loop.state import (
    Wish,
    frozen,
    fruitless,
    history,
    newly_said,
    on_trial,
    serving,
    status_of,
    to_begin,
    trained,
    trainings,
    under_way,
    unheard,
    warning,
)
from evergrow.spec.retraining import Retraining
from evergrow.triggers.decide import Retrain
from evergrow.triggers.history import Champion, Look, Trained

NOW = datetime(2024, 3, 20, tzinfo=UTC)
DAY = timedelta(days=1)
DAILY = Retraining(cooldown="1d", longest="30d")


def decided(at: datetime, *, train: bool = True) -> Decided:
    return Decided(decision=Retrain(model="m", as_of=at, wanted=train, withheld="", judged=(), reason="."))


def ended(number: int, at: datetime, outcome: str = "promoted", version: int | None = None) -> Ended:
    made = number if version is None and outcome != "failed" else version
    return Ended(number=number, at=at, outcome=outcome, version=made, cpu_hours=1, reason="")


def tried(*outcomes: str) -> list[Entry]:
    """A training a day, of these outcomes."""
    days = [NOW + n * DAY for n in range(len(outcomes))]
    pairs = zip(days, outcomes, strict=True)
    return [
        one
        for n, (day, outcome) in enumerate(pairs, 1)
        for one in (decided(day), Began(number=n, at=day, by=day), ended(n, day, outcome))
    ]


def test_a_training_is_under_way_from_its_beginning_to_its_end():
    book = [decided(NOW), Began(number=1, at=NOW, by=NOW)]
    assert under_way(book) == book[1]
    assert trained(book) == (Trained(NOW),)
    assert under_way([*book, ended(1, NOW + DAY)]) is None
    assert trained([*book, ended(1, NOW + DAY)]) == (Trained(NOW, NOW + DAY, "promoted", 1.0),)


def sent_back(number: int, at: datetime) -> SentBack:
    return SentBack(number=number, at=at, version=number, reason="v1 loses less")


def test_a_version_that_was_sent_back_counts_as_no_champion():
    book = tried("rejected", "promoted")
    assert (fruitless(book), on_trial(book)) == (0, trainings(book)[1])
    book = [*book, sent_back(2, NOW + 3 * DAY)]
    assert (fruitless(book), on_trial(book)) == (2, None)
    assert trained(book)[1].sent_back == NOW + 3 * DAY
    assert status_of(DAILY, book, NOW + 3 * DAY).ended == "sent back: v1 loses less"
    again = [*book, Began(number=3, at=NOW + 5 * DAY, by=NOW), ended(3, NOW + 5 * DAY)]
    assert (fruitless(again), on_trial(again)) == (0, trainings(again)[2])
    refused = [*again, Began(number=4, at=NOW + 6 * DAY, by=NOW), ended(4, NOW + 6 * DAY, "rejected")]
    assert on_trial(refused) == trainings(refused)[2], "its rollout goes on"


def test_what_was_decided_and_not_begun_is_begun_once():
    yes, began = decided(NOW), Began(number=1, at=NOW, by=NOW)
    assert to_begin([], NOW) is None
    assert to_begin([yes], NOW) == yes.decision
    assert to_begin([yes], NOW - DAY) is None
    assert to_begin([decided(NOW, train=False)], NOW) is None
    assert to_begin([yes, began], NOW) is None
    assert to_begin([yes, began, ended(1, NOW)], NOW) is None
    assert to_begin([yes, decided(NOW + DAY, train=False)], NOW + DAY) is None


def test_what_was_decided_before_a_freeze_is_not_begun_after_it():
    book = [decided(NOW), Froze(at=NOW, by="ada")]
    assert to_begin(book, NOW) is None
    assert to_begin([*book, Thawed(at=NOW, by="ada")], NOW) is not None


def test_what_was_said_since_the_newest_decision_is_unheard_from_its_instant_on():
    asked = Asked(at=NOW + DAY, by="ada")
    book = [asked, decided(NOW), *tried("failed")[1:]]
    assert not unheard(book, NOW)
    assert unheard(book, NOW + DAY)
    assert not unheard([*book, decided(NOW + DAY)], NOW + DAY)
    assert unheard([asked], NOW + DAY)
    assert not unheard([], NOW)


def test_a_freeze_holds_from_its_instant_until_it_is_thawed():
    book = [Thawed(at=NOW + 2 * DAY, by="bob"), Froze(at=NOW, by="ada", reason="audit")]
    assert frozen(book, NOW - DAY) == ""
    assert frozen(book, NOW) == frozen(book, NOW + DAY) == "by ada since 2024-03-20 00:00: audit"
    assert frozen(book, NOW + 2 * DAY) == ""
    assert frozen([Froze(at=NOW, by="ada"), Thawed(at=NOW, by="bob")], NOW) == ""
    assert frozen([Thawed(at=NOW, by="bob"), Froze(at=NOW, by="ada")], NOW) != ""


def test_a_champion_that_the_loop_made_has_the_instants_of_the_book():
    old = Champion(1, NOW - 99 * DAY, NOW - 98 * DAY)
    assert serving([], None) is None
    assert serving([], old) == old
    assert serving(tried("rejected"), old) == old
    book = [Began(number=1, at=NOW, by=NOW), ended(1, NOW + DAY)]
    assert serving(book, old) == Champion(1, cut=NOW, since=NOW + DAY)


def test_a_champion_that_its_rollout_has_promoted_serves_since_then():
    book = [Began(number=1, at=NOW, by=NOW), ended(1, NOW + DAY)]
    took_over = NOW + 3 * DAY
    assert serving(book, Champion(1, cut=NOW, since=took_over)) == Champion(1, cut=NOW, since=took_over)


def test_a_champion_trained_again_on_the_same_rows_is_no_older_than_them():
    again = NOW + 9 * DAY
    book = [
        Began(number=1, at=NOW, by=NOW), ended(1, NOW + DAY),
        Began(number=2, at=again, by=again), ended(2, again, version=1),
    ]  # fmt: skip
    assert serving(book, Champion(1, NOW, NOW)) == Champion(1, cut=again, since=NOW + DAY)


def test_a_history_has_all_that_triggers_go_by():
    look = Look(NOW, ())
    book = [Asked(at=NOW, by="bob"), Asked(at=NOW - DAY, by="ada"), Froze(at=NOW + DAY, by="ada"), *tried("failed")]
    found = history(book, Champion(1, NOW, NOW), None, look, NOW)
    assert [one.by for one in found.requests] == ["ada", "bob"]
    assert (found.look, found.frozen, len(found.trained)) == (look, "", 1)
    assert history(book, None, None, None, NOW + DAY).frozen
    assert history([], None, None, None, NOW).champion is None


def test_challengers_that_keep_failing_are_warned_of_until_one_is_promoted():
    assert [fruitless(tried(*outcomes)) for outcomes in ((), ("promoted",), ("promoted", "failed", "rejected"))] == [
        0,
        0,
        2,
    ]
    assert warning(DAILY, tried("rejected", "failed")) == ""
    told = "challengers keep failing: 3 in a row; nothing is begun before 2024-03-30 00:00"
    assert warning(DAILY, tried("rejected", "failed", "rejected")) == told
    assert warning(DAILY, tried("rejected", "failed", "rejected", "promoted")) == ""


def test_what_stands_on_the_object_is_said_once():
    ask, freeze = Wish("ada", "new station"), Wish("bob", "audit")
    said = newly_said([], ask, freeze, NOW)
    assert said == [Asked(at=NOW, by="ada", reason="new station"), Froze(at=NOW, by="bob", reason="audit")]
    assert newly_said(said, ask, freeze, NOW + DAY) == []
    assert newly_said(said, None, freeze, NOW + DAY) == []


def test_another_request_is_another_and_the_same_is_once_something_was_begun():
    book: list[Entry] = [Asked(at=NOW, by="ada", reason="new station")]
    assert len(newly_said(book, Wish("bob", "new station"), None, NOW)) == 1
    assert len(newly_said(book, Wish("ada", "newer station"), None, NOW)) == 1
    began = Began(number=1, at=NOW, by=NOW)
    assert len(newly_said([*book, began], Wish("ada", "new station"), None, NOW + DAY)) == 1


def test_a_freeze_ends_when_it_is_taken_away_and_not_before():
    froze = Froze(at=NOW, by="bob", reason="audit")
    (thawed,) = newly_said([froze], None, None, NOW + DAY)
    assert (thawed.kind, thawed.at, thawed.by) == ("thawed", NOW + DAY, "bob")
    assert newly_said([froze, thawed], None, None, NOW + 2 * DAY) == []
    assert [one.kind for one in newly_said([froze, thawed], None, Wish("bob", "audit"), NOW + 2 * DAY)] == ["froze"]


def test_the_status_is_what_the_book_comes_to():
    assert status_of(DAILY, [], NOW).model_dump(exclude_defaults=True) == {}
    book = [*tried("promoted", "rejected", "failed"), decided(NOW + 3 * DAY), Froze(at=NOW, by="bob")]
    told = status_of(DAILY, [*book, Began(number=4, at=NOW + 3 * DAY, by=NOW + 3 * DAY)], NOW + 3 * DAY)
    assert (told.decided, told.train, told.training) == (NOW + 3 * DAY, True, NOW + 3 * DAY)
    assert (told.trainings, told.fruitless, told.ended) == (4, 2, "failed: ")
    assert told.not_before == NOW + 2 * DAY + 4 * DAY
    assert "bob" in told.frozen
