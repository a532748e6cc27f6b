"""One look at an instant: finish what was begun, decide, and act on it. It may be killed anywhere, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from evergrow.loop.book import Began, Decided, Ended, Entry, SentBack
from evergrow.loop.ports import Book, World
from evergrow.loop.state import history, newest_decision, on_trial, to_begin, trainings, under_way
from evergrow.ports import Clock
from evergrow.spec import ContinualModel
from evergrow.spec.retraining import DataChange, Performance, Retraining
from evergrow.triggers.decide import Retrain, decide


def goes_by_looks(retraining: Retraining) -> bool:
    """Whether any trigger goes by what monitoring sees."""
    return any(isinstance(one, Performance | DataChange) for one in retraining.triggers)


@dataclass(frozen=True)
class Loop:
    """The loop of a model.

    Attributes:
        document: of the model.
        book: of its loop.
        world: what is trained in.
        clock: the present; where time is replayed, it stands still while the loop looks.
        tell: is told of each entry once it is written.
    """

    document: ContinualModel
    book: Book
    world: World
    clock: Clock
    tell: Callable[[Entry], object] = lambda _: None

    def tick(self) -> None:
        """Decide as of now, unless that was done, and act on it; before that, finish what was begun.

        Raises:
            SpecError: the document asks for what there is not.
            EvergrowError: what is asked does not answer; nothing is lost, and the next tick goes on.
        """
        self.carry_on()
        now, last = self.clock.now(), newest_decision(self.book.entries())
        if last is None or last.as_of < now:
            self._look_back(now)
            self._write(Decided(decision=self._decided(now)))
            self.carry_on()

    def carry_on(self) -> None:
        """Begin the training that was decided, and see to the end of the one that was begun: as of when it began."""
        now = self.clock.now()
        decision = to_begin(self.book.entries(), now)
        if decision is not None:
            number = len(trainings(self.book.entries())) + 1
            self._write(Began(number=number, at=now, by=decision.as_of))
        began = under_way(self.book.entries())
        result = self.world.train(began.at) if began is not None else None
        if began is not None and result is not None:
            latest = self.clock.now()
            at = max(began.at, min(result.at or latest, latest))
            self._write(Ended(number=began.number, **result.model_dump(exclude={"at"}), at=at))

    def _look_back(self, now: datetime) -> None:
        """Write down that a rollout has taken back the version that was promoted last."""
        training = on_trial(self.book.entries())
        promoted = training.promoted if training is not None else None
        if training is None or promoted is None or promoted.version is None:
            return
        back = self.world.sent_back(promoted.version, training.began.at)
        if back is not None and back.at <= now:
            at = max(promoted.at, back.at)
            self._write(SentBack(number=promoted.number, at=at, version=promoted.version, reason=back.reason))

    def _decided(self, now: datetime) -> Retrain:
        retraining = self.document.spec.retraining
        known, champion = self.world.known(now), self.world.champion(now)
        look = self.world.look(now) if goes_by_looks(retraining) else None
        goes_by = history(self.book.entries(), champion, known, look, now)
        return decide(self.document.name, retraining, goes_by, now)

    def _write(self, entry: Entry) -> None:
        self.book.append(entry)
        self.tell(entry)
