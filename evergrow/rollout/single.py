"""Replace what serves as soon as the candidate is ready: it has answered its golden request, and no more is asked."""

from __future__ import annotations

from evergrow.rollout.moves import Move
from evergrow.spec.rollout import Analysis, Single


def moves(strategy: Single, analysis: Analysis) -> tuple[Move, ...]:
    """None: ready is enough."""
    return ()
