import numpy as np
import pytest
from sklearn import metrics

from evergrow.learning.losses import row_losses
from evergrow.spec.model import ROW_LOSSES

RANDOM = np.random.default_rng(0)
P, LATE = RANDOM.uniform(0.01, 0.99, 500), (RANDOM.random(500) < 0.3).astype(float)
COUNT, RATE = RANDOM.poisson(3, 500).astype(float), RANDOM.uniform(0.1, 9, 500)


@pytest.mark.parametrize(
    ("loss", "oracle", "y", "scores"),
    [
        ("log_loss", metrics.log_loss, LATE, P),
        ("brier", metrics.brier_score_loss, LATE, P),
        ("mae", metrics.mean_absolute_error, COUNT, RATE),
        ("squared_error", metrics.mean_squared_error, COUNT, RATE),
        ("poisson_deviance", metrics.mean_poisson_deviance, COUNT, RATE),
    ],
)
def test_the_mean_of_the_rows_losses_is_scikit_learns(loss, oracle, y, scores):
    assert row_losses(loss, y, scores).mean() == pytest.approx(oracle(y, scores), rel=1e-9)


def test_every_loss_a_gate_may_name_is_there():
    for names in ROW_LOSSES.values():
        for name in names:
            assert row_losses(name, LATE, P).shape == (500,)


def test_a_certain_and_wrong_probability_costs_much_but_not_infinitely():
    assert row_losses("log_loss", np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx([16.1, 16.1], abs=0.1)


def test_poisson_deviance_is_infinite_where_nothing_was_predicted_and_undefined_for_a_negative_label():
    losses = row_losses("poisson_deviance", np.array([1.0, -1.0]), np.array([0.0, 1.0]))
    assert np.isinf(losses[0])
    assert np.isnan(losses[1])
