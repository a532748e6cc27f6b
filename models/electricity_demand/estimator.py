"""The estimator: boosted trees."""

from __future__ import annotations

from sklearn.ensemble import HistGradientBoostingRegressor


def build(learning_rate: float = 0.05, max_iter: int = 200, random_state: int = 0) -> HistGradientBoostingRegressor:
    """An unfitted regressor; early stopping is off, since its random split would let the future in."""
    return HistGradientBoostingRegressor(
        learning_rate=learning_rate, max_iter=max_iter, early_stopping=False, random_state=random_state
    )
