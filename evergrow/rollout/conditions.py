"""Conditions of rollouts and models, as Kubernetes has them: for `kubectl wait`, and for people who know them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from evergrow.rollout.machine import ENDS
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import Condition, RolloutStatus

Type = Literal["Ready", "Progressing", "Paused", "Degraded"]


class Said(NamedTuple):
    """What a condition says.

    Attributes:
        type: of the condition.
        holds: whether it is so.
        reason: one word in CamelCase.
        message: for people.
    """

    type: Type
    holds: bool
    reason: str
    message: str


def of_rollout(status: RolloutStatus, generation: int, now: datetime) -> tuple[Condition, ...]:
    """Conditions of a rollout; those that its status has already are what was said before.

    Ready: a candidate was promoted. Progressing: it goes on by itself. Paused: it waits for somebody. Degraded: it
    goes on, but a candidate that is to have traffic is not ready, or evidence is missing.

    Args:
        status: of the rollout.
        generation: of the object.
        now: the instant.
    """
    phase, reason = status.phase, status.reason
    said = (
        Said("Ready", phase == "Promoted", phase, reason),
        Said("Progressing", phase in ("Pending", "Progressing"), phase, reason),
        Said("Paused", phase == "Paused", phase, reason),
        _degraded(status),
    )
    return conditions(said, status.conditions, generation, now)


def of_model(status: ModelStatus, before: Sequence[Condition], generation: int, now: datetime) -> tuple[Condition, ...]:
    """Conditions of a model.

    Ready: callers are answered by the version that should. Progressing: another is taking over. Paused: that waits for
    somebody. Degraded: what should serve is not ready.

    Args:
        status: of the model.
        before: what was said before.
        generation: of the object.
        now: the instant.
    """
    phase, told = status.phase, status.decision
    said = (
        Said("Ready", status.serving is not None and phase != "Degraded", phase, told),
        Said("Progressing", status.candidate is not None and phase != "Paused", phase, told),
        Said("Paused", phase == "Paused", phase, told),
        Said("Degraded", phase == "Degraded", phase, told if phase == "Degraded" else ""),
    )
    return conditions(said, before, generation, now)


def conditions(
    said: Sequence[Said], before: Sequence[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """As they are written: the time of the last transition stays while `status` does.

    Args:
        said: each type once.
        before: what was said before; types that nothing is said of now stay.
        generation: of the object that it is about.
        now: the instant.
    """
    known = {one.type: one for one in before}
    for one in said:
        status: Literal["True", "False"] = "True" if one.holds else "False"
        old = known.get(one.type)
        known[one.type] = Condition(
            type=one.type,
            status=status,
            reason=one.reason,
            message=one.message,
            last_transition_time=old.last_transition_time if old is not None and old.status == status else now,
            observed_generation=generation,
        )
    return tuple(known.values())


def _degraded(status: RolloutStatus) -> Said:
    if status.phase not in ENDS:
        if status.unready_since is not None and status.phase != "Pending":
            return Said("Degraded", True, "CandidateNotReady", status.reason)
        missing = [f"{one.check}: {one.reason}" for one in status.findings if one.outcome == "error"]
        if missing:
            return Said("Degraded", True, "EvidenceMissing", "; ".join(missing))
    return Said("Degraded", False, "AsExpected", "")
