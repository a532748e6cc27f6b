"""The candidate gets copies of requests; what it would have answered is compared pair by pair."""

from __future__ import annotations

from evergrow.rollout.moves import Move
from evergrow.spec.rollout import Analysis, Shadow


def moves(strategy: Shadow, analysis: Analysis) -> tuple[Move, ...]:
    """One move without traffic of its own."""
    return (Move(0, strategy.share, strategy.requests, strategy.duration, analysis.decides),)
