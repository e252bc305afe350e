"""Hull allocation of curves: exact menus for small batches, a narrowing price bracket at scale."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc._curve_kernels import curve_menus
from ps_alloc._menu_kernels import climb, envelopes
from ps_alloc._menus import Menus, solve
from ps_alloc._problem import FloatArray, IntArray, Limits, check_values
from ps_alloc._stream_kernels import split_by_price, ties_at_price

# Up to here every envelope is built and every row may join the core.
DIRECT_ROWS = 4096
# Rows whose envelopes estimate the price, and how many standard errors wide the bracket around it is.
SAMPLE_ROWS = 2048
MARGIN = 3.5
# Envelope segments on either side of the break whose rows may join the core, at scale.
CORE_SPAN = 256
# Rows one thread takes at a time. Fixed, so that sums do not depend on the number of threads.
CHUNK_ROWS = 32_768
GOLDEN_RATIO = 0.6180339887498949


class Settings(NamedTuple):
    """Per-query settings in the kernels' order; arrays of one element or of N."""

    least: IntArray
    most: IntArray
    weight: FloatArray
    window_cost: IntArray
    base: FloatArray


class HullResult(NamedTuple):
    """Windows of every query, and the sums that describe them."""

    windows: IntArray
    value: float
    """Summed weighted accuracy."""
    price: float
    gap: float
    """At most this much more summed value is possible."""


class Bracket(NamedTuple):
    """Prices between which the break is expected."""

    low: float
    high: float
    candidates: FloatArray
    """The distinct slopes met between them, falling."""


def allocate_hull(
    curves: npt.NDArray[np.floating], limits: Limits, weight: FloatArray, base: FloatArray, threads: int = 1
) -> HullResult:
    """Maximise summed weighted accuracy within the budget.

    At scale a sample brackets the price; one streaming pass decides every row that takes the same windows at
    both ends of the bracket, which is nearly all of them; the few others are narrowed again, and the last of
    them solved exactly.

    Raises:
        ValueError: If a value is NaN or outside [0, 1].
    """
    n_queries = len(curves)
    settings = Settings(limits.least, limits.most, weight, limits.window_cost, base)
    windows = np.empty(n_queries, np.int64)
    budget = limits.total_tokens
    if n_queries <= DIRECT_ROWS:
        check_values(curves)
        rows = np.arange(n_queries)
        value, price, gap = _solve_rows(curves, settings, rows, budget, windows, core_span=None)
        return HullResult(windows, value, price, gap)

    every_row = rows = np.empty(0, np.int64)  # empty stands for all
    count = n_queries
    value = gap = 0.0
    margin = MARGIN
    while count > DIRECT_ROWS:
        bracket = _bracket(curves, settings, rows, count, budget, margin)
        part = _split(curves, settings, rows, count, bracket, windows, threads)
        if part.suspicious:
            check_values(curves)
        binds = part.decided_cost + part.low_cost >= budget
        if part.decided_cost + part.high_cost > budget or (not binds and bracket.low > 0.0):
            margin *= 4.0  # the sample misled: look wider
            continue
        if part.undecided.size > count // 2:
            if rows is every_row:
                rows = np.arange(n_queries)
            rows, spent, tied_value, tied_gap = _settle_ties(
                curves, settings, rows, budget, bracket.candidates, windows
            )
            budget -= spent
            value += tied_value
            gap += tied_gap
            break
        rows = part.undecided
        count = rows.size
        budget -= part.decided_cost
        value += part.decided_value
    rest_value, price, rest_gap = _solve_rows(curves, settings, rows, budget, windows, CORE_SPAN)
    return HullResult(windows, value + rest_value, price, gap + rest_gap)


def _solve_rows(
    curves: npt.NDArray[np.floating],
    settings: Settings,
    rows: IntArray,
    budget: int,
    windows: IntArray,
    core_span: int | None,
) -> tuple[float, float, float]:
    """Solve rows by their menus and write their windows; return value, price and gap."""
    if rows.size == 0:
        return 0.0, 0.0, 0.0
    menus = Menus(*curve_menus(curves, rows, *settings))
    solution = solve(menus, budget, core_span)
    least = settings.least if settings.least.size == 1 else settings.least[rows]
    windows[rows] = solution.choice - menus.start[:-1] + least
    return float(menus.value[solution.choice].sum()), solution.price, solution.gap


