"""Checked input of the allocators: what a user passes, as the kernels want it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_alloc._curve_kernels import first_invalid

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
LARGEST_TOTAL = 2**62  # sums of tokens stay inside int64


@dataclass(frozen=True)
class Limits:
    """What each of N queries may and must spend. Arrays have one element, for all queries, or N."""

    n_queries: int
    total_tokens: int
    """The budget, in tokens."""
    window: int
    """Tokens a window."""
    least: IntArray
    """Fewest windows."""
    most: IntArray
    """Most windows."""
    window_cost: IntArray
    """Tokens charged for one window."""

    def full(self, name: str) -> IntArray:
        """A fresh (N,) copy of `least`, `most` or `window_cost`."""
        return np.broadcast_to(getattr(self, name), self.n_queries).copy()

    def cost(self, windows: IntArray) -> int:
        """Tokens that (N,) or (1,) windows cost the whole batch."""
        if windows.size == 1 and self.window_cost.size == 1:
            return self.n_queries * int(windows[0]) * int(self.window_cost[0])
        if self.window_cost.size == 1:
            return int(windows.sum()) * int(self.window_cost[0])
        return int((windows * self.window_cost).sum())


def check_limits(
    n_queries: int,
    num_windows: int,
    total_tokens: int,
    window: int,
    min_windows: npt.ArrayLike,
    max_windows: npt.ArrayLike | None,
    window_cost: npt.ArrayLike | None,
) -> Limits:
    """Check a batch's limits.

    Raises:
        ValueError: If one is out of range or out of shape, or the budget cannot pay for every query's
            minimum; that message gives the smallest budget that can.
    """
    n_queries = whole("the number of queries", n_queries, at_least=1)
    total_tokens = whole("total_tokens", total_tokens, at_least=0)
    window = whole("window", window, at_least=1)
    least = per_query("min_windows", min_windows, n_queries, low=0, high=num_windows)
    if max_windows is None:
        most = np.array([num_windows])
    else:
        most = per_query("max_windows", max_windows, n_queries, low=0, high=num_windows)
    above = np.flatnonzero(np.atleast_1d(least > most))
    if above.size:
        raise ValueError(
            f"min_windows must not exceed max_windows, got {_at(least, above[0])} and {_at(most, above[0])} "
            f"for query {above[0]}"
        )
    if window_cost is None:
        costs = np.array([window])
    else:
        costs = per_query("window_cost", window_cost, n_queries, low=1, high=2**31)
    limits = Limits(n_queries, total_tokens, window, least, most, costs)
    smallest = limits.cost(least)
    if total_tokens < smallest:
        raise ValueError(
            f"total_tokens must pay for every query's min_windows, which takes {smallest} tokens, "
            f"got {total_tokens}"
        )
    return limits


def check_curves(curves: npt.ArrayLike, name: str = "curves") -> npt.NDArray[np.floating]:
    """Curves as a contiguous float32 or float64 array (N, W). Values are not looked at: see `check_values`.

    float32 and float64 arrays in C order are used as they are, memory-mapped ones too; everything else is
    copied.

    Raises:
        ValueError: If the dtype is not real numbers, or the shape is not (N, W) with N and W at least 1.
    """
    values = np.asarray(curves)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be an array of real numbers, got dtype {values.dtype}")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must be an array of shape (N, W), both at least 1, got shape {values.shape}"
        )
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        dtype: type[np.floating] = np.float64
    else:
        dtype = np.float64 if values.dtype.itemsize == 8 else np.float32
    # One type of array means one compiled kernel: numba tells writeable arrays from read-only ones.
    checked = np.ascontiguousarray(values, dtype=dtype).view(np.ndarray)
    checked.flags.writeable = False
    return checked


def check_values(curves: npt.NDArray[np.floating], name: str = "curves") -> None:
    """Refuse curves with NaN, infinity or a value outside [0, 1], naming the first.

    Raises:
        ValueError: If there is one.
    """
    bad = first_invalid(curves.reshape(-1))
    if bad >= 0:
        row, column = divmod(int(bad), curves.shape[1])
        raise ValueError(
            f"{name} must lie in [0, 1], got {curves[row, column]} at row {row}, column {column}"
        )


def per_query(name: str, values: npt.ArrayLike, n_queries: int, low: int, high: int) -> IntArray:
    """A whole-number setting, one for all queries or one each, as an int64 array of size 1 or N.

    Raises:
        ValueError: If it is not whole numbers in [low, high], or its shape is neither () nor (N,).
    """
    array = np.asarray(values)
    if array.shape not in ((), (n_queries,)):
        raise ValueError(f"{name} must be one number or have shape ({n_queries},), got shape {array.shape}")
    array = np.atleast_1d(array)
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and (array != np.floor(array)).any()):
        raise ValueError(f"{name} must be whole numbers, got dtype {array.dtype}")
    outside = np.flatnonzero(~((array >= low) & (array <= high)))
    if outside.size:
        raise ValueError(
            f"{name} must lie in [{low}, {high}], got {array[outside[0]]} for query {outside[0]}"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def per_query_float(name: str, values: npt.ArrayLike, n_queries: int, high: float) -> FloatArray:
    """A real setting in [0, high], one for all queries or one each, as a float64 array of size 1 or N.

    Raises:
        ValueError: If it is not finite numbers in [0, high], or its shape is neither () nor (N,).
    """
    array = np.asarray(values)
    if array.shape not in ((), (n_queries,)):
        raise ValueError(f"{name} must be one number or have shape ({n_queries},), got shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    array = np.ascontiguousarray(np.atleast_1d(array), dtype=np.float64)
    outside = np.flatnonzero(~((array >= 0) & (array <= high) & np.isfinite(array)))
    if outside.size:
        raise ValueError(f"{name} must lie in [0, {high:g}], got {array[outside[0]]} for query {outside[0]}")
    return array


def whole(name: str, value: object, at_least: int) -> int:
    """A whole number.

    Raises:
        ValueError: If it is not one, or is below `at_least` or beyond what token counts can hold.
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # 96 * n / 1 is a float, and means a whole number
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if not at_least <= number <= LARGEST_TOTAL:
        raise ValueError(f"{name} must be at least {at_least} and at most 2**62, got {number}")
    return number


def _at(values: IntArray, query: int) -> int:
    return int(values[query if values.size > 1 else 0])
