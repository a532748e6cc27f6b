"""How often the gate promotes a challenger that is not better, when losses hang together from day to day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.measure import Result
from evergrow.evaluation.gate import ChallengerLosses, ChampionLosses, compare
from evergrow.spec.model import Gate

RUNS, BLOCKS, ROWS_PER_BLOCK = 4000, 30, 40
GATE = Gate(metric="log_loss", margin=0.0, alpha=0.05)


def day_effects(correlation: float, runs: int, blocks: int, heavy: bool, random: np.random.Generator) -> NDArray:
    """Stationary AR(1) of variance 1, [runs, blocks]; innovations normal, or Student's t with 3 degrees of freedom."""
    noise = random.standard_t(3, (runs, blocks)) / np.sqrt(3) if heavy else random.normal(size=(runs, blocks))
    effects = np.empty_like(noise)
    effects[:, 0] = noise[:, 0]
    for t in range(1, blocks):
        effects[:, t] = correlation * effects[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return effects


def promotions(
    correlation: float, *, runs: int, advantage: float = 0.0, heavy: bool = False, blocks: int = BLOCKS, seed: int = 0
) -> tuple[float, float]:
    """Share of runs promoted by the gate, and by a t-test that takes rows for independent.

    Args:
        correlation: of a day's mean difference in loss with the next day's.
        runs: simulated holdouts.
        advantage: by how much the challenger's expected loss is lower; 0 is the worst case of "not better".
        heavy: whether days differ with heavy tails.
        blocks: days.
        seed: seeds the runs.
    """
    random = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(blocks), ROWS_PER_BLOCK)
    gate_passed = naive_passed = 0
    for effects in day_effects(correlation, runs, blocks, heavy, random):
        champion = random.gamma(2.0, 0.25, len(numbers))
        reduction = 0.1 * effects[numbers] + random.normal(advantage, 0.3, len(numbers))
        challenger = champion - reduction
        verdict = compare(ChampionLosses(champion), ChallengerLosses(challenger), numbers, GATE, 200)
        gate_passed += verdict.outcome == "pass"
        error = reduction.std(ddof=1) / np.sqrt(len(reduction))
        naive_passed += reduction.mean() - norm.ppf(1 - GATE.alpha) * error > GATE.margin
    return gate_passed / runs, naive_passed / runs


def run() -> list[Result]:
    """The rate at three strengths of correlation; it must not pass alpha."""
    results = []
    for correlation in (0.0, 0.3, 0.6):
        rate, naive = promotions(correlation, runs=RUNS)
        results.append(
            Result(
                f"false promotions, correlation {correlation:g} from day to day",
                100 * rate,
                "%",
                f"≤ {100 * GATE.alpha:g}",
                rate <= GATE.alpha,
                f"{RUNS:,} runs of {BLOCKS} days × {ROWS_PER_BLOCK} rows; rows taken for independent: {naive:.1%}",
            )
        )
    return results
