"""What a rollout's evidence is worth: false promotions while everyone peeks, and requests needed to decide.

A rollout goes from 5 to 25 to 50 % of the requests. Losses hang together by the hour and by the caller, labels come
late, and the capital is looked at after every single request.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import binom

from benchmarks.measure import Result
from evergrow.statistics.betting import BettingTest, PlannedTest, differences, extremes, overlap, planned_rows

Floats = NDArray[np.float64]

RUNS, REQUESTS, CHUNK = 10_000, 12_000, 50
WEIGHTS, STEPS = (0.05, 0.25, 0.5), (2_000, 5_000)
"""Shares of the candidate, and the requests at which they change."""
HOUR, CALLER, DELAY = 200, 20, 600
"""Requests of an hour, of a caller, and until a label is known."""
HIGH, CENTRE, SPREAD = 2.0, 0.5, 0.3
"""Losses are in [0, HIGH]; their mean and standard deviation."""
EFFECT = 0.03
ALPHAS = (0.05, 0.01)


@dataclass(frozen=True)
class World:
    """How losses come about.

    Attributes:
        gain: of the candidate over the stable version, on average.
        swing: size of a daily swing of the gain about its average.
        own: standard deviation of hours' effects that each version has for itself.
    """

    gain: float = 0.0
    swing: float = 0.0
    own: float = 0.0


def propensity(requests: int) -> Floats:
    """Of each request, [requests]."""
    at = np.arange(requests)
    return np.select([at < STEPS[0], at < STEPS[1]], WEIGHTS[:2], WEIGHTS[2])


def hours(random: np.random.Generator, runs: int, requests: int, size: float) -> Floats:
    """An AR(1) effect of correlation 0.8 from hour to hour, [runs, requests]."""
    count = requests // HOUR + 1
    noise = random.normal(0, size * 0.6, (runs, count))
    noise[:, 0] /= 0.6
    return np.asarray(np.repeat(lfilter([1], [1, -0.8], noise, axis=1), HOUR, axis=1)[:, :requests])


def chunk(world: World, requests: int, p: Floats, seed: int) -> tuple[Floats, Floats]:
    """Gains as they are estimated, [CHUNK, requests], and losses."""
    random = np.random.default_rng(seed)
    shape = (CHUNK, requests)
    common = CENTRE + hours(random, CHUNK, requests, 0.12)
    common += np.repeat(random.normal(0, 0.1, (CHUNK, requests // CALLER + 1)), CALLER, axis=1)[:, :requests]
    gain = world.gain + world.swing * np.sin(2 * np.pi * np.arange(requests) / (24 * HOUR))
    assigned = random.random(shape) < p
    noise = random.gamma(2.0, 0.25 / np.sqrt(2), shape) - 0.25 * np.sqrt(2)
    if world.own:
        own = [hours(random, CHUNK, requests, world.own) for _ in range(2)]
        noise += np.where(assigned, *own)
    loss = np.clip(common + noise - gain * assigned, 0, HIGH)
    # Labels are late: the mean that losses are centred by is that of the requests a while ago.
    seen = np.cumsum(loss, axis=1)[:, :-DELAY] / np.arange(1, requests - DELAY + 1)
    centre = np.concatenate([np.full((CHUNK, DELAY), CENTRE), seen], axis=1)
    values = -differences(assigned.ravel(), np.broadcast_to(p, shape).ravel(), loss.ravel(), centre.ravel())
    return values.reshape(shape), loss


def log_capital(test: BettingTest, values: Floats, weights: Floats) -> Floats:
    """After each request, [runs, requests]."""
    logs = np.cumsum(test.gains(values, weights), axis=1) + np.log(test.shares)
    return np.asarray(np.logaddexp.reduce(logs, axis=2))


def planned(alpha: float, power: float = 0.9) -> PlannedTest:
    """The test of a rollout from WEIGHTS."""
    bounds = extremes(np.array(WEIGHTS), np.array([0.0, HIGH]), 0.0, HIGH)
    return PlannedTest(EFFECT, 4 * SPREAD**2, (-bounds[1], -bounds[0]), alpha, power)


def most(world: World, seed: int) -> Floats:
    """Of each run of a chunk, the largest log capital that anyone saw, and the largest z that a t-test showed."""
    p = propensity(REQUESTS)
    values, _ = chunk(world, REQUESTS, p, seed)
    weights = overlap(p)
    logs = log_capital(planned(0.05).greater, values, weights)
    count = np.arange(1, REQUESTS + 1)
    mean, square = np.cumsum(weights * values, 1), np.cumsum((weights * values) ** 2, 1)
    z = mean / np.sqrt(np.maximum(square - mean**2 / count, 1e-9))
    return np.stack([logs.max(axis=1), z[:, 200:].max(axis=1)])


def decided(alpha: float, gain: float, share: float, seed: int) -> Floats:
    """Of each run of a chunk, the requests until a verdict, and whether it was "better"."""
    test = planned(alpha)
    requests = int(np.ceil(test.horizon / (4 * share * (1 - share)))) + DELAY
    p = np.full(requests, share)
    values, _ = chunk(World(gain=gain), requests, p, seed)
    weights = overlap(p)
    better = log_capital(test.greater, values, weights) >= -np.log(alpha)
    futile = log_capital(test.less, values, weights) >= -np.log(test.miss)
    first = [np.where(found.any(1), found.argmax(1), requests) for found in (better, futile)]
    end = int(np.ceil(test.horizon / (4 * share * (1 - share))))
    stopped = np.minimum(np.minimum(*first), end)
    return np.stack([stopped, (first[0] <= np.minimum(first[1], end)).astype(float)])


def _over(pool: ProcessPoolExecutor, function: partial[Floats], runs: int) -> Floats:
    return np.concatenate(list(pool.map(function, range(runs // CHUNK))), axis=1)


def run() -> list[Result]:
    """The rates at which versions that are no better are promoted, and how soon better ones are."""
    with ProcessPoolExecutor() as pool:
        return [*_promotions(pool), *_requests(pool)]


def _promotions(pool: ProcessPoolExecutor) -> Iterator[Result]:
    worlds = {
        "equal": World(),
        "worse": World(gain=-EFFECT / 2),
        "equal, with hours of its own": World(own=0.03),
    }
    for name, world in worlds.items():
        logs, z = _over(pool, partial(most, world), RUNS)
        for alpha in ALPHAS:
            promoted = int((logs >= -np.log(alpha)).sum())
            accepted = binom.ppf(0.975, RUNS, alpha) / RUNS
            naive = float((z >= 1.6449 if alpha == 0.05 else z >= 2.3263).mean())
            yield Result(
                f"false promotions of a version that is {name}, at alpha {alpha:g}, looked at after every request",
                promoted / RUNS,
                "",
                f"≤ {alpha:g}",
                promoted / RUNS <= float(max(alpha, accepted if name == "equal" else alpha)),
                f"{RUNS:,} rollouts of {REQUESTS:,} requests over weights 5, 25, 50 %; a z-test that is looked at as "
                f"often: {naive:.0%}",
            )


def _requests(pool: ProcessPoolExecutor) -> Iterator[Result]:
    runs = 2_000
    for share in (0.5, 0.1):
        fixed = planned_rows(EFFECT, 4 * SPREAD**2, 0.05, 0.9) / (4 * share * (1 - share))
        for factor in (1, 2, 4):
            found = _over(pool, partial(decided, 0.05, factor * EFFECT, share), runs)
            ratio = float(found[0].mean()) / fixed
            yield Result(
                f"requests until a gain of {factor} x the planned one is found, at {share:.0%} of the traffic, over a "
                "test of fixed size",
                ratio,
                "x",
                "≤ 1" if factor == 1 else "< 0.6",
                ratio <= (1.0 if factor == 1 else 0.6),
                f"{runs:,} rollouts, alpha 0.05, power 0.9: found in {found[1].mean():.1%}; a fixed test needs "
                f"{fixed:,.0f}",
            )
