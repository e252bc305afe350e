"""Each figure against an independent reference: SciPy, scikit-learn, torchmetrics, or a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_squared_error as sklearn_mse
from torchmetrics.functional.classification import binary_calibration_error

from ps_alloc import allocate
from ps_train.common.gathered_rows import GatheredRows
from ps_train.curve.metrics import (
    CurveQuality,
    accuracy_of,
    allocation_gain,
    best_length,
    best_length_spearman,
    calibration_error,
    curve_quality,
    flattened_pearson,
    mean_squared_error,
    per_window_pearson,
)

BUDGETS = [32, 48, 64]
GRID = np.arange(1, 9) * 16


def curves(n: int = 50, w: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Measured curves and predictions that know something of them."""
    rng = np.random.default_rng(seed)
    measured = np.sort(rng.random((n, w)), axis=1).astype(np.float32)
    predicted = np.clip(measured + rng.normal(0, 0.3, (n, w)), 0, 1).astype(np.float32)
    return predicted, measured


def test_correlations_and_error_equal_scipy_and_scikit_learn():
    predicted, measured = curves()
    expected = [stats.pearsonr(predicted[:, k], measured[:, k]).statistic for k in range(8)]
    np.testing.assert_allclose(per_window_pearson(predicted, measured), expected, rtol=1e-5)
    flattened = stats.pearsonr(predicted.ravel(), measured.ravel()).statistic
    assert flattened_pearson(predicted, measured) == pytest.approx(flattened, rel=1e-5)
    assert mean_squared_error(predicted, measured) == pytest.approx(
        sklearn_mse(measured, predicted), rel=1e-5
    )


def test_the_constant_mean_curve_scores_0_per_window_and_high_when_flattened():
    _, measured = curves(500)
    constant = np.tile(measured.mean(0), (500, 1))
    assert (per_window_pearson(constant, measured) == 0).all()
    assert flattened_pearson(constant, measured) > 0.6


def test_best_length_is_the_first_window_near_the_maximum():
    example = np.array([[0.1, 0.5, 0.55, 0.55], [0.9, 0.2, 0.1, 0.95], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(best_length(example), [2, 1, 1])
    np.testing.assert_array_equal(best_length(example, share=1.0), [3, 4, 1])


def test_best_length_spearman_equals_scipy_with_its_many_ties():
    predicted, measured = curves(200)
    expected = stats.spearmanr(best_length(predicted), best_length(measured)).statistic
    assert best_length_spearman(predicted, measured) == pytest.approx(expected, rel=1e-6)


def test_calibration_error_equals_torchmetrics_on_binary_outcomes():
    rng = np.random.default_rng(0)
    predicted = rng.random((400, 4)).astype(np.float32)
    outcomes = (rng.random((400, 4)) < predicted**2).astype(np.float32)
    expected = binary_calibration_error(
        torch.from_numpy(predicted.ravel()), torch.from_numpy(outcomes.ravel()).int(), n_bins=15
    )
    assert calibration_error(predicted, outcomes) == pytest.approx(float(expected), abs=1e-6)
    assert calibration_error(predicted, predicted) == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([16, 40, 72, 128]))
def test_gain_of_the_measured_curves_themselves_is_never_negative(seed, budget):
    _, measured = curves(20, seed=seed)
    gain = allocation_gain(measured, measured, grid=GRID, budgets=[budget])
    assert gain[0] >= -1e-6


def test_allocation_gain_is_the_hull_allocation_scored_on_the_measured_curves():
    predicted, measured = curves()
    windows = allocate(predicted, 48 * 50, window=16).windows
    hull = np.mean([measured[i, windows[i] - 1] for i in range(50)])
    uniform = measured[:, 2].mean()  # 48 tokens are 3 windows for everyone
    gain = allocation_gain(predicted, measured, grid=GRID, budgets=[48])
    assert gain[0] == pytest.approx(hull - uniform, abs=1e-6)


def test_a_query_without_reasoning_scores_0():
    measured = np.array([[0.5, 0.7], [0.4, 0.6]], np.float32)
    assert accuracy_of(measured, np.array([0, 2])) == pytest.approx(0.3)


def test_the_metric_class_over_batches_equals_the_function_on_everything():
    predicted, measured = curves()
    metric = CurveQuality(GRID, BUDGETS)
    for part in torch.arange(50).split(16):
        metric.update(part, torch.from_numpy(predicted[part]), torch.from_numpy(measured[part]))
    expected = curve_quality(predicted, measured, grid=GRID, budgets=BUDGETS)
    actual = {name: float(value) for name, value in metric.compute().items()}
    assert actual == pytest.approx(expected, rel=1e-6)
    assert {f"gain_{budget}" for budget in BUDGETS} < set(actual)


def test_rows_repeated_by_a_distributed_sampler_count_once_and_come_back_in_order():
    metric = GatheredRows()
    values = torch.arange(5.0)[:, None]
    metric.update(torch.tensor([4, 0, 2]), values[[4, 0, 2]], values[[4, 0, 2]])
    metric.update(torch.tensor([1, 3, 0]), values[[1, 3, 0]], values[[1, 3, 0]])
    rows, predicted, _ = metric.compute()
    np.testing.assert_array_equal(rows, np.arange(5))
    np.testing.assert_array_equal(predicted[:, 0], np.arange(5))
