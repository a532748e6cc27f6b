"""The candidate's share grows in steps; each has its least evidence, and after the last the decisive check has passed.

Evidence adds up over the steps: a test that may be looked at at any time need not begin anew.
"""

from __future__ import annotations

from dataclasses import replace

from evergrow.rollout.moves import Move
from evergrow.spec.rollout import Analysis, Canary


def moves(strategy: Canary, analysis: Analysis) -> tuple[Move, ...]:
    """One for each step."""
    found = [Move(step.weight, 0, step.requests, step.duration) for step in strategy.steps]
    return (*found[:-1], replace(found[-1], passes=analysis.decides))