def _bracket(
    curves: npt.NDArray[np.floating],
    settings: Settings,
    rows: IntArray,
    count: int,
    budget: int,
    margin: float,
) -> Bracket:
    """Where the price lies, judged by a sample.

    The sample is spread by the golden ratio: even, and in step with no period of the rows' order.
    """
    size = min(SAMPLE_ROWS, count)
    positions = np.unique(np.floor((np.arange(1, size + 1) * GOLDEN_RATIO % 1.0) * count).astype(np.int64))
    sample = positions if rows.size == 0 else rows[positions]
    menus = Menus(*curve_menus(curves, sample, *settings))
    seg_row, seg_item, seg_slope = envelopes(*menus)
    order = np.argsort(-seg_slope, kind="stable")
    before = np.where(
        np.r_[True, seg_row[1:] != seg_row[:-1]][: seg_row.size], menus.start[seg_row], np.roll(seg_item, 1)
    )
    spending = np.cumsum((menus.cost[seg_item] - menus.cost[before])[order])
    least_spending = int(menus.cost[menus.start[:-1]].sum())

    target = budget * (sample.size / count)
    choice, _, _ = climb(menus.start, menus.cost, seg_row, seg_item, order, int(target))
    # Standard error of the sample's spending, without replacement.
    error = float(menus.cost[choice].std()) * np.sqrt(sample.size * max(0.0, 1.0 - sample.size / count))
    error += float(menus.cost.max())  # a row more or less
    begin, end = np.searchsorted(spending, target - least_spending + margin * error * np.array([-1.0, 1.0]))
    slopes = seg_slope[order]
    # No step gains more than a weight over at least one window: above this price nobody takes a second one.
    ceiling = 2.0 * float(settings.weight.max()) / int(settings.window_cost.min())
    return Bracket(
        low=float(slopes[end]) if end < slopes.size else 0.0,
        high=float(slopes[begin - 1]) if begin > 0 else ceiling,
        candidates=np.unique(slopes[max(0, begin - 1) : end + 1])[::-1],
    )


class _Part(NamedTuple):
    undecided: IntArray
    decided_cost: int
    high_cost: int
    low_cost: int
    decided_value: float
    suspicious: bool


def _split(
    curves: npt.NDArray[np.floating],
    settings: Settings,
    rows: IntArray,
    count: int,
    bracket: Bracket,
    windows: IntArray,
    threads: int,
) -> _Part:
    """One streaming pass: decide what the bracket decides. Chunks are independent of the number of threads."""
    scale = float(settings.weight.max())
    cheapest, dearest = int(settings.window_cost.min()), int(settings.window_cost.max())
    # The pass compares float32 values. Its rounding moves no comparison by more than a step of this price does, so
    # a row decided inside the widened bracket is decided in exact arithmetic inside the bracket.
    largest = 1.0 + bracket.high / scale * dearest * curves.shape[1]
    rounding = 2.0**-21 * largest / cheapest
    low, high = bracket.low / scale - rounding, bracket.high / scale + rounding

    def chunk(begin: int) -> _Part:
        end = min(begin + CHUNK_ROWS, count)
        return _Part(
            *split_by_price(
                curves,
                rows,
                begin,
                end,
                low,
                high,
                *settings,
                scale,
                windows,
            )
        )

    begins = range(0, count, CHUNK_ROWS)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(chunk, begins))
    else:
        parts = [chunk(begin) for begin in begins]
    return _Part(
        undecided=np.concatenate([part.undecided for part in parts]),
        decided_cost=sum(part.decided_cost for part in parts),
        high_cost=sum(part.high_cost for part in parts),
        low_cost=sum(part.low_cost for part in parts),
        decided_value=sum(part.decided_value for part in parts),
        suspicious=any(part.suspicious for part in parts),
    )


def _settle_ties(
    curves: npt.NDArray[np.floating],
    settings: Settings,
    rows: IntArray,
    budget: int,
    candidates: FloatArray,
    windows: IntArray,
) -> tuple[IntArray, int, float, float]:
    """Decide rows that stand at one price in great numbers, as copies of a few curves do.

    At the right price, rows may take anything between their fewest and their most best windows at no loss:
    the first rows get the most, the last the fewest, and the rows around the break are left to be solved.

    Returns:
        The rows left, and tokens, value and gap of those decided. Everything is left where no candidate is
        the right price.
    """
    fewest, furthest = np.empty((2, rows.size), np.int64)
    tolerance = 1e-13 * float(settings.weight.max())
    cost = settings.window_cost if settings.window_cost.size == 1 else settings.window_cost[rows]
    for price in [*candidates[:16], 0.0]:
        low_cost, high_cost = ties_at_price(
            curves, rows, price, tolerance if price > 0 else 0.0, *settings, fewest, furthest
        )
        if low_cost > budget:
            return rows, 0, 0.0, 0.0
        if budget <= high_cost or price == 0.0:
            break
    if price == 0.0:
        left = np.zeros(0, np.int64)
        decided = np.ones(rows.size, bool)
        taken = fewest
    else:
        upgrade = np.cumsum((furthest - fewest) * cost)
        fits = upgrade <= budget - low_cost
        open_rows = np.flatnonzero(furthest > fewest)
        middle = np.searchsorted(open_rows, fits.sum())
        left = open_rows[max(0, middle - DIRECT_ROWS // 2) : middle + DIRECT_ROWS // 2]
        decided = np.ones(rows.size, bool)
        decided[left] = False
        taken = np.where(fits, furthest, fewest)
    where = rows[decided]
    windows[where] = taken[decided]
    spent = int((taken * cost)[decided].sum())
    weight = settings.weight if settings.weight.size == 1 else settings.weight[where]
    base = settings.base if settings.base.size == 1 else settings.base[where]
    accuracy = np.where(taken[decided] > 0, curves[where, taken[decided] - 1], base)
    return rows[left], spent, float((weight * accuracy).sum(dtype=np.float64)), tolerance * where.size
