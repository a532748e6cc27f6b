"""A rollout as it is asked for, and as it is put on record when it was carried out at once."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import EvaluationReport, digest
from evergrow.rollout.attempt import TRAINED_ON
from evergrow.rollout.machine import Seen, advance, begin
from evergrow.spec.rollout import ModelRollout, Rollout, RolloutSpec, RolloutStatus

LONGEST_MODEL = 40
"""Of a model's name in its rollouts' names, which Kubernetes limits to 63 characters."""


def asked_for(version: int, judged: EvaluationReport) -> ModelRollout:
    """The rollout of a version whose evaluation passed: of one evaluation, always the same."""
    name = f"{judged.model[:LONGEST_MODEL]}-v{version}-{digest(judged.model_dump(mode='json'))[:6]}"
    document = {
        "apiVersion": "evergrow.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name, "annotations": {TRAINED_ON: judged.as_of.isoformat()}},
        "spec": RolloutSpec(
            model=judged.model, candidates=(version,), reason=judged.verdict.reason, requested_by="training"
        ).dump(),
    }
    return ModelRollout.model_validate(document)


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
