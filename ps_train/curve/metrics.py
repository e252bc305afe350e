"""How good predicted curves are: a functional core on arrays, and torchmetrics classes over it.

Shapes: `predicted` and `measured` are (N, W), N questions and W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from ps_alloc import allocate
from ps_alloc._checks import whole_total
from ps_alloc.allocate import Method
from ps_alloc.baselines import uniform
from ps_train.common.gathered_rows import GatheredRows
from ps_train.curve_table import score_windows

FloatArray = npt.NDArray[np.floating[Any]]
BUDGET_SHARES = (3 / 16, 6 / 16, 10 / 16)
"""Of the largest budget: where allocation gains are measured unless budgets are given. Where nearly all is
granted to everyone, or nearly nothing, there is little to gain."""


def per_window_pearson(predicted: FloatArray, measured: FloatArray) -> FloatArray:
    """Pearson correlation over the questions, one value a window (W,).

    A window where either side is constant has no correlation and scores 0, so that the constant mean curve
    scores 0 here while it can score high on `flattened_pearson`.
    """
    p, m = (values.astype(np.float64) for values in (predicted, measured))
    # A network's constant answer spreads by float32 rounding; it counts as constant.
    flat = (p.std(0) < 1e-6) | (m.std(0) < 1e-6)
    found = np.zeros(p.shape[1])
    if not flat.all():
        found[~flat] = pearson_corrcoef(torch.from_numpy(p[:, ~flat]), torch.from_numpy(m[:, ~flat])).numpy()
    return found


def flattened_pearson(predicted: FloatArray, measured: FloatArray) -> float:
    """Pearson correlation over all (question, window) pairs: the paper's r.

    It rewards knowing that every curve rises; read it beside `per_window_pearson`.
    """
    return float(per_window_pearson(predicted.reshape(-1, 1), measured.reshape(-1, 1))[0])


def best_length(curves: FloatArray, share: float = 0.9) -> npt.NDArray[np.int64]:
    """Windows after which a curve first reaches `share` of its own maximum, 1 … W (N,).

    A share below 1 keeps the noise on a long plateau from deciding.
    """
    bar = share * curves.max(1, keepdims=True) - 1e-9  # what is equal on paper differs in its last bits
    return (curves >= bar).argmax(1) + 1


def best_length_spearman(predicted: FloatArray, measured: FloatArray, share: float = 0.9) -> float:
    """Spearman correlation of predicted and measured `best_length` over the questions."""
    lengths = [best_length(curves, share) for curves in (predicted, measured)]
    if any((values == values[0]).all() for values in lengths):
        return 0.0  # a constant has no ranks
    return float(spearman_corrcoef(*(torch.from_numpy(values.astype(np.float64)) for values in lengths)))


def calibration_error(predicted: FloatArray, measured: FloatArray, num_bins: int = 15) -> float:
    """Expected calibration error: mean |predicted − measured| over equal-width bins of the prediction.

    All (question, window) pairs together; `measured` may be a share of traces, which is why torchmetrics'
    `CalibrationError`, made for labels, does not do.
    """
    bins = np.minimum((predicted.ravel() * num_bins).astype(np.int64), num_bins - 1)
    gap = np.bincount(bins, weights=(predicted - measured).ravel().astype(np.float64), minlength=num_bins)
    return float(np.abs(gap).sum() / predicted.size)


def mean_squared_error(predicted: FloatArray, measured: FloatArray) -> float:
    """Mean squared error over all (question, window) pairs."""
    return float(((predicted - measured) ** 2).mean())


def allocation_gain(
    predicted: FloatArray,
    measured: FloatArray,
    *,
    grid: npt.NDArray[np.int64],
    budgets: Sequence[float],
    method: Method = "auto",
) -> FloatArray:
    """What the predictions buy: measured accuracy of the allocation by them minus that of the uniform one.

    The whole set shares one budget: `allocate` spends `budget · N` tokens on the predicted curves, and the
    measured curves say what that was worth.

    Args:
        predicted: The curves to allocate by.
        measured: The curves to score on.
        grid: (W,) the token budgets that the curves stand for.
        budgets: Mean tokens per query, none below the grid's smallest.
        method: The allocator's.

    Returns:
        One gain a budget, as a fraction (0.1 is ten points).
    """
    n, num_windows = measured.shape
    gains = []
    for budget in budgets:
        total = whole_total(budget, n)
        spent = allocate(predicted, total, budgets=grid, min_windows=1, method=method, leftover="all")
        even = uniform(n, total, budgets=grid, min_windows=1, max_windows=num_windows)
        gains.append(accuracy_of(measured, spent.windows) - accuracy_of(measured, even.windows))
    return np.array(gains)


def accuracy_of(measured: FloatArray, windows: npt.NDArray[np.integer[Any]]) -> float:
    """Mean measured accuracy when question i reasons for `windows[i]` windows; 0 windows score 0."""
    return float(score_windows(measured, windows).mean())


class CurveQuality(GatheredRows):
    """All figures of a set of predicted curves, as a dictionary of floats.

    `mse`, `calibration_error`, `window_pearson` (mean over windows), `flattened_pearson`,
    `best_length_spearman`, `gain_<budget>` for each budget and their mean, `allocation_gain`.

    Rows may hold use beside the curves (B, 2W); then also `use_error` (mean absolute error of the use under
    each budget, as a share of the budget), `use_pearson` (of the use under the largest) and `use_bias` (the
    predicted total under each budget over the measured one, less 1: the largest deviation).

    Args:
        grid: (W,) the token budgets that the curves stand for.
        budgets: Mean tokens per query at which the allocation gain is measured; 3, 6 and 10 sixteenths of the
            grid's largest where none are given.

    Raises:
        ValueError: If there is no budget, or one is below the grid's smallest.
    """

    higher_is_better = None

    def __init__(self, grid: npt.NDArray[np.int64], budgets: Sequence[float] | None = None) -> None:
        super().__init__()
        if budgets is not None and not min(budgets, default=0) >= grid[0]:
            raise ValueError(
                f"budgets to judge by must be at least one, none below the grid's smallest, "
                f"{grid[0]} tokens, got {list(budgets)}"
            )
        self.grid, self.budgets = grid, sensible_budgets(grid) if budgets is None else tuple(budgets)

    def compute(self) -> dict[str, Tensor]:
        """The figures over all rows of all processes; on the CPU, the same in each process."""
        _, predicted, measured = self.gathered()
        width = len(self.grid)
        figures = curve_quality(
            predicted[:, :width], measured[:, :width], grid=self.grid, budgets=self.budgets
        )
        if predicted.shape[1] > width:
            figures |= use_quality(predicted[:, width:], measured[:, width:], self.grid)
        return {name: torch.tensor(value) for name, value in figures.items()}


def sensible_budgets(grid: npt.NDArray[np.int64]) -> list[float]:
    """Mean tokens per query to judge a predictor at: `BUDGET_SHARES`, none below the smallest budget."""
    return sorted({float(max(share * grid[-1], grid[0])) for share in BUDGET_SHARES})


def curve_quality(
    predicted: FloatArray, measured: FloatArray, *, grid: npt.NDArray[np.int64], budgets: Sequence[float]
) -> dict[str, float]:
    """Every figure of this module by name; see `CurveQuality`."""
    gains = allocation_gain(predicted, measured, grid=grid, budgets=budgets)
    return {
        "mse": mean_squared_error(predicted, measured),
        "calibration_error": calibration_error(predicted, measured),
        "window_pearson": float(per_window_pearson(predicted, measured).mean()),
        "flattened_pearson": flattened_pearson(predicted, measured),
        "best_length_spearman": best_length_spearman(predicted, measured),
        "allocation_gain": float(gains.mean()),
        **{f"gain_{budget:g}": float(gain) for budget, gain in zip(budgets, gains, strict=True)},
    }


def use_quality(predicted: FloatArray, measured: FloatArray, grid: npt.NDArray[np.int64]) -> dict[str, float]:
    """How good predicted use (N, W) is on a grid (W,): the figures that `CurveQuality` names."""
    totals = measured.mean(0, dtype=np.float64)
    off = predicted.mean(0, dtype=np.float64) / np.maximum(totals, 1e-9) - 1
    return {
        "use_error": float((np.abs(predicted - measured) / grid).mean()),
        "use_pearson": float(per_window_pearson(predicted[:, -1:], measured[:, -1:])[0]),
        "use_bias": float(off[np.abs(off).argmax()]),
    }
