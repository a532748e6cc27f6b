"""One policy, replayed: decided at each instant by what was known then, as a live loop decides."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import Field

from evergrow.backtest.looks import Drift, Drifted, Harm, Harmed, Mature, Matured
from evergrow.backtest.past import Past, instant_of, microseconds
from evergrow.backtest.policies import Policy
from evergrow.backtest.rolls import FIRST, Roll, Rolled, Share
from evergrow.backtest.tasks import Cut, Fit, Fitted, Judge, Select
from evergrow.backtest.work import Shared
from evergrow.contracts import Instant, Observation, ObservationKind, Value, Verdict
from evergrow.errors import SpecError
from evergrow.spec import ContinualModel
from evergrow.spec.policies import WhatIf
from evergrow.spec.retraining import DataChange, Performance
from evergrow.spec.rollout import Phase
from evergrow.triggers.decide import Retrain, decide
from evergrow.triggers.history import Champion, Ending, History, Look, Trained

STRETCH = 28
"""Instants that monitoring is replayed for at once."""
SEEN: tuple[ObservationKind, ...] = ("feature-drift", "label-drift")
"""Kinds of drift that are replayed."""


@dataclass(frozen=True)
class Setting:
    """What all policies share.

    Attributes:
        past: what happened.
        instants: at which is decided, microseconds since 1970, rising.
        what_if: in what the past is taken to have been another.
    """

    past: Past
    instants: Sequence[int]
    what_if: WhatIf


class Training(Value):
    """A training that a policy began."""

    began: Instant
    ended: Instant
    outcome: Ending
    model: str = Field(description="key of what was fitted; empty: nothing was")
    rows: int = Field(description="fitted on, by a control, too")
    reason: str = Field(description="of the decision")
    verdict: Verdict = Field(description="of the gate; an error if nothing was fitted")
    sent_back: Instant | None = Field(default=None, description="when a rollout took its version back; None: none did")


class Served(Value):
    """A model that was the champion, until the next one was."""

    version: int = Field(description="its number in a registry, where all that was fitted is registered")
    since: Instant
    cut: Instant = Field(description="as of when its training data was known")
    model: str
    rows: str = Field(description="of the cut that it was trained by")


class Attempt(Value):
    """A rollout that was begun, and what became of it."""

    version: int = Field(description="the challenger")
    model: str = Field(description="its key")
    cut: Instant = Field(description="as of when its training data was known")
    began: Instant
    ended: Instant | None = Field(description="when it ended or was superseded; None: it was under way to the last")
    phase: Phase
    reason: str = Field(description="in it version 1 is the champion, and 2 the challenger")
    shares: tuple[Share, ...] = Field(description="that the challenger got, the first since it began")


class Replayed(Value):
    """What became of a policy."""

    policy: str
    served: tuple[Served, ...]
    rollouts: tuple[Attempt, ...]
    trainings: tuple[Training, ...]
    decisions: tuple[Retrain, ...]


def replay(policy: Policy, setting: Setting, shared: Shared, stepped: Callable[[], None] = lambda: None) -> Replayed:
    """Decide at each instant, and train, judge and promote as was decided.

    Args:
        policy: one way to keep the model.
        setting: what all policies share.
        shared: does what costs time.
        stepped: is called after each instant.

    Raises:
        SpecError: the policy goes by what is not replayed.
    """
    check(policy)
    state = _State(policy.document, setting, shared)
    for number in range(len(setting.instants)):
        state.step(number)
        stepped()
    state.close()
    return Replayed(
        policy=policy.name, served=tuple(state.served), rollouts=tuple(state.rollouts),
        trainings=tuple(state.trainings), decisions=tuple(state.decisions),
    )  # fmt: skip


def check(policy: Policy) -> None:
    """Refuse what cannot be replayed.

    Raises:
        SpecError: names it.
    """
    for i, trigger in enumerate(policy.document.spec.retraining.triggers):
        where = f"policy {policy.name}: spec.retraining.triggers[{i}]"
        if isinstance(trigger, Performance) and trigger.by != ("realised",):
            raise SpecError(f"{where}.by: a backtest replays realised performance only, found {', '.join(trigger.by)}")
        if isinstance(trigger, DataChange) and not set(trigger.of) & set(SEEN):
            told = f"a backtest replays {' and '.join(SEEN)} only, found {', '.join(trigger.of)}"
            raise SpecError(f"{where}.of: {told}")
    how, where = policy.document.spec.rollout, f"policy {policy.name}: spec.rollout"
    if how.sticky:
        raise SpecError(f"{where}.sticky: must be empty, a backtest draws each request, found {', '.join(how.sticky)}")
    if how.analysis.decides == "estimate":
        raise SpecError(f"{where}.analysis.decides: a backtest replays what labels and guardrails say, found estimate")


@dataclass
class _Rolling:
    """A rollout that is under way, or about to begin.

    Attributes:
        new: the challenger, since the rollout begins.
        roll: as far as it was replayed.
        rolled: what came of that; None: it was not begun.
    """

    new: Served
    roll: Roll
    rolled: Rolled | None = None

    def until(self, now: int, end: int, shared: Shared) -> Rolled:
        """How far it has come by an instant, or by a later one before the end.

        Args:
            now: not before it begins, and before the end.
            end: nothing is replayed from then on.
            shared: does what costs time.
        """
        rolled = self.rolled or shared.do(self.roll, Rolled)
        while not rolled.over and self.roll.until <= now:
            following = min(2 * self.roll.until - self.roll.began, end)
            self.roll = self.roll.then(rolled, following)
            rolled = shared.do(self.roll, Rolled)
        self.rolled = rolled
        return rolled


@dataclass
class _State:
    """What has happened so far."""

    document: ContinualModel
    setting: Setting
    shared: Shared
    served: list[Served] = field(default_factory=list)
    rollouts: list[Attempt] = field(default_factory=list)
    rolling: _Rolling | None = None
    trainings: list[Training] = field(default_factory=list)
    decisions: list[Retrain] = field(default_factory=list)
    looks: dict[tuple[str, int, int], Harmed] = field(default_factory=dict)

    def step(self, number: int) -> None:
        """Decide at an instant, and act."""
        now = instant_of(self.setting.instants[number])
        self._settle(now)
        decision = decide(self.document.name, self.document.spec.retraining, self._history(number, now), now)
        self.decisions.append(decision)
        if decision.train:
            self._train(now, decision.reason)

    def _history(self, number: int, now: datetime) -> History:
        champions = [Champion(one.version, one.cut, one.since) for one in self.served]
        trained = [
            Trained(one.began, one.ended, one.outcome, self._cost(one.rows), one.sent_back) for one in self.trainings
        ]
        serving = [one for one in self.served if one.since <= now]
        looks = (Look(now, self._seen(number, serving[-1])),) if serving and self._looks else ()
        return History(champions, self.setting.past.first_known, looks, trained)

    def _cost(self, rows: int) -> float:
        return rows / 1e6 * self.setting.what_if.cpu_hours_per_million_rows

    def _train(self, now: datetime, reason: str) -> None:
        spec = self.document.spec
        metric, holdout, references = spec.evaluation.gate.metric, spec.evaluation.holdout, spec.evaluation.references
        asked = Select.of(spec.training, spec.task, metric, holdout, microseconds(now), references)
        cut = self.shared.do(asked, Cut)
        fitted, control = (Fitted(fault=cut.fault), Fitted()) if cut.fault else self._fitted(cut)
        ended = now + self.setting.what_if.takes
        if fitted.fault:
            self._ended(now, ended, "failed", fitted, 0, reason, Verdict(outcome="error", reason=fitted.fault))
            return
        # Judged is at the end, against whom a rollout has promoted by then.
        self._settle(min(ended, instant_of(self.setting.instants[-1])))
        verdict = self._judged(cut, fitted, control)
        passed, rows = verdict.outcome == "pass", cut.fit * (2 if control.model else 1)
        self._ended(now, ended, "promoted" if passed else "rejected", fitted, rows, reason, verdict)
        if passed:
            version = sum(one.outcome != "failed" for one in self.trainings)
            self._take_over(Served(version=version, since=ended, cut=now, model=fitted.model, rows=cut.rows))

    def _fitted(self, cut: Cut) -> tuple[Fitted, Fitted]:
        """What the rows of a cut come to, and the control of an update that has one: a refit, as of other policies."""
        spec = self.document.spec
        metric, champion = spec.evaluation.gate.metric, self.served[-1].model if self.served else ""
        refit, fit = (Fit.of(cut, spec.training, spec.task, metric, before) for before in ("", champion))
        if not fit.ancestor or spec.training.update.control is None:
            return self.shared.do(fit, Fitted), Fitted()
        control = self.shared.do(refit, Fitted)
        return control if control.fault else self.shared.do(fit, Fitted), control

    def _judged(self, cut: Cut, fitted: Fitted, control: Fitted) -> Verdict:
        evaluation, wanted = self.document.spec.evaluation, self.document.spec.training.update.control
        champion = self.served[-1].model if self.served else ""
        judge = Judge(
            rows=cut.rows, challenger=fitted.model, champion=champion, prior=0.0 if champion else fitted.prior,
            control=control.model, tolerance=wanted.tolerance if wanted is not None and control.model else 0.0,
            gate=evaluation.gate, task=self.document.spec.task, minimum_rows=evaluation.minimum_rows,
            references=evaluation.references,
        )  # fmt: skip
        return self.shared.do(judge, Verdict)

    def _ended(
        self, began: datetime, ended: datetime, outcome: Ending, fitted: Fitted, rows: int, reason: str,
        verdict: Verdict,
    ) -> None:  # fmt: skip
        self.trainings.append(
            Training(
                began=began, ended=ended, outcome=outcome, model=fitted.model, rows=rows, reason=reason,
                verdict=verdict,
            )
        )  # fmt: skip

    # -- rollouts ------------------------------------------------------------------------------------------------------

    def _take_over(self, new: Served) -> None:
        """Have a version that has passed serve, or begin its rollout, which supersedes one that is under way."""
        if self.rolling is not None:
            self._over("Superseded", f"version {new.version} was asked for later", new.since)
        champion = self.served[-1] if self.served else None
        single = self.document.spec.rollout.strategy.kind == "single"
        if single or champion is None or champion.model == new.model:
            self.served.append(new)
            return
        began = microseconds(new.since)
        roll = Roll.of(
            self.document, champion.model, champion.rows, microseconds(champion.since), new.model, began,
            min(began + FIRST, self._end),
        )  # fmt: skip
        self.rolling = _Rolling(new, roll)

    def _settle(self, now: datetime) -> None:
        """Go on with the rollout that is under way; whom it has promoted by an instant is the champion since then."""
        if self.rolling is None or now < self.rolling.new.since:
            return
        status, new = self.rolling.until(microseconds(now), self._end, self.shared).status, self.rolling.new
        if status.ended is None or status.ended > now:
            return
        self._over(status.phase, status.reason, status.ended)
        if status.phase == "Promoted":
            self.served.append(new.model_copy(update={"since": status.ended}))
        else:
            # It is of the newest training that passed, whose rollout would have superseded an earlier one.
            place = max(i for i, one in enumerate(self.trainings) if one.outcome == "promoted")
            self.trainings[place] = self.trainings[place].model_copy(update={"sent_back": status.ended})

    def close(self) -> None:
        """Put on record what is under way at the last."""
        if self.rolling is not None and self.rolling.rolled is not None:
            status = self.rolling.rolled.status
            self._over(status.phase, status.reason, None)

    def _over(self, phase: Phase, reason: str, ended: datetime | None) -> None:
        """Put the rollout that is under way on record, as far as it came."""
        assert self.rolling is not None
        assert self.rolling.rolled is not None
        new, until = self.rolling.new, self._end if ended is None else microseconds(ended)
        self.rollouts.append(
            Attempt(
                version=new.version, model=new.model, cut=new.cut, began=new.since, ended=ended, phase=phase,
                reason=reason, shares=tuple(one for one in self.rolling.rolled.shares if one.since < until),
            )
        )  # fmt: skip
        self.rolling = None

    @property
    def _end(self) -> int:
        """Nothing is replayed from then on: right after the last instant at which is decided."""
        return self.setting.instants[-1] + 1

    # -- monitoring ----------------------------------------------------------------------------------------------------

    @property
    def _looks(self) -> bool:
        """Whether any trigger goes by what monitoring sees."""
        return any(isinstance(one, Performance | DataChange) for one in self.document.spec.retraining.triggers)

    def _seen(self, number: int, serving: Served) -> tuple[Observation, ...]:
        """What monitoring sees of the version that serves."""
        return (*self._harm(number, serving), *self._drift(number, serving))

    def _harm(self, number: int, serving: Served) -> Iterator[Observation]:
        if any(isinstance(one, Performance) for one in self.document.spec.retraining.triggers):
            stretch, place = divmod(number, STRETCH)
            observed = self._harmed(serving, stretch).seen[place - self._first(serving, stretch)]
            if observed is not None:
                yield observed

    def _harmed(self, serving: Served, stretch: int) -> Harmed:
        """Of a stretch of instants; each goes on from the one before."""
        since = microseconds(serving.since)
        key = serving.model, since, stretch
        if key not in self.looks:
            began = self._began(serving)
            before = self._harmed(serving, stretch - 1).carry if stretch > began // STRETCH else None
            rule, instants = self.document.spec.monitoring, self._stretch(stretch)
            first = self._first(serving, stretch)
            asked = Harm(
                name=self.document.name, model=serving.model, rows=serving.rows, since=since,
                instants=instants[first:], matured=self._matured(stretch).days[first:],
                metric=self.document.spec.evaluation.gate.metric, margin=rule.harm,
                alarms_per_month=rule.false_alarms_per_month, carry=before,
            )  # fmt: skip
            self.looks[key] = self.shared.do(asked, Harmed)
        return self.looks[key]

    def _drift(self, number: int, serving: Served) -> tuple[Observation, ...]:
        wanted = {
            kind for one in self.document.spec.retraining.triggers if isinstance(one, DataChange) for kind in one.of
        }
        kinds = tuple(kind for kind in SEEN if kind in wanted)
        if not kinds:
            return ()
        stretch, place = divmod(number, STRETCH)
        rule = self.document.spec.monitoring
        asked = Drift(
            name=self.document.name, rows=serving.rows, instants=self._stretch(stretch),
            matured=self._matured(stretch).days, of=kinds, threshold=rule.drift,
            alarms_per_month=rule.false_alarms_per_month,
        )  # fmt: skip
        return self.shared.do(asked, Drifted).observations(place)

    def _matured(self, stretch: int) -> Matured:
        rule = self.document.spec.monitoring
        return self.shared.do(
            Mature(instants=self._stretch(stretch), share=rule.matured, history=rule.history), Matured
        )

    def _stretch(self, stretch: int) -> tuple[int, ...]:
        return tuple(self.setting.instants[stretch * STRETCH : (stretch + 1) * STRETCH])

    def _began(self, serving: Served) -> int:
        """Number of the first instant at which it served."""
        return bisect_left(self.setting.instants, microseconds(serving.since))

    def _first(self, serving: Served, stretch: int) -> int:
        """Place within a stretch of the first instant at which it served."""
        return max(0, self._began(serving) - stretch * STRETCH)


def instants(since: datetime, until: datetime, every: timedelta) -> list[int]:
    """When is decided: since, and then every so often, up to until."""
    first, last, step = microseconds(since), microseconds(until), round(every / timedelta(microseconds=1))
    return list(range(first, last + 1, step))
