"""All traffic changes sides at once: before it callers can ask for the candidate, after it guardrails watch."""

from __future__ import annotations

from evergrow.rollout.moves import Move
from evergrow.spec.rollout import Analysis, BlueGreen


def moves(strategy: BlueGreen, analysis: Analysis) -> tuple[Move, ...]:
    """The preview, which nobody needs to use, and the time under watch."""
    return Move(0, duration=strategy.preview), Move(100, 0, 1, strategy.watch, "guardrails")
