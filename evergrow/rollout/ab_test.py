"""A fixed share for a fixed number of requests, and one look at the end.

The classical test: its horizon is planned from the smallest effect worth finding, and nothing is read before.
Guardrails are watched all the same: no plan makes people wait for errors.
"""

from __future__ import annotations

from evergrow.rollout.moves import Move
from evergrow.spec.rollout import AbTest, Analysis


def moves(strategy: AbTest, analysis: Analysis) -> tuple[Move, ...]:
    """One; the check that it waits for is silent until the horizon."""
    return (Move(strategy.weight, passes=analysis.decides),)
