"""What is handed to a cluster to be run, and what is known of it afterwards, whichever runner carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from evergrow.contracts import digest
from evergrow.spec import ContinualModel
from evergrow.spec.environment import EnvironmentSpec
from evergrow.spec.policies import PolicySet

SHARES = 4
"""Into which a backtest on a cluster is dealt if nobody says otherwise."""
State = Literal["pending", "running", "succeeded", "failed", "canceled", "unknown"]
"""Where a run has got to. `unknown`: its runner does not say."""

OVER: frozenset[State] = frozenset({"succeeded", "failed", "canceled"})
"""States that a run does not leave."""

Runner = Literal["kubeflow", "pods"]


@dataclass(frozen=True)
class SubmittedRun:
    """A run that a cluster knows of.

    Attributes:
        name: what it does and why, for people.
        id: what its runner knows it by.
        state: where it had got to when it was looked up.
        link: where people see it; empty if nowhere.
        runner: what carries it out.
        created: when it came to be; None if its runner does not say.
        existing: whether a submission found it instead of starting it.
        ended: when it was over; None if it is not, or its runner does not say.
    """

    name: str
    id: str
    state: State
    link: str
    runner: Runner
    created: datetime | None = None
    existing: bool = False
    ended: datetime | None = None


@dataclass(frozen=True)
class Submission:
    """A pipeline to be run for a document as of an instant, in an environment.

    Attributes:
        environment: where, and with which image.
        pipeline: its name: training, materialization, batch_scoring, monitoring or backtest.
        document: the model's.
        as_of: as if it were then; timezone-aware.
        reason: why, for the run's name.
        policies: what a backtest tries; None for every other pipeline.
        shares: into which a backtest is dealt.
    """

    environment: EnvironmentSpec
    pipeline: str
    document: ContinualModel
    as_of: datetime
    reason: str = "manual"
    policies: PolicySet | None = None
    shares: int = SHARES

    @property
    def identity(self) -> str:
        """SHA-256 of all that determines what the run does: submitting it again finds the run it had."""
        return digest(
            {
                "environment": self.environment.name,
                "pipeline": self.pipeline,
                "document": self.document.dump(),
                "as_of": written(self.as_of),
                "image": self.environment.code.images.steps,
                **({"policies": self.policies.dump()} if self.policies is not None else {}),
            }
        )

    @property
    def needless_after(self) -> frozenset[State]:
        """States of an earlier run of the same identity that make another one needless.

        One that succeeded does, but for a materialization, since another one may have come in between, and for a look
        at service, since predictions of the past are still being shipped.
        """
        done: set[State] = {"succeeded"} if self.pipeline in ("training", "batch_scoring", "backtest") else set()
        return frozenset({"pending", "running", *done})

    @property
    def name(self) -> str:
        """What runs and why: "training delays as of 2013-10-01T00:00Z (manual) 1a2b3c4d"."""
        subject = f"{self.pipeline} {self.document.name} as of {written(self.as_of)}"
        return f"{subject} ({self.reason}) {self.identity[:8]}"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The pipeline's arguments."""
        return arguments(self.document, self.as_of.astimezone(UTC).isoformat(), self.policies, self.shares)


def arguments(
    document: ContinualModel, as_of: str, policies: PolicySet | None = None, shares: int = SHARES
) -> Mapping[str, Any]:
    """A pipeline's arguments, by name.

    Args:
        document: the model's.
        as_of: ISO 8601.
        policies: what a backtest tries; None for every other pipeline.
        shares: into which a backtest is dealt.
    """
    given: dict[str, Any] = {"spec": json.dumps(document.dump()), "as_of": as_of}
    return given if policies is None else {**given, "policies": json.dumps(policies.dump()), "shares": shares}


def written(instant: datetime) -> str:
    """An instant in UTC, as short as it can be said.

    >>> written(datetime(2013, 10, 1, tzinfo=UTC)), written(datetime(2013, 10, 1, 2, 3, 4, tzinfo=UTC))
    ('2013-10-01T00:00Z', '2013-10-01T02:03:04Z')
    """
    text = instant.astimezone(UTC).isoformat(timespec="auto").removesuffix("+00:00")
    return text.removesuffix(":00") + "Z"
