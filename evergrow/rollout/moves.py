"""What a strategy is made of: moves, each a share of the traffic and what it takes to leave it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from evergrow.spec.rollout import Decisive


@dataclass(frozen=True)
class Move:
    """A share of the traffic for the candidate, and what it takes to go on.

    Attributes:
        weight: percent of the requests that it answers.
        mirror: percent of the requests that it gets copies of.
        requests: that it must have answered, or got copies of, since the move began.
        duration: that the move must have lasted.
        passes: what must have passed before the move is left; None: it is enough that no guardrail fails or is missing.
        shared: how often shares are set by the evidence, which also says who wins; None: the share is `weight`.
    """

    weight: int
    mirror: int = 0
    requests: int = 0
    duration: timedelta = timedelta(0)
    passes: Decisive | None = None
    shared: timedelta | None = None
