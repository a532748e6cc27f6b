"""Rollouts, replayed: the live state machine, judged by the live tests, on rows of the past.

Each row is a request. Which version answered it is drawn by a hash of its place and of the seed, by the weights that
were in force when it was asked for; a shadow's copies are drawn likewise. What is decided at an instant is decided by
rows that were asked for before it, and by labels that were known then.

Of what a past does not have, this is assumed: versions are ready at once, no request fails, and none is answered late.
So the guardrails of errors and latency wait until enough requests are counted, as live, and then pass.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from evergrow.backtest.past import DAY, Past, instant_of, microseconds, opened
from evergrow.backtest.tasks import PAST, Account, Work, by_day, opened_cut, scores, valued
from evergrow.contracts import EVENT_TIMESTAMP, Value
from evergrow.data.mixing import uniform
from evergrow.learning.losses import row_losses
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.performance import SCORE, VERSION
from evergrow.monitoring.truth import LABEL, LABEL_FIRST_KNOWN_AT, PREDICTION_ID
from evergrow.rollout import analysis, answers
from evergrow.rollout.analysis import Case, Told
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.gains import PROPENSITY, UNIT
from evergrow.rollout.machine import ENDS, Seen, advance, begin, moves_of
from evergrow.rollout.prior import Prior, decisive, prior
from evergrow.spec import ContinualModel
from evergrow.spec.model import Evaluation, Gate, Monitoring, Training, Worth
from evergrow.spec.retraining import Retraining
from evergrow.spec.rollout import BlueGreen, Rollout, RolloutSpec, RolloutStatus

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

CHAMPION, CHALLENGER = 1, 2
"""Versions, as a rollout's reasons have them: the same whichever policy asks, so that work is shared."""
SPEC = RolloutSpec(model="replayed", candidates=(CHALLENGER,))
READY = {CHAMPION: 1, CHALLENGER: 1}
LOOK = timedelta(minutes=10)
"""Least time between two looks at a rollout."""
RARER = 12
"""A look comes after one part in so many of the time since the rollout began, if that is more than LOOK: evidence
that has grown by less says little new, and every test may be looked at whenever one likes."""
FIRST = 8 * DAY
"""So much of a rollout is replayed at first, microseconds, and then as much again as it has come: many are superseded
by the training of a week later, and most have ended by then."""
DRAW, COPY = 0, 1
"""Streams of random numbers."""
POSITION = "position"
"""Column of the log: of the row in the past."""


class Share(Value):
    """What the challenger gets since an instant."""

    since: int = Field(description="microseconds since 1970")
    percent: int = Field(description="of the requests that it answers, 0 to 100")
    copies: int = Field(default=0, description="percent of the requests that it gets copies of, 0 to 100")


class Rolled(Value):
    """How far a rollout has come."""

    status: RolloutStatus = Field(description="the live machine's")
    looked: int = Field(description="when it was looked at last")
    shares: tuple[Share, ...] = Field(description="one after the other, since it began; the last holds on")

    @property
    def over(self) -> bool:
        """Whether it has ended, so that nothing changes any more."""
        return self.status.phase in ENDS


