"""Versions share the traffic by how likely each is the best: Thompson sampling, while labels come in late.

The reward of a request is minus its loss, or its worth. What is known of a version's mean reward is taken for normal
(the mean of many, by blocks of time whose rewards may hang together), so that the probability of being the best is
found by drawing from these posteriors: W. R. Thompson, On the likelihood that one unknown probability exceeds another
in view of the evidence of two samples, Biometrika 25, 1933; S. Agrawal & N. Goyal, Further optimal regret bounds for
Thompson sampling, AISTATS 2013. Requests without a label yet count for nothing, and not as failures: shares follow what
is known. A floor keeps every version's propensity away from 0, which off-policy values divide by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrow.rollout.desired import in_proportion
from evergrow.rollout.moves import Move
from evergrow.spec.rollout import Analysis, Bandit

Floats = NDArray[np.float64]

DRAWS = 20_000
"""Of each posterior: a probability is known to within 0.004."""


@dataclass(frozen=True)
class Arm:
    """What is known of a version's rewards.

    Attributes:
        requests: with a label.
        mean: reward.
        error: standard error of the mean.
    """

    requests: int
    mean: float
    error: float


def moves(strategy: Bandit, analysis: Analysis) -> tuple[Move, ...]:
    """One, of which the evidence sets the shares."""
    return (Move(0, shared=strategy.every),)


def arms_of(
    rewards: Mapping[int, Floats],
    propensities: Mapping[int, Floats],
    blocks: Mapping[int, NDArray[np.intp]],
    ages: Mapping[int, Floats] | None = None,
) -> dict[int, Arm]:
    """What is known of each version by its labelled requests.

    Shares change while rewards do, and a plain mean would favour who had much traffic in good times. Each request
    counts by one over the probability with which its version was drawn (self-normalised inverse propensity weighting,
    M. Hajek's estimator); the error is that of the weighted sums of blocks of time. The mean is also the version's
    off-policy value: what it would have earned had it answered everyone.

    Args:
        rewards: of each version's labelled requests, [n].
        propensities: with which they were drawn, in (0, 1], [n].
        blocks: number of the stretch of time of each, [n].
        ages: of each, in half-lives: evidence so old counts half; all alike if None.
    """
    kept = {v: 1.0 if ages is None else np.exp2(-ages[v]) for v in rewards}
    return {v: _arm(rewards[v], kept[v] / propensities[v], blocks[v]) for v in rewards}


def _arm(rewards: Floats, weights: Floats, blocks: NDArray[np.intp]) -> Arm:
    if len(rewards) < 2:
        return Arm(len(rewards), float(rewards.mean()) if len(rewards) else 0.0, math.inf)
    mean = float((weights * rewards).sum() / weights.sum())
    _, at = np.unique(blocks, return_inverse=True)
    influence = np.bincount(at, weights * (rewards - mean)) / weights.sum()
    if len(influence) < 2:
        influence = weights * (rewards - mean) / weights.sum()
    n = len(influence)
    return Arm(len(rewards), mean, math.sqrt(n / (n - 1) * float(np.square(influence).sum())))


def best_of(arms: Mapping[int, Arm], seed: int = 0) -> dict[int, float]:
    """Probability of each version to have the largest mean reward, summing to 1.

    Args:
        arms: by version, at least one.
        seed: of the draws.
    """
    versions = sorted(arms)
    random = np.random.default_rng(seed)
    means = np.array([arms[version].mean for version in versions])
    errors = np.array([arms[version].error for version in versions])
    drawn = means + errors * random.standard_normal((DRAWS, len(versions)))
    wins = np.bincount(drawn.argmax(axis=1), minlength=len(versions))
    return {version: float(won) / DRAWS for version, won in zip(versions, wins, strict=True)}


def shares(strategy: Bandit, arms: Mapping[int, Arm], seed: int = 0) -> dict[int, int]:
    """Percent by version: the probability of being the best above the floor; equal until all have their least evidence.

    Args:
        strategy: floor and least evidence.
        arms: by version, at least one.
        seed: of the draws.
    """
    if any(arm.requests < strategy.requests for arm in arms.values()):
        return in_proportion(dict.fromkeys(sorted(arms), 1))
    floor = min(strategy.floor, 100 // len(arms))
    free = 100 - floor * len(arms)
    likely = best_of(arms, seed)
    above = in_proportion({version: round(1e6 * p) for version, p in likely.items()})
    exact = {version: 100 * floor + free * above[version] for version in above}
    return in_proportion(exact)


def best(strategy: Bandit, arms: Mapping[int, Arm], seed: int = 0) -> int | None:
    """The version that is the best with the strategy's confidence; None if none is yet."""
    if any(arm.requests < strategy.requests for arm in arms.values()):
        return None
    version, likely = max(best_of(arms, seed).items(), key=lambda found: (found[1], found[0]))
    return version if likely >= strategy.confidence else None
