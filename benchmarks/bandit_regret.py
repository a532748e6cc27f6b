"""What a bandit's learning costs: regret against the best version, with labels that are late, over many seeds."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Result
from evergrow.rollout.bandit import arms_of, shares
from evergrow.spec.rollout import Bandit

Floats = NDArray[np.float64]

SEEDS, REQUESTS, BATCH, DELAY = 1_000, 20_000, 400, 2
"""Requests of a run, between two settings of the shares, and batches until a label is known."""
STATIONARY = (0.50, 0.55, 0.60)
"""Probability of a reward, by version."""
HALF_LIFE = 6.0
"""Batches in which evidence loses half of its weight, where rewards switch."""


def regret(strategy: Bandit, switching: bool, seed: int) -> tuple[float, float]:
    """Of one run, expected reward lost against the best version at each time; and by equal shares."""
    random = np.random.default_rng(seed)
    versions = range(len(STATIONARY))
    batches = REQUESTS // BATCH
    drawn, rewards, propensity = (np.zeros((batches, BATCH)) for _ in range(3))
    lost = equal = 0.0
    for b in range(batches):
        chance = np.array(STATIONARY[::-1] if switching and b >= batches // 2 else STATIONARY)
        share = _shares(strategy, drawn, rewards, propensity, max(0, b - DELAY), switching, seed)
        drawn[b] = random.choice(versions, BATCH, p=share)
        propensity[b] = share[drawn[b].astype(int)]
        rewards[b] = random.random(BATCH) < chance[drawn[b].astype(int)]
        lost += float((chance.max() - chance[drawn[b].astype(int)]).sum())
        equal += BATCH * float(chance.max() - chance.mean())
    return lost, equal


def _shares(
    strategy: Bandit, drawn: Floats, rewards: Floats, propensity: Floats, known: int, switching: bool, seed: int
) -> Floats:
    """As the strategy sets them by the batches whose labels are in."""
    versions = range(len(STATIONARY))
    batch = np.repeat(np.arange(known), BATCH)
    flat = [part[:known].ravel() for part in (drawn, rewards, propensity)]
    of = {v: flat[0] == v for v in versions}
    ages = {v: (known - batch[of[v]]) / HALF_LIFE for v in versions} if switching else None
    arms = arms_of(
        {v: flat[1][of[v]] for v in versions}, {v: flat[2][of[v]] for v in versions},
        {v: batch[of[v]] for v in versions}, ages,
    )  # fmt: skip
    found = shares(strategy, arms, seed)
    return np.array([found[v] for v in versions]) / 100


def lai_robbins() -> float:
    """The least regret that any policy can have that is good everywhere: Σ Δ / KL · log T (Lai & Robbins, 1985)."""
    best = max(STATIONARY)
    return sum((best - p) / _kl(p, best) for p in STATIONARY if p < best) * math.log(REQUESTS)


def _kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def run() -> list[Result]:
    """Stationary and switching rewards."""
    strategy = Bandit(floor=1, requests=100)
    with ProcessPoolExecutor() as pool:
        still, switched = (
            np.array(list(pool.map(partial(regret, strategy, switching), range(SEEDS), chunksize=10)))
            for switching in (False, True)
        )
    bound = lai_robbins()
    about = f"{SEEDS:,} seeds of {REQUESTS:,} requests, rewards {STATIONARY}, labels {DELAY * BATCH} requests late"
    return [
        Result(
            "regret of a bandit over Lai and Robbins' bound, rewards that stay",
            float(still[:, 0].mean()) / bound,
            "x",
            "≤ 2",
            float(still[:, 0].mean()) <= 2 * bound,
            f"{about}: {still[:, 0].mean():.0f}, the bound {bound:.0f}, by equal shares {still[:, 1].mean():.0f}",
        ),
        Result(
            "regret of a bandit over that of equal shares, rewards that switch",
            float(switched[:, 0].mean() / switched[:, 1].mean()),
            "x",
            "≤ 0.6",
            bool(switched[:, 0].mean() <= 0.6 * switched[:, 1].mean()),
            f"{about}; the best becomes the worst half-way, evidence halves in {HALF_LIFE * BATCH:.0f} requests",
        ),
    ]
