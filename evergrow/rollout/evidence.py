"""What is known of a rollout's candidates, and in which order it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evergrow.spec.rollout import Finding


@dataclass(frozen=True)
class Evidence:
    """What a rollout is judged by.

    Attributes:
        requests: that each candidate answered, or got copies of, since the present move began.
        findings: what the checks say, in the order of the analysis.
        shares: percent by version that a bandit's evidence asks for; None for other strategies.
        best: the version that a bandit is sure of.
    """

    requests: Mapping[int, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    shares: Mapping[int, int] | None = None
    best: int | None = None
