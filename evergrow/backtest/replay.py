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
from evergrow.backtest.tasks import Cut, Fit, Fitted, Judge, Select
from evergrow.backtest.work import Shared
from evergrow.contracts import Instant, Observation, ObservationKind, Value, Verdict
from evergrow.errors import SpecError
from evergrow.spec import ContinualModel
from evergrow.spec.policies import WhatIf
from evergrow.spec.retraining import DataChange, Performance
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
    rows: int = Field(description="fitted on")
    reason: str = Field(description="of the decision")
    verdict: Verdict = Field(description="of the gate; an error if nothing was fitted")


class Served(Value):
    """A model that served, until the next one did."""

    version: int = Field(description="its number in a registry, where all that was fitted is registered")
    since: Instant
    cut: Instant = Field(description="as of when its training data was known")
    model: str
    rows: str = Field(description="of the cut that it was trained by")


class Replayed(Value):
    """What became of a policy."""

    policy: str
    served: tuple[Served, ...]
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
    return Replayed(
        policy=policy.name, served=tuple(state.served), trainings=tuple(state.trainings),
        decisions=tuple(state.decisions),
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


@dataclass
class _State:
    """What has happened so far."""

    document: ContinualModel
    setting: Setting
    shared: Shared
    served: list[Served] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    decisions: list[Retrain] = field(default_factory=list)
    looks: dict[tuple[str, int, int], Harmed] = field(default_factory=dict)

    def step(self, number: int) -> None:
        """Decide at an instant, and act."""
        now = instant_of(self.setting.instants[number])
        decision = decide(self.document.name, self.document.spec.retraining, self._history(number, now), now)
        self.decisions.append(decision)
        if decision.train:
            self._train(now, decision.reason)

    def _history(self, number: int, now: datetime) -> History:
        champions = [Champion(one.version, one.cut, one.since) for one in self.served]
        trained = [Trained(one.began, one.ended, one.outcome, self._cost(one.rows)) for one in self.trainings]
        serving = [one for one in self.served if one.since <= now]
        looks = (Look(now, self._seen(number, serving[-1])),) if serving and self._looks else ()
        return History(champions, self.setting.past.first_known, looks, trained)

    def _cost(self, rows: int) -> float:
        return rows / 1e6 * self.setting.what_if.cpu_hours_per_million_rows

    def _train(self, now: datetime, reason: str) -> None:
        spec = self.document.spec
        training, metric = spec.training, spec.evaluation.gate.metric
        asked = Select.of(training, spec.task, metric, spec.evaluation.holdout, microseconds(now))
        cut = self.shared.do(asked, Cut)
        fitted = Fitted(fault=cut.fault)
        if not cut.fault:
            champion = self.served[-1].model if self.served else ""
            fitted = self.shared.do(Fit.of(cut, training, spec.task, metric, champion), Fitted)
        ended = now + self.setting.what_if.takes
        if fitted.fault:
            self._ended(now, ended, "failed", fitted, 0, reason, Verdict(outcome="error", reason=fitted.fault))
            return
        verdict = self._judged(cut, fitted)
        passed = verdict.outcome == "pass"
        self._ended(now, ended, "promoted" if passed else "rejected", fitted, cut.fit, reason, verdict)
        if passed:
            version = sum(one.outcome != "failed" for one in self.trainings)
            self.served.append(Served(version=version, since=ended, cut=now, model=fitted.model, rows=cut.rows))

    def _judged(self, cut: Cut, fitted: Fitted) -> Verdict:
        evaluation = self.document.spec.evaluation
        champion = self.served[-1].model if self.served else ""
        judge = Judge(
            rows=cut.rows, challenger=fitted.model, champion=champion, prior=0.0 if champion else fitted.prior,
            gate=evaluation.gate, task=self.document.spec.task, minimum_rows=evaluation.minimum_rows,
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
