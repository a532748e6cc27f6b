"""The estimator: boosted trees, which take missing values as they are."""

from __future__ import annotations

from sklearn.ensemble import HistGradientBoostingClassifier


def build(
    learning_rate: float = 0.06,
    max_iter: int = 300,
    max_leaf_nodes: int = 31,
    min_samples_leaf: int = 200,
    l2_regularization: float = 1.0,
    random_state: int = 0,
) -> HistGradientBoostingClassifier:
    """An unfitted classifier; early stopping is off, since its random split would let the future in."""
    return HistGradientBoostingClassifier(
        learning_rate=learning_rate,
        max_iter=max_iter,
        max_leaf_nodes=max_leaf_nodes,
        min_samples_leaf=min_samples_leaf,
        l2_regularization=l2_regularization,
        early_stopping=False,
        random_state=random_state,
    )
