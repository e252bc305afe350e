"""The one way kernels read what a query's settings, costs and values are, whatever shape they came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.jit import kernel

# Expected use is a real number; costs are whole. A token of use is this many units: rounding up costs a
# query a millionth of a token, and sums of 4 million million tokens still fit.
USE_UNITS = 2**20


@kernel
def at(setting: npt.NDArray[Any], i: int) -> Any:
    """A setting's value for query i: an array of one element is shared by all queries."""
    return setting[min(i, setting.size - 1)]


@kernel
def cost_at(
    use: npt.NDArray[np.floating],
    rate: npt.NDArray[np.int64],
    grid: npt.NDArray[np.int64],
    r: int,
    i: int,
    k: int,
) -> int:
    """Cost of k windows to query i, which is row r of `use` (R, W); `use` is (0, W) where the grid costs."""
    if use.shape[0] == 0:
        return grid[k] * at(rate, i)
    if k == 0:
        return 0
    units: int = np.int64(np.ceil(np.float64(use[r, k - 1]) * USE_UNITS))  # type: ignore[assignment]
    return units


@kernel
def accuracy_at(
    curves: npt.NDArray[np.floating], base: npt.NDArray[np.float64], r: int, i: int, k: int
) -> float:
    """Accuracy of query i, row r of `curves` (R, W), after k windows."""
    if k == 0:
        return at(base, i)
    return np.float64(curves[r, k - 1])
