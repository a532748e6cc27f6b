"""A rollout as it is asked for, and as it is put on record when it was carried out at once."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import EvaluationReport, digest
from evergrow.rollout.attempt import ORDER, ORDERED_BY, TRAINED_ON, Attempt
from evergrow.rollout.machine import Seen, advance, begin
from evergrow.spec.rollout import ModelRollout, Rollout, RolloutSpec, RolloutStatus

APPROVAL = "the environment, until somebody approves"
"""Who has a version wait that nobody has approved of yet."""
LONGEST_MODEL = 40
"""Of a model's name in its rollouts' names, which Kubernetes limits to 63 characters."""


def asked_for(version: int, judged: EvaluationReport, *, approval: bool = False) -> ModelRollout:
    """The rollout of a version whose evaluation passed: of one evaluation, always the same.

    Args:
        version: that is to take over.
        judged: its evaluation.
        approval: whether somebody has to approve of it first: it is paused before it begins.
    """
    annotations = {TRAINED_ON: judged.as_of.isoformat()}
    if approval:
        annotations |= {ORDER: "pause", ORDERED_BY: APPROVAL}
    name = f"{judged.model[:LONGEST_MODEL]}-v{version}-{digest(judged.model_dump(mode='json'))[:6]}"
    document = {
        "apiVersion": "evergrow.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name, "annotations": annotations},
        "spec": RolloutSpec(
            model=judged.model, candidates=(version,), reason=judged.verdict.reason, requested_by="training"
        ).dump(),
    }
    return ModelRollout.model_validate(document)


def awaits_approval(attempt: Attempt) -> bool:
    """Whether nothing but somebody's approval keeps it from beginning."""
    annotations, status = attempt.document.metadata.annotations, attempt.status
    if ORDER in annotations:  # which is not carried out yet
        return not attempt.over and (annotations[ORDER], attempt.ordered_by) == ("pause", APPROVAL)
    return status.phase == "Paused" and status.reason == f"paused by {APPROVAL}"


def carried_out(attempt: ModelRollout, stable: int | None, now: datetime) -> RolloutStatus:
    """The status of a rollout whose version was put in the place of what served, at once and on record.

    Args:
        attempt: with one candidate.
        stable: the version that served before; None: none did.
        now: when.
    """
    how, (version,) = Rollout(), attempt.spec.candidates
    begun = begin(attempt.spec, stable, now).model_copy(update={"rollout": how})
    done = advance(attempt.spec, how, begun, Seen(ready={version: 1}), now)
    return done.model_copy(update={"split": f"v{version} 100"})
