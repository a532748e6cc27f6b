"""The state machine of a rollout: status x what is seen x now -> status. Pure, and the same however often it is asked.

Nothing promotes on silence: a version is promoted when all that the strategy's last move waits for has passed, or by
somebody's order. A candidate that fails a check is dropped, and without any left the rollout is aborted. What is
inconclusive waits, and after a time asks people. An order to abort wins from every state at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from evergrow.rollout import ab_test, bandit, blue_green, canary, shadow, single
from evergrow.rollout.desired import covering, in_proportion
from evergrow.rollout.moves import Move
from evergrow.spec.base import write_duration
from evergrow.spec.rollout import Finding, Phase, Rollout, RolloutSpec, RolloutStatus

Order = Literal["pause", "resume", "promote", "abort"]
ENDS: tuple[Phase, ...] = ("Promoted", "Aborted", "Superseded")
GUARDRAILS = ("sample ratio", "errors", "latency", "score shift", "paired scores")
"""Checks that need no labels and may abort at any time."""

_STRATEGIES: Mapping[str, Callable[[Any, Any], tuple[Move, ...]]] = {
    "single": single.moves,
    "shadow": shadow.moves,
    "canary": canary.moves,
    "blue-green": blue_green.moves,
    "ab-test": ab_test.moves,
    "bandit": bandit.moves,
}


@dataclass(frozen=True)
class Seen:
    """What is seen of the world.

    Attributes:
        ready: ready replicas by version; versions that have none may be left out.
        requests: that each candidate answered, or got copies of, since the move began.
        findings: what the checks say now.
        order: what somebody asks for.
        by: who.
        newer: name of a rollout of the same model that was asked for later.
        shares: percent by version that a bandit's evidence asks for.
        best: the version that a bandit is sure of.
    """

    ready: Mapping[int, int] = field(default_factory=dict)
    requests: Mapping[int, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    order: Order | None = None
    by: str = ""
    newer: str = ""
    shares: Mapping[int, int] | None = None
    best: int | None = None


def begin(spec: RolloutSpec, stable: int | None, now: datetime) -> RolloutStatus:
    """The status of a rollout that was just asked for.

    Args:
        spec: what is rolled out.
        stable: the version that serves; None: none does.
        now: the instant.
    """
    weights = {} if stable is None else {str(stable): 100}
    told = f"waits for {_named(spec.candidates)} to be ready"
    return RolloutStatus(stable=stable, weights=weights, started=now, patient_since=now, reason=told)


def moves_of(rollout: Rollout, status: RolloutStatus) -> tuple[Move, ...]:
    """The moves that a rollout makes; without a version to compare with, none."""
    strategy = rollout.strategy
    return () if status.stable is None else _STRATEGIES[strategy.kind](strategy, rollout.analysis)


def next_weight(rollout: Rollout, status: RolloutStatus) -> int:
    """Percent that a candidate is to answer next, for which it must have the replicas first."""
    if status.phase in ENDS:
        return 0
    moves, at = moves_of(rollout, status), _at(status)
    return moves[at + 1].weight if at + 1 < len(moves) else 100


def advance(spec: RolloutSpec, rollout: Rollout, status: RolloutStatus, seen: Seen, now: datetime) -> RolloutStatus:
    """The next status, at most one move further.

    Args:
        spec: what is rolled out.
        rollout: how.
        status: what it was; `begin`'s at first.
        seen: what is seen of the world.
        now: the instant; one before an earlier one makes nothing happen sooner.
    """
    if status.phase in ENDS:
        return status
    status = _with(status, findings=tuple(seen.findings))
    if seen.order == "abort":
        return _back(status, "Aborted", f"aborted by {seen.by or 'order'}", now)
    if seen.newer:
        return _back(status, "Superseded", f"{seen.newer} was asked for later", now)
    status = _without_failed(spec, status)
    alive = [one for one in spec.candidates if one not in status.dropped]
    if not alive:
        return _back(status, "Aborted", _failed(seen.findings), now)
    status = _paused_or_resumed(status, seen, now)
    if lacking := _lacking(seen, alive):
        return _unready(rollout, status, lacking, now)
    status = _with(status, unready_since=None)
    if seen.order == "promote":
        return _promoted(status, _winner(seen, alive), f"promoted by {seen.by or 'order'}", seen, now)
    if status.phase == "Paused":
        return status
    if status.phase == "Pending":
        return _entered(rollout, status, seen, alive, 0, now)
    return _judged(rollout, status, seen, alive, now)


def _paused_or_resumed(status: RolloutStatus, seen: Seen, now: datetime) -> RolloutStatus:
    """As somebody asks; one that is resumed has all the time again."""
    if seen.order == "pause" and status.phase != "Paused":
        return _with(status, phase="Paused", reason=f"paused by {seen.by or 'order'}")
    if seen.order == "resume" and status.phase == "Paused":
        phase = "Pending" if status.step_started is None else "Progressing"
        return _with(status, phase=phase, patient_since=now, reason=f"resumed by {seen.by or 'order'}")
    return status


def _judged(rollout: Rollout, status: RolloutStatus, seen: Seen, alive: Sequence[int], now: datetime) -> RolloutStatus:
    """Leave the move if nothing is unmet; if something has been for too long, ask people."""
    move = moves_of(rollout, status)[status.step]
    if move.shared is not None and seen.best == status.stable:
        return _back(status, "Aborted", _told(seen.findings) or f"version {status.stable} is the best", now)
    unmet = [*_unmet(move, rollout, status, seen, alive, now)]
    if not unmet:
        return _entered(rollout, status, seen, alive, status.step + 1, now)
    why = "waits: " + "; ".join(unmet)
    if status.patient_since and now - status.patient_since >= rollout.inconclusive_after:
        why = f"inconclusive after {write_duration(rollout.inconclusive_after)}: " + "; ".join(unmet)
        if rollout.on_inconclusive == "abort":
            return _back(status, "Aborted", why, now)
        return _with(status, phase="Paused", reason=why)
    status = _with(status, reason=why)
    return _shared(move, status, seen, alive, now) if move.shared is not None else status


def _unmet(
    move: Move, rollout: Rollout, status: RolloutStatus, seen: Seen, alive: Sequence[int], now: datetime
) -> Iterator[str]:
    """What the move still waits for, each with both numbers."""
    if move.shared is not None:
        if seen.best not in alive:
            yield "no version is surely the best yet"
        return
    lasted = now - (status.step_started or now)
    if lasted < move.duration:
        yield f"{write_duration(max(lasted, type(lasted)(0)))} of {write_duration(move.duration)}"
    for one in alive:
        answered = seen.requests.get(one, 0)
        if answered < move.requests:
            yield f"version {one} has {answered:,} of {move.requests:,} requests"
        if move.weight or move.mirror:
            yield from _unproved(move, [f for f in seen.findings if f.candidate == one])
        wanted = covering(status.stable, seen.ready, next_weight(rollout, status))
        if seen.ready.get(one, 0) < wanted:
            yield f"version {one} has {seen.ready.get(one, 0)} of {wanted} replicas ready for the next share"


def _unproved(move: Move, findings: Sequence[Finding]) -> Iterator[str]:
    """Checks that are missing or have not passed, as far as the move asks for them."""
    guards = [one for one in findings if one.check in GUARDRAILS]
    accepted = ("pass",) if move.passes else ("pass", "inconclusive")
    if not guards:
        yield "no guardrail has said anything yet"
    yield from (f"{one.check} is {one.outcome}: {one.reason}" for one in guards if one.outcome not in accepted)
    if move.passes in (None, "guardrails"):
        return
    decisive = [one for one in findings if one.check == move.passes]
    if not decisive:
        yield f"{move.passes} has not said anything yet"
    yield from (f"{one.check} is {one.outcome}: {one.reason}" for one in decisive if one.outcome != "pass")


def _entered(
    rollout: Rollout, status: RolloutStatus, seen: Seen, alive: Sequence[int], step: int, now: datetime
) -> RolloutStatus:
    """Begin a move, once there are replicas for it; after the last, promote."""
    moves = moves_of(rollout, status)
    if step >= len(moves):
        winner = _winner(seen, alive)
        return _promoted(status, winner, _why(seen.findings, winner), seen, now)
    move = moves[step]
    for one in alive:
        wanted = covering(status.stable, seen.ready, move.weight)
        if seen.ready.get(one, 0) < wanted:
            return _with(status, reason=f"version {one} has {seen.ready.get(one, 0)} of {wanted} replicas ready")
    told = f"move {step + 1} of {len(moves)}: {move.weight} % of requests, copies of {move.mirror} %"
    return _with(
        status,
        phase="Progressing",
        step=step,
        step_started=now,
        weights=_equal(status, alive) if move.shared is not None else _weights(status, alive[0], move.weight),
        mirror=alive[0] if move.mirror else None,
        mirror_percent=move.mirror,
        reason=told,
    )


def _shared(move: Move, status: RolloutStatus, seen: Seen, alive: Sequence[int], now: datetime) -> RolloutStatus:
    """Set the shares that the evidence asks for, when it is time."""
    due = status.step_started is None or move.shared is None or now - status.step_started >= move.shared
    if not (due and seen.shares):
        return status
    kept = {v: share for v, share in seen.shares.items() if v in alive or v == status.stable}
    if not sum(kept.values()):
        return status
    weights = {str(version): share for version, share in sorted(in_proportion(kept).items())}
    return _with(status, weights=weights, step_started=now)


def _winner(seen: Seen, alive: Sequence[int]) -> int:
    """The candidate that the evidence favours; the first if it favours none."""
    return seen.best if seen.best is not None and seen.best in alive else alive[0]


def _promoted(status: RolloutStatus, winner: int, why: str, seen: Seen, now: datetime) -> RolloutStatus:
    wanted = covering(status.stable, seen.ready, 100)
    if seen.ready.get(winner, 0) < wanted:
        told = f"waits: version {winner} has {seen.ready.get(winner, 0)} of {wanted} replicas ready"
        return _with(status, reason=told)
    return _with(
        status, phase="Promoted", weights={str(winner): 100}, mirror=None, mirror_percent=0, winner=winner, ended=now,
        reason=why,
    )  # fmt: skip


def _unready(rollout: Rollout, status: RolloutStatus, lacking: str, now: datetime) -> RolloutStatus:
    """Wait for the candidate, but not for ever; its traffic is elsewhere meanwhile."""
    since = status.unready_since or (status.started if status.phase == "Pending" else None) or now
    if now - since >= rollout.ready_within:
        return _back(status, "Aborted", f"{lacking} after {write_duration(rollout.ready_within)}", now)
    told = status.reason if status.phase == "Paused" else f"waits: {lacking}"
    return _with(status, unready_since=since, reason=told)


def _back(status: RolloutStatus, phase: Phase, why: str, now: datetime) -> RolloutStatus:
    """End it, with everyone where they were before."""
    weights = {} if status.stable is None else {str(status.stable): 100}
    return _with(status, phase=phase, weights=weights, mirror=None, mirror_percent=0, ended=now, reason=why)


def _without_failed(spec: RolloutSpec, status: RolloutStatus) -> RolloutStatus:
    """Drop candidates that failed a check; their share goes to the stable version."""
    failed = {one.candidate for one in status.findings if one.outcome == "fail"} & {*spec.candidates}
    new = failed - {*status.dropped}
    if not new:
        return status
    weights = {int(version): weight for version, weight in status.weights.items()}
    freed = sum(weights.pop(one, 0) for one in new)
    if freed and status.stable is not None:
        weights[status.stable] = weights.get(status.stable, 0) + freed
    mirror = None if status.mirror in new else status.mirror
    return _with(
        status,
        dropped=tuple(sorted({*status.dropped, *new})),
        weights={str(version): weight for version, weight in sorted(weights.items())},
        mirror=mirror,
        mirror_percent=status.mirror_percent if mirror is not None else 0,
    )


def _lacking(seen: Seen, alive: Sequence[int]) -> str:
    """Which candidates that may have traffic are not ready; empty if all are."""
    away = [one for one in alive if seen.ready.get(one, 0) < 1]
    return f"{_named(away)} not ready" if away else ""


def _weights(status: RolloutStatus, candidate: int, weight: int) -> dict[str, int]:
    """The candidate's share, and the stable version's rest."""
    both = {int(candidate): weight, **({} if status.stable is None else {status.stable: 100 - weight})}
    return {str(version): share for version, share in sorted(both.items())}


def _equal(status: RolloutStatus, alive: Sequence[int]) -> dict[str, int]:
    versions = sorted({*alive, *(() if status.stable is None else (status.stable,))})
    return {str(version): share for version, share in in_proportion(dict.fromkeys(versions, 1)).items()}


def _at(status: RolloutStatus) -> int:
    return -1 if status.step_started is None else status.step


def _named(versions: Sequence[int]) -> str:
    return ("version " if len(versions) == 1 else "versions ") + ", ".join(map(str, versions))


def _told(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{one.check}: {one.reason}" for one in findings if one.check not in GUARDRAILS)


def _why(findings: Sequence[Finding], winner: int) -> str:
    """What a promotion rests on: what decides, else the guardrails, else that it is ready."""
    guards = "; ".join(f"{one.check}: {one.reason}" for one in findings if one.candidate == winner)
    return _told(findings) or guards or f"version {winner} is ready"


def _failed(findings: Sequence[Finding]) -> str:
    return (
        "; ".join(f"{one.check}: {one.reason}" for one in findings if one.outcome == "fail") or "no candidate is left"
    )


def _with(status: RolloutStatus, **changes: Any) -> RolloutStatus:
    return status.model_copy(update=changes)
