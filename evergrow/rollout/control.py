"""The loop around the state machine: look, decide, write the decision down, then make the world so.

The status is written before anything is done, and all that is done follows from it (`evergrow.rollout.desired`): killed
between any two actions, the next look completes what is missing. Two of these loops at once do no harm: a status is
written only over the one that was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from evergrow.contracts import Route, instant
from evergrow.errors import EvergrowError, RolloutError, SpecError
from evergrow.ports import Champions, Clock, Fleet, Rollouts, Traffic, Witness
from evergrow.rollout.attempt import TRAINED_ON, Attempt
from evergrow.rollout.desired import DRAIN, answering, desired, kept
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.machine import ENDS, Order, Seen, advance, begin, next_weight
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import Finding, Rollout, RolloutStatus

LOOK = timedelta(seconds=2)
"""Between two looks at a rollout that is under way."""
TELL = timedelta(seconds=10)
"""Evidence that changes nothing is written down so often."""

Ready = Mapping[int, int]


class Controller:
    """Carries out the rollouts of models."""

    def __init__(
        self, rollouts: Rollouts, fleet: Fleet, traffic: Traffic, witness: Witness, champions: Champions, clock: Clock
    ) -> None:
        self.rollouts, self.fleet, self.traffic = rollouts, fleet, traffic
        self.witness, self.champions, self.clock = witness, champions, clock
        self._written: dict[str, datetime] = {}
        self._troubles: dict[tuple[str, str], str] = {}

    def reconcile(self, model: str) -> timedelta | None:
        """Take a model at most one move further, and make the world what the status of its rollouts says.

        Returns:
            When to look again at the latest; None: when something changes.

        Raises:
            EvergrowError: something that is needed refuses or does not answer; looking again is safe.
        """
        now, attempts = self.clock.now(), [*self.rollouts.attempts(model)]
        ready = self.fleet.ready(model)
        if not attempts or self._is_outlived(model, attempts):
            return self._without(model, attempts, ready)
        for i, attempt in enumerate(attempts):
            if not attempt.over:
                newer = "" if attempt is attempts[-1] else attempts[-1].name
                attempts[i] = self._decided(attempt, attempts[:i], ready, now, newer)
        self._make(attempts[-1], ready)
        for attempt in attempts:
            self._answered(attempt)
            if attempt.over:
                self.rollouts.release(attempt)
        if self._written.get(attempts[-1].name) == now or attempts[-1].over:
            self.rollouts.report(model, model_status(attempts, ready))
        again = self._stopped(model, attempts, now)
        self._record(model, attempts[-1])
        return again

    # -- what is decided --

    def _decided(self, attempt: Attempt, before: Sequence[Attempt], ready: Ready, now: datetime, newer: str) -> Attempt:
        """The attempt with its next status, which is written down if it is news."""
        status = attempt.status if attempt.begun else self._begun(attempt, before, now)
        order = self._order(attempt)
        if newer or order == "abort":
            # They win at once, and what was found before stays on record.
            evidence = Evidence(findings=tuple(f for f in status.findings if f.outcome != "fail"))
        else:
            evidence = self._evidence(attempt, status, now)
        seen = Seen(
            ready,
            evidence.requests,
            evidence.findings,
            order,
            attempt.ordered_by,
            newer,
            evidence.shares,
            evidence.best,
        )
        after = advance(attempt.document.spec, _how(status), status, seen, now)
        after = after.model_copy(update={"split": _split(after)})
        if not self._is_news(attempt, after, now):
            return attempt.becoming(after)
        written = self.rollouts.write(attempt, after)
        self._written[attempt.name] = now
        self._announce(attempt, after)
        return written

    def _begun(self, attempt: Attempt, before: Sequence[Attempt], now: datetime) -> RolloutStatus:
        """Its first status: from what serves by the rollouts before it, and how the documents say now."""
        spec = attempt.document.spec
        how = spec.rollout
        if how is None:
            document = self.rollouts.model(spec.model)
            if document is None:
                raise RolloutError(
                    f"rollout {attempt.name}: spec.model must name a ContinualModel, found none named {spec.model}",
                    hint="apply the model's document, then it goes on",
                )
            how = document.spec.rollout
        stable = self._serving(spec.model, before)
        status = begin(spec, stable, now).model_copy(update={"rollout": how})
        told = ""
        if stable in spec.candidates:
            told = f"version {stable} serves already"
        elif how.sticky and not self.traffic.can_stick:
            told = f"`sticky` must be empty here: the gateway keeps no caller to a version, found {list(how.sticky)}"
        elif len(spec.candidates) > 1 and how.strategy.kind != "bandit":
            told = f"`candidates` must be one but for a bandit, found {list(spec.candidates)} for {how.strategy.kind}"
        return status.model_copy(update={"phase": "Aborted", "ended": now, "reason": told}) if told else status

    def _serving(self, model: str, before: Sequence[Attempt]) -> int | None:
        begun = [attempt for attempt in before if attempt.begun]
        if begun and not self._is_outlived(model, begun):
            return answering(begun[-1].status)
        serves, reported = self.champions.serving(model), self.rollouts.reported(model)
        return reported.serving if serves is None and reported else serves

    def _is_outlived(self, model: str, attempts: Sequence[Attempt]) -> bool:
        """Whether what serves does so by a rollout that somebody has deleted since: history is not what serves."""
        reported, ended = self.rollouts.reported(model), attempts[-1].status.ended
        if reported is None or reported.since is None or ended is None:
            return False
        return reported.rollout not in {one.name for one in attempts} and ended < reported.since

    def _order(self, attempt: Attempt) -> Order | None:
        try:
            return attempt.order
        except SpecError as wrong:
            self._trouble(attempt, "OrderUnknown", wrong)
            return None

    def _evidence(self, attempt: Attempt, status: RolloutStatus, now: datetime) -> Evidence:
        """What is known of the candidates; what cannot be read is an error, which nothing is promoted on."""
        if status.step_started is None or status.phase in ENDS:
            return Evidence()
        try:
            document = self.rollouts.model(attempt.document.spec.model)
            if document is None:
                raise RolloutError(f"there is no ContinualModel named {attempt.document.spec.model} any more")
            found = self.witness.examine(document, attempt, now)
        except EvergrowError as error:
            self._trouble(attempt, "EvidenceMissing", error)
            told = str(error)
            alive = [one for one in attempt.document.spec.candidates if one not in status.dropped]
            return Evidence(
                findings=tuple(Finding(check="evidence", candidate=c, outcome="error", reason=told) for c in alive)
            )
        self._troubles.pop((attempt.name, "EvidenceMissing"), None)
        return found

    def _is_news(self, attempt: Attempt, after: RolloutStatus, now: datetime) -> bool:
        """Whether it is to be written: at once what changes something, from time to time what is only known better."""
        if after == attempt.status:
            return False
        same = {"findings": attempt.status.findings, "reason": attempt.status.reason}
        last = self._written.get(attempt.name)
        return after.model_copy(update=same) != attempt.status or last is None or not timedelta(0) <= now - last < TELL

    def _announce(self, attempt: Attempt, after: RolloutStatus) -> None:
        before = attempt.status
        for version in sorted({*after.dropped} - {*before.dropped}):
            failed = [f for f in after.findings if f.candidate == version and f.outcome == "fail"]
            told = "; ".join(f"{one.check}: {one.reason}" for one in failed)
            self.rollouts.tell(attempt, "Dropped", f"version {version} is dropped: {told}", warning=True)
        if not attempt.begun and after.phase == "Pending":
            self.rollouts.tell(attempt, "Started", f"{after.reason}; until then {after.split or 'nobody answers'}")
        elif after.phase != before.phase or (after.step, after.weights) != (before.step, before.weights):
            bad = after.phase in ("Aborted", "Paused")
            self.rollouts.tell(attempt, after.phase, f"{after.split or 'nobody'}: {after.reason}", warning=bad)

    def _trouble(self, attempt: Attempt, reason: str, error: EvergrowError) -> None:
        """Say it once, until it is another."""
        if self._troubles.get((attempt.name, reason)) != str(error):
            self.rollouts.tell(attempt, reason, str(error), warning=True)
            self._troubles[attempt.name, reason] = str(error)

    def _answered(self, attempt: Attempt) -> None:
        """Take away an order that was carried out, or came when all was over."""
        order = self._order(attempt)
        if order is not None and _is_carried_out(order, attempt.status):
            self.rollouts.fulfil(attempt)

    # -- what is done --

    def _make(self, attempt: Attempt, ready: Ready) -> None:
        """Have the world be what the status says, first who answers."""
        spec, status = attempt.document.spec, attempt.status
        following = 100 if self._order(attempt) == "promote" else next_weight(_how(status), status)
        wanted = desired(spec, _how(status), status, ready, following)
        if wanted.route is not None and self.traffic.read(spec.model) != wanted.route:
            self.traffic.apply(wanted.route)
        serves = answering(status)
        if serves is not None and not ready.get(serves):
            self.fleet.ensure(spec.model, serves, 1)
        for version, replicas in wanted.replicas.items():
            self.fleet.ensure(spec.model, version, replicas)

    def _record(self, model: str, decided: Attempt) -> None:
        """Have a promotion on record: last, for a registry that is away must not keep anything else from being done."""
        if decided.status.winner is None or decided.status.recorded is not None:
            return
        # Since it was decided on, its order was taken away, and what kept it from being deleted.
        attempt = next((one for one in self.rollouts.attempts(model) if one.name == decided.name), None)
        if attempt is None or attempt.status.winner is None or attempt.status.recorded is not None:
            return
        why = (f"rollout {attempt.name}", attempt.document.spec.reason, attempt.status.reason)
        self.champions.promote(model, attempt.status.winner, ": ".join(filter(None, why)))
        self.rollouts.write(attempt, attempt.status.model_copy(update={"recorded": self.clock.now()}))

    def _stopped(self, model: str, attempts: Sequence[Attempt], now: datetime) -> timedelta | None:
        """Stop what nobody needs any more; returns when to look again."""
        newest = attempts[-1].status
        if newest.ended is None:
            return LOOK
        until: dict[int, datetime | None] = {}
        for attempt in attempts:
            for version, end in kept(attempt.document.spec, _how(attempt.status), attempt.status).items():
                if end is not None:
                    until[version] = max(end, until.get(version) or end)
        if (serves := answering(newest)) is not None:
            until[serves] = None
        if now >= newest.ended + DRAIN:
            self.fleet.keep(model, frozenset(v for v, end in until.items() if end is None or end > now))
        ends = [end for end in (*until.values(), newest.ended + DRAIN) if end is not None and end > now]
        return max(min(ends) - now, LOOK) if ends else None

    def _without(self, model: str, attempts: Sequence[Attempt], ready: Ready) -> timedelta | None:
        """What serves by no rollout that is known goes on serving."""
        for attempt in attempts:
            self._answered(attempt)
            self.rollouts.release(attempt)
        serves, before = self._serving(model, attempts), self.rollouts.reported(model) or ModelStatus()
        if serves is None:
            self.rollouts.report(model, before.model_copy(update={"phase": "Pending", "serving": None}))
            return None
        phase = "Serving" if ready.get(serves) else "Degraded"
        self.rollouts.report(model, before.model_copy(update={"phase": phase, "serving": serves, "candidate": None}))
        if not ready.get(serves):
            self.fleet.ensure(model, serves, 1)
            return LOOK
        found, route = self.traffic.read(model), Route(model=model, weights={serves: 100}, warm=(serves,))
        if found is None or found.weights != route.weights:
            self.traffic.apply(route)
        return None


def model_status(attempts: Sequence[Attempt], ready: Ready) -> ModelStatus:
    """What has become of a model, by its rollouts in the order in which they were asked for, at least one."""
    newest = attempts[-1].status
    serves = answering(newest)
    trained = (a.document.metadata.annotations.get(TRAINED_ON) for a in attempts if a.status.winner == serves)
    alive = [one for one in attempts[-1].document.spec.candidates if one not in newest.dropped]
    phases: dict[str, Literal["Paused", "RollingOut"]] = {"Paused": "Paused", "Progressing": "RollingOut"}
    phase: Any = "Pending" if serves is None else phases.get(newest.phase, "Serving")
    if serves is not None and not ready.get(serves):
        phase = "Degraded"
    return ModelStatus(
        phase=phase,
        serving=serves,
        rollout=attempts[-1].name if newest.ended else "",
        since=newest.ended,
        candidate=alive[0] if alive and newest.ended is None else None,
        trained_on=next((instant(told) for told in trained if told), None),
        decision=f"{attempts[-1].name}: {newest.phase}: {newest.reason}",
    )


def _how(status: RolloutStatus) -> Rollout:
    return status.rollout or Rollout()


def _split(status: RolloutStatus) -> str:
    """Who answers, for people: "v3 75 / v4 25"."""
    shares = " / ".join(f"v{version} {weight}" for version, weight in status.weights.items() if weight)
    return shares + (f", copies to v{status.mirror}" if status.mirror is not None else "")


def _is_carried_out(order: Order, status: RolloutStatus) -> bool:
    if status.phase in ENDS:
        return True
    return {"pause": status.phase == "Paused", "resume": status.phase != "Paused"}.get(order, False)
