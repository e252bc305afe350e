"""Each figure against torchmetrics, scikit-learn, or a loop that can be trusted by reading."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss
from torchmetrics.functional.regression import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
)

from ps_train.budget.metrics import BudgetQuality, budget_quality, pinball_loss, whole_windows

LEVELS = (0.1, 0.5, 0.9)


def budgets(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    needed = rng.integers(1, 17, n) * 16.0
    return np.abs(needed + rng.normal(0, 40, n)) + 1, needed


def test_errors_equal_torchmetrics():
    predicted, needed = budgets()
    figures = budget_quality(predicted, needed)
    pair = torch.from_numpy(predicted), torch.from_numpy(needed)
    assert figures["mae"] == pytest.approx(float(mean_absolute_error(*pair)))
    assert figures["rmse"] == pytest.approx(float(mean_squared_error(*pair, squared=False)))
    assert figures["mape"] == pytest.approx(float(mean_absolute_percentage_error(*pair)))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(0.1, 300), st.integers(1, 16)), min_size=1, max_size=20))
def test_rates_equal_a_loop_over_the_queries(rows):
    under, over, short = 0, 0, []
    for predicted, windows in rows:
        given_windows = next(k for k in range(1, 400) if 16 * k >= predicted)
        under += given_windows < windows
        over += given_windows > windows
        if given_windows < windows:
            short.append(16 * (windows - given_windows))
    predicted, needed = (np.array(column, float) for column in zip(*rows, strict=True))
    figures = budget_quality(predicted, needed * 16, window=16)
    assert figures["underrun_rate"] == pytest.approx(under / len(rows))
    assert figures["overrun_rate"] == pytest.approx(over / len(rows))
    assert figures["average_underrun"] == pytest.approx(np.mean(short) if short else 0)


def test_pinball_loss_equals_scikit_learn():
    predicted, needed = budgets()
    quantiles = predicted[:, None] + [-30, 0, 30]
    expected = [mean_pinball_loss(needed, quantiles[:, i], alpha=level) for i, level in enumerate(LEVELS)]
    assert pinball_loss(quantiles, needed, LEVELS) == pytest.approx(np.mean(expected))


def test_a_prediction_gives_whole_windows_and_at_least_one():
    np.testing.assert_array_equal(whole_windows(np.array([-5.0, 0.2, 16, 16.01]), 16), [16, 16, 16, 32])


def test_the_metric_class_over_batches_counts_each_row_once():
    predicted, needed = budgets()
    heads = np.column_stack([predicted, predicted - 30, predicted, predicted + 30])
    metric = BudgetQuality(16, LEVELS)
    for part in [*torch.arange(60).split(16), torch.tensor([3, 59, 0])]:  # a sampler's repetitions
        metric.update(part, torch.from_numpy(heads[part]), torch.from_numpy(needed[part]))
    actual = {name: float(value) for name, value in metric.compute().items()}
    expected = budget_quality(predicted, needed, window=16)
    assert actual == pytest.approx(
        {**expected, "pinball": pinball_loss(heads[:, 1:], needed, LEVELS)}, rel=1e-6
    )
    rows, gathered, measured = metric.seen
    np.testing.assert_array_equal(rows, np.arange(60))
    np.testing.assert_allclose(gathered, heads, rtol=1e-6)
    np.testing.assert_array_equal(measured, needed)
