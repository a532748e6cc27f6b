"""Which features are fitted on: the weakest are left out, and the others weighed again without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrow.errors import SpecError
from evergrow.learning.bundle import estimator_score
from evergrow.learning.losses import row_losses
from evergrow.learning.vector import blanked
from evergrow.spec.model import Selection

MOST_ROWS = 10_000
"""Features are weighed on at most so many rows, evenly spread over those that there are."""


def left_out(
    selection: Selection,
    seed: int,
    metric: str,
    fit: Callable[[NDArray[np.float32]], Any],
    X: NDArray[np.float32],
    held: tuple[NDArray[np.float32], NDArray[np.float64]],
) -> Mapping[int, float]:
    """The columns that are left out, and how much each was worth: by how much the mean loss rose as it was shuffled.

    Recursive elimination by permutation importance (B. Gregorutti, B. Michel, P. Saint-Pierre, Correlation and variable
    importance in random forests, Statistics and Computing 27, 2017): of two columns that say the same neither seems
    worth anything while the other is there, so half of what is too many leaves at a time, and the rest is fitted anew.

    Args:
        selection: how many are kept.
        seed: of the shuffling.
        metric: a loss, as `row_losses` has it.
        fit: gives the estimator fitted on rows [n, k]; what was left out is 0 in all of them.
        X: rows to fit on, [n, k].
        held: rows that nothing was fitted on, and their labels: what is shuffled, [m, k] and [m].

    Raises:
        SpecError: the loss is not finite.
    """
    left: dict[int, float] = {}
    spread = np.unique(np.linspace(0, len(held[1]) - 1, MOST_ROWS).astype(int))
    rows, y = held[0][spread], held[1][spread]
    while (surplus := X.shape[1] - len(left) - selection.keep) > 0:
        rises = _rises(selection, seed, metric, fit(blanked(X, left)), blanked(rows, left), y)
        stay = [column for column in range(X.shape[1]) if column not in left]
        weakest = sorted(stay, key=lambda column: rises[column])[: (surplus + 1) // 2]
        left |= {column: float(rises[column]) for column in weakest}
    return dict(sorted(left.items()))


def _rises(
    selection: Selection, seed: int, metric: str, estimator: Any, X: NDArray[np.float32], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    from sklearn.inspection import permutation_importance

    score = estimator_score(estimator)

    def gain(_: Any, X: NDArray[np.float32], y: NDArray[np.float64]) -> float:
        return -float(row_losses(metric, y, score(X)).mean())

    if not np.isfinite(gain(estimator, X, y)):
        raise SpecError(f"spec.training.selection: the mean {metric} on the calibration rows is not finite")
    found = permutation_importance(estimator, X, y, scoring=gain, n_repeats=selection.repeats, random_state=seed)
    return np.nan_to_num(found.importances_mean)  # type: ignore[no-any-return]
