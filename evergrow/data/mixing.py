"""Numbers as if by chance, which are the same wherever and whenever they are drawn."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, parts: Iterable[NDArray[np.uint64]], rows: int) -> NDArray[np.float64]:
    """One number a row, uniform in [0, 1): of the seed and of what the row is, part by part; float64 [rows].

    They are mixed by the finaliser of SplitMix64: G. Steele, D. Lea & C. Flood, Fast splittable pseudorandom number
    generators, OOPSLA 2014.

    Args:
        seed: in [0, 2^64).
        parts: uint64 [rows] each; their order counts.
        rows: how many.
    """
    mixed = np.full(rows, seed, np.uint64)
    for part in parts:
        mixed = _finalised(mixed + _STEP) ^ part
    return (_finalised(mixed + _STEP) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finalised(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
