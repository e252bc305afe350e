"""What becomes of tokens that raise no curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray
from ps_alloc._menus import Menus, chosen_windows, steepest_first
from ps_alloc._problem import NO_ROWS, Limits
from ps_alloc.kernels.curves import curve_menus, mean_accuracy, raise_evenly, raise_one_each
from ps_alloc.kernels.menus import envelopes, take_what_fits


def uniform_windows(limits: Limits) -> IntArray:
    """(N,) the same for every query, as nearly as whole windows and limits allow."""
    windows = limits.fewest()
    raise_evenly(windows, limits.most, *limits.costs.arrays, limits.budget - limits.costs.of(windows))
    return windows


def cheapest_step(limits: Limits) -> int:
    """Units below which no query can pay for a step; a token, where steps of use can be of any size."""
    if limits.costs.unit > 1:
        return limits.costs.unit
    return int(np.diff(limits.costs.grid).min()) * int(limits.costs.rate.min())


def spend_everything(
    curves: npt.NDArray[np.floating],
    limits: Limits,
    settings: tuple[Any, ...],
    windows: IntArray,
    left: int,
) -> None:
    """Spend what is left where the curves lose least: changes `windows` (N,) in place.

    The envelopes are followed beyond their tops, flattest first. What fits no step of theirs goes to the
    queries with the fewest windows.
    """
    *items, of_item = curve_menus(curves, limits.costs.use, NO_ROWS, (windows.copy(), *settings[1:]))
    menus = Menus(*items)
    seg_row, seg_item, seg_slope = envelopes(*menus, -np.inf)
    order = steepest_first(seg_slope)
    budget = left + int(menus.cost[menus.start[:-1]].sum())
    choice, left = take_what_fits(menus.start, menus.cost, seg_row, seg_item, order, budget)
    windows[:] = chosen_windows(menus, choice, of_item, windows)
    left = raise_evenly(windows, limits.most, *limits.costs.arrays, left)
    raise_one_each(windows, limits.most, *limits.costs.arrays, left)


def at_least_uniform(
    curves: npt.NDArray[np.floating],
    limits: Limits,
    weight: FloatArray,
    base: FloatArray,
    windows: IntArray,
    expected: float,
) -> tuple[IntArray, float]:
    """The windows, or uniform's where these curves expect more of it; and what they expect."""
    even = uniform_windows(limits)
    of_even = mean_accuracy(curves, even, weight, base)
    # Sums in another order differ by rounding, which must not choose.
    return (even, of_even) if of_even > expected * (1 + 1e-12) else (windows, expected)
