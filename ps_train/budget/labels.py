"""The budget a query needs, read off its measured accuracy curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_train.curve.metrics import best_length


def needed_budgets(
    curves: npt.NDArray[np.floating],
    window: int,
    *,
    share: float = 0.9,
    smoothing: int = 3,
    min_best: float = 0.05,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The smallest budget whose accuracy reaches a share of the best accuracy on the curve.

    Measured curves are noisy, and noise acts twice: the maximum of W noisy values is too high, and the first
    value to reach a bar may do so by luck. So each point is averaged with its neighbours first (a moving
    mean over `smoothing` windows; the end points stand in for what lies beyond them), and the bar is below
    the best, which keeps the last thousandth of a flat end from deciding. Two halves of the same traces then
    agree better on the budget, and a budget read off one half reaches more on the other
    (benchmarks/budget_labels.py). Of equal points the first counts.

    A curve whose best smoothed accuracy is below `min_best` has no known budget: a share of nothing is
    reached at once, yet nothing is bought by it; what the query needs lies beyond the largest budget
    measured, or nowhere.

    Args:
        curves: (N, W) measured accuracies.
        window: Tokens a window.
        share: In (0, 1].
        smoothing: Windows averaged, an odd number; 1 for the curves as they are.
        min_best: Least best accuracy, in (0, 1].

    Returns:
        (N,) budgets in tokens, and (N,) whether each is known; an unknown one is the largest measured.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """
    faults = []
    if not 0 < share <= 1:
        faults.append(f"share must be above 0 and at most 1, got {share}")
    if smoothing < 1 or smoothing % 2 == 0:
        faults.append(f"smoothing must be an odd number of windows, got {smoothing}")
    if not 0 < min_best <= 1:
        faults.append(f"min_best must be above 0 and at most 1, got {min_best}")
    if faults:
        raise ValueError("; ".join(faults))
    smooth = _moving_mean(curves.astype(np.float64), smoothing // 2)
    known = smooth.max(1) >= min_best - 1e-9
    windows = np.where(known, best_length(smooth, share), curves.shape[1])
    return windows * window, known


def _moving_mean(curves: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """Means over a point and `reach` neighbours on either side."""
    padded = np.pad(curves, ((0, 0), (reach, reach)), mode="edge")
    means: npt.NDArray[np.float64]
    means = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1).mean(-1)
    return means