class Roll(Work):
    """A rollout is looked at again and again, until it ends or as far as is asked."""

    kind: ClassVar[str] = "roll"

    document: ContinualModel = Field(description="what the rollout is and what it goes by: of `compared`")
    champion: str = Field(description="key of the model that serves")
    rows: str = Field(description="of the cut that the champion was trained by, whose holdout plans the tests")
    challenger: str = Field(description="key of the model that is to take over")
    read: int = Field(description="answers since then are judged by, of before the rollout the champion's")
    began: int
    until: int = Field(description="all looks are earlier")
    look: timedelta
    seed: int
    before: Rolled | None = Field(default=None, description="what it goes on from; None: it begins")

    @classmethod
    def of(
        cls, document: ContinualModel, champion: str, rows: str, serves: int, challenger: str, began: int, until: int
    ) -> Self:
        """A rollout as a document wants it, from its beginning.

        Args:
            document: of the policy.
            champion: see the class.
            rows: see the class.
            serves: since when the champion does, microseconds since 1970.
            challenger: see the class.
            began: see the class.
            until: see the class, > began.
        """
        strategy = document.spec.rollout.strategy
        before = strategy.watch if isinstance(strategy, BlueGreen) else timedelta(0)
        return cls(
            document=compared(document), champion=champion, rows=rows, challenger=challenger,
            read=max(serves, began - _micro(before)), began=began,
            until=until, look=LOOK, seed=document.spec.training.seed,
        )  # fmt: skip

    def then(self, before: Rolled, until: int) -> Self:
        """The same rollout, gone on with."""
        return self.model_copy(update={"before": before, "until": until})

    def run(self, folder: Path) -> Rolled:
        """Look at it at each instant at which live tests might say something new."""
        witness = _Witness(folder, self)
        rolled = self.before or self._begun()
        while not rolled.over and (now := self._next(rolled)) < self.until:
            rolled = self._looked(witness, rolled, now)
        return rolled

    @property
    def how(self) -> Rollout:
        """Of the document."""
        return self.document.spec.rollout

    def _begun(self) -> Rolled:
        status = begin(SPEC, CHAMPION, instant_of(self.began))
        return self._advanced(Rolled(status=status, looked=self.began, shares=()), Evidence(), self.began)

    def _next(self, rolled: Rolled) -> int:
        """When to look again; the ends of what the machine waits for are met exactly."""
        now, status = rolled.looked, rolled.status
        following = now + max(_micro(self.look), (now - self.began) // RARER)
        due = [self.began + _micro(self.how.inconclusive_after)]
        if status.step_started is not None:
            move = moves_of(self.how, status)[status.step]
            due.append(microseconds(status.step_started) + _micro(move.duration))
        return min((one for one in due if now < one < following), default=following)

    def _looked(self, witness: _Witness, rolled: Rolled, now: int) -> Rolled:
        case = Case(
            self.document, self.how, rolled.status, CHAMPION, (CHALLENGER,), witness.prior, instant_of(now)
        )  # fmt: skip
        return self._advanced(rolled, witness.examine(case, rolled.shares, now), now)

    def _advanced(self, rolled: Rolled, evidence: Evidence, now: int) -> Rolled:
        seen = Seen(READY, evidence.requests, evidence.findings, shares=evidence.shares, best=evidence.best)
        status = advance(SPEC, self.how, rolled.status, seen, instant_of(now))
        share = Share(since=now, percent=status.weights.get(str(CHALLENGER), 0), copies=status.mirror_percent)
        last = [(one.percent, one.copies) for one in rolled.shares[-1:]]
        more = () if last == [(share.percent, share.copies)] else (share,)
        return Rolled(status=status, looked=now, shares=(*rolled.shares, *more))


def compared(document: ContinualModel) -> ContinualModel:
    """A document with what rollouts go by: what has no part in one must not make two of it."""
    spec = document.spec
    how = spec.rollout
    kept = spec.model_copy(
        update={
            "training": Training(estimator=spec.training.estimator),
            "evaluation": Evaluation(
                holdout=spec.evaluation.holdout, metrics=spec.evaluation.metrics,
                gate=Gate(metric=spec.evaluation.gate.metric),
            ),
            "monitoring": Monitoring(worth=spec.monitoring.worth),
            "retraining": Retraining(),
            "rollout": Rollout(
                strategy=how.strategy, analysis=how.analysis, inconclusive_after=how.inconclusive_after,
                on_inconclusive=how.on_inconclusive,
            ),
        }
    )  # fmt: skip
    return document.model_copy(update={"spec": kept})


class _Witness:
    """What is known of a rollout, by what the prediction log would have of it."""

    def __init__(self, folder: Path, roll: Roll) -> None:
        self.folder, self.roll, self.past = folder, roll, opened(folder / PAST)
        self.prior = _prior(folder, roll)
        self.log = answers.read(pd.DataFrame(), (), roll.how.analysis.block)
        self.following = self.past.between(0, roll.read).stop
        """The first row that is not in the log yet."""
        self.decided: tuple[datetime, Told] | None = None

    def examine(self, case: Case, shares: tuple[Share, ...], now: int) -> Evidence:
        """By all that was asked for before now, answered by these shares."""
        rows = self.past.between(0, now)
        if rows.stop > self.following:
            new = _answered(self.folder, self.past, self.roll, slice(self.following, rows.stop), shares)
            self.log = pd.concat([self.log, new], ignore_index=True) if len(self.log) else new
            self.following = rows.stop
        until = analysis.judged_until(case)
        if self.decided is None or self.decided[0] != until:
            self.decided = until, analysis.decided(case, self._labelled(case, until))
        told = analysis.together(analysis.guarded(case, self.log), self.decided[1])
        return analysis.with_counters(case, told, told.answered)

    def _labelled(self, case: Case, until: datetime) -> pd.DataFrame:
        """The rows whose time has come, with the labels that were known when it had."""
        due = self.log[self.log[EVENT_TIMESTAMP] < pd.Timestamp(until)]
        if not len(due):
            return due
        rows, as_of = due[POSITION].to_numpy(np.int64), microseconds(until + case.rollout.analysis.labels_within)
        span = slice(int(rows.min()), int(rows.max()) + 1)
        y, _ = self.past.labels(span, as_of)
        came = self.past.came(span)[rows - span.start]
        first = pd.Series(_instants(np.where(came <= as_of, came, 0)), index=due.index).where(came <= as_of)
        return due.assign(**{LABEL: y[rows - span.start], LABEL_FIRST_KNOWN_AT: first})


def _answered(folder: Path, past: Past, roll: Roll, rows: slice, shares: tuple[Share, ...]) -> pd.DataFrame:
    """What the prediction log has of some rows, as `answers.read` gives it."""
    position, asked = np.arange(rows.start, rows.stop), past.asked[rows]
    place = np.searchsorted([one.since for one in shares], asked, side="right")
    percent, copies = np.array([(0, 0), *((one.percent, one.copies) for one in shares)])[place].T
    old, new = (scores(folder, model, rows) for model in (roll.champion, roll.challenger))
    drawn = 100 * chance(roll.seed, DRAW, position) < percent
    copied = 100 * chance(roll.seed, COPY, position) < copies
    theirs = pd.DataFrame(
        {
            PREDICTION_ID: [f"{i}-0" for i in position], answers.ROUTE: answers.DRAWN, POSITION: position,
            VERSION: np.where(drawn, CHALLENGER, CHAMPION), SCORE: np.where(drawn, new, old),
            PROPENSITY: np.where(drawn, percent, 100 - percent) / 100,
        }
    )  # fmt: skip
    ours = pd.DataFrame(
        {
            PREDICTION_ID: [f"{i}c-0" for i in position[copied]], answers.ROUTE: answers.COPIED,
            POSITION: position[copied], VERSION: CHALLENGER, SCORE: new[copied], PROPENSITY: np.nan,
        }
    )  # fmt: skip
    both = pd.concat([theirs, ours], ignore_index=True) if copied.any() else theirs
    at = _instants(asked)[both[POSITION].to_numpy() - rows.start]
    logged = both.assign(
        **{EVENT_TIMESTAMP: at, answers.REQUEST_ID: both[POSITION], answers.LATENCY: 0.0}
    )  # fmt: skip
    found = answers.read(logged, (), roll.how.analysis.block)
    # Numbers of requests begin anew with each reading, and each row is of at most two.
    for column in (answers.REQUEST, UNIT):
        found[column] += 2 * rows.start
    return found


def chance(seed: int, stream: int, position: Numbers) -> Floats:
    """A number in [0, 1) for each row, the same whoever asks, [n].

    Args:
        seed: in [0, 2³²).
        stream: 0 or 1; numbers of different streams have nothing to do with each other.
        position: of the rows, ≥ 0, [n].
    """
    return uniform(seed << 1 | stream, [position.astype(np.uint64)], len(position))


def _prior(folder: Path, roll: Roll) -> Prior:
    """By the champion's held-out rows; without features, by which losses would be estimated."""
    if decisive(roll.how) is None:
        return Prior({})
    past, cut = opened(folder / PAST), opened_cut(folder, roll.rows)
    held, y, metric = cut["holdout"], cut["holdout_y"], roll.document.spec.evaluation.gate.metric
    score = scores(folder, roll.champion, held)
    frame = pd.DataFrame({EVENT_TIMESTAMP: _instants(past.asked[held])})
    baseline = Baseline.of((), (), frame, score, y, row_losses(metric, y, score))
    return prior(roll.document, roll.how, CHAMPION, {CHAMPION: baseline})


def _instants(asked: Numbers) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(asked.astype("datetime64[us]")).tz_localize("UTC")


def _micro(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


class Divide(Work):
    """Two models divide what is asked for in a stretch of time."""

    kind: ClassVar[str] = "divide"

    champion: str
    challenger: str
    cuts: tuple[int, int] = Field(description="as of when the data of each was known")
    shares: tuple[Share, ...] = Field(description="of the challenger, the first since `since`")
    since: int
    until: int
    metric: str
    worth: Worth | None

    def run(self, folder: Path) -> Account:
        """The expectation over who is drawn: each row's loss, worth and age by the shares when it was asked for."""
        past = opened(folder / PAST)
        rows = past.between(self.since, self.until)
        place = np.searchsorted([one.since for one in self.shares], past.asked[rows], side="right") - 1
        share = np.array([one.percent for one in self.shares])[place] / 100
        each = [
            valued(folder, model, cut, rows, self.metric, self.worth)
            for model, cut in zip((self.champion, self.challenger), self.cuts, strict=True)
        ]
        return by_day(past, rows, (1 - share) * each[0] + share * each[1])
