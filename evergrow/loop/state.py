"""What a book says, and what is decided by: all of it follows from the entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from evergrow.loop.book import Asked, Began, Decided, Ended, Entry, Froze, Said, SentBack, Thawed
from evergrow.spec.model import LoopStatus
from evergrow.spec.retraining import Retraining
from evergrow.triggers.decide import Retrain
from evergrow.triggers.history import Champion, History, Instants, Look, Request, Trained, in_vain
from evergrow.triggers.restraint import wait

FRUITLESS = 3
"""So many trainings in a row without a new champion are worth a warning."""


def newest_decision(book: Sequence[Entry]) -> Retrain | None:
    """The last one; None: nothing was decided yet."""
    return next((one.decision for one in reversed(book) if isinstance(one, Decided)), None)


@dataclass(frozen=True)
class Training:
    """What a book says of a training.

    Attributes:
        began: when it was begun.
        ended: how it ended; None: it has not.
        back: that a rollout took its version back; None: none is known to have done so.
    """

    began: Began
    ended: Ended | None
    back: SentBack | None

    @property
    def promoted(self) -> Ended | None:
        """How it ended, if the gate has promoted its version."""
        return self.ended if self.ended is not None and self.ended.outcome == "promoted" else None


def trainings(book: Sequence[Entry]) -> Sequence[Training]:
    """Each that was begun, in their order."""
    ended = {one.number: one for one in book if isinstance(one, Ended)}
    back = {one.number: one for one in book if isinstance(one, SentBack)}
    begun = [one for one in book if isinstance(one, Began)]
    return [Training(one, ended.get(one.number), back.get(one.number)) for one in begun]


def under_way(book: Sequence[Entry]) -> Began | None:
    """The training that was begun and has not ended."""
    return next((one.began for one in trainings(book) if one.ended is None), None)


def to_begin(book: Sequence[Entry], now: datetime) -> Retrain | None:
    """The newest decision, if it is to train, and that was not begun; None if there is nothing to begin.

    Who wrote it was killed right after; if somebody froze the loop since then, it is not begun any more.
    """
    decision = newest_decision(book)
    if decision is None or not decision.train or decision.as_of > now or frozen(book, now):
        return None
    began = any(isinstance(one, Began) and one.by == decision.as_of for one in book)
    return None if began or under_way(book) else decision


def frozen(book: Sequence[Entry], now: datetime) -> str:
    """Who wants nothing to be begun, since when and why; empty: nobody."""
    said = [one for one in book if isinstance(one, Froze | Thawed) and one.at <= now]
    last = max(reversed(said), key=lambda one: one.at, default=None)
    if not isinstance(last, Froze):
        return ""
    return f"by {last.by} since {last.at:%Y-%m-%d %H:%M}{f': {last.reason}' if last.reason else ''}"


@dataclass(frozen=True)
class Wish:
    """What somebody has written on a model's object, where that is how people are heard.

    Attributes:
        by: who.
        reason: why.
    """

    by: str
    reason: str


def newly_said(book: Sequence[Entry], ask: Wish | None, freeze: Wish | None, now: datetime) -> Sequence[Said]:
    """What stands on a model's object and is not in its book yet.

    A request that nothing was begun for since is not made anew by being read again; a freeze lasts as long as it stands
    there.
    """
    said: list[Said] = []
    if ask is not None and ask not in _pending(book):
        said.append(Asked(at=now, by=ask.by, reason=ask.reason))
    last = next((one for one in reversed(book) if isinstance(one, Froze | Thawed)), None)
    stands = Wish(last.by, last.reason) if isinstance(last, Froze) else None
    if freeze is None and stands is not None:
        said.append(Thawed(at=now, by=stands.by, reason="the freeze was taken back"))
    elif freeze is not None and freeze != stands:
        said.append(Froze(at=now, by=freeze.by, reason=freeze.reason))
    return said


def _pending(book: Sequence[Entry]) -> list[Wish]:
    """Requests since a training was begun last."""
    since = takewhile(lambda one: not isinstance(one, Began), reversed(book))
    return [Wish(one.by, one.reason) for one in since if isinstance(one, Asked)]


def unheard(book: Sequence[Entry], now: datetime) -> bool:
    """Whether somebody has said something since the newest decision, which does not heed it."""
    last = newest_decision(book)
    return any(isinstance(one, Said) and one.at <= now and (last is None or one.at > last.as_of) for one in book)


def trained(book: Sequence[Entry]) -> tuple[Trained, ...]:
    """Trainings as triggers know them."""
    return tuple(
        Trained(one.began.at)
        if one.ended is None
        else Trained(
            one.began.at, one.ended.at, one.ended.outcome, one.ended.cpu_hours, one.back.at if one.back else None
        )
        for one in trainings(book)
    )


def on_trial(book: Sequence[Entry]) -> Training | None:
    """The newest training whose version the gate has promoted, if no rollout is known to have taken that back."""
    newest = next((one for one in reversed(trainings(book)) if one.promoted), None)
    return newest if newest is not None and newest.back is None else None


def requests(book: Sequence[Entry]) -> tuple[Request, ...]:
    """What was asked for, in the order of its time."""
    asked = [Request(one.at, one.by, one.reason) for one in book if isinstance(one, Asked)]
    return tuple(sorted(asked, key=lambda one: one.at))


def serving(book: Sequence[Entry], champion: Champion | None) -> Champion | None:
    """The champion, with the instants that the book has for it if a training of the loop made it.

    A training on the same rows gives the same version: its data was cut when it was last trained so. It serves since
    the gate has promoted it first, or since a rollout did, which the registry knows.
    """
    if champion is None:
        return None
    made = [one for one in trainings(book) if one.promoted and one.promoted.version == champion.version]
    promoted = [one.promoted.at for one in made if one.promoted]
    return replace(champion, cut=made[-1].began.at, since=max(champion.since, promoted[0])) if made else champion


def history(
    book: Sequence[Entry], champion: Champion | None, known: Instants | None, look: Look | None, now: datetime
) -> History:
    """What `decide` goes by.

    Args:
        book: of the model.
        champion: who serves, by the registry.
        known: when labels became known, as `History` has it.
        look: monitoring's newest.
        now: the instant; freezes of later do not count.
    """
    serves = serving(book, champion)
    return History(
        champions=() if serves is None else (serves,),
        known=known,
        looks=() if look is None else (look,),
        trained=trained(book),
        requests=requests(book),
        frozen=frozen(book, now),
    )


def fruitless(book: Sequence[Entry]) -> int:
    """How many trainings in a row have brought no champion, up to the last that ended."""
    return in_vain(trained(book))


def not_before(retraining: Retraining, book: Sequence[Entry]) -> datetime | None:
    """Until when nobody but who asks has a training begun, after the last one; None: there was none."""
    ended = [one.at for one in book if isinstance(one, Ended)]
    return max(ended) + wait(retraining, trained(book)) if ended else None


def status_of(retraining: Retraining, book: Sequence[Entry], now: datetime) -> LoopStatus:
    """What the book comes to, for who looks at the model's object."""
    last, began, rests = newest_decision(book), under_way(book), not_before(retraining, book)
    ended = next((one for one in reversed(book) if isinstance(one, Ended | SentBack)), None)
    return LoopStatus(
        decided=last and last.as_of,
        train=last is not None and last.train,
        reason=last.reason if last is not None else "",
        training=began and began.at,
        trainings=len(trainings(book)),
        ended="" if ended is None else told(ended),
        frozen=frozen(book, now),
        fruitless=fruitless(book),
        not_before=rests,
    )


def told(ended: Ended | SentBack) -> str:
    """How a training ended, or what became of its version."""
    return f"{ended.outcome if isinstance(ended, Ended) else 'sent back'}: {ended.reason}"


def warning(retraining: Retraining, book: Sequence[Entry]) -> str:
    """That challengers keep failing; empty: they do not."""
    tried, until = fruitless(book), not_before(retraining, book)
    if tried < FRUITLESS or until is None:
        return ""
    return f"challengers keep failing: {tried} in a row; nothing is begun before {until:%Y-%m-%d %H:%M}"
