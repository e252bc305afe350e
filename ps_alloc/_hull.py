"""Hull allocation of curves: exact menus for small batches, a narrowing price bracket at scale."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_values
from ps_alloc._curve_kernels import curve_menus, raise_evenly
from ps_alloc._menu_kernels import climb, envelopes, take_what_fits
from ps_alloc._menus import Menus, solve, steepest_first
from ps_alloc._problem import Limits
from ps_alloc._stream_kernels import split_by_price, ties_at_price

# Up to here every envelope is built and every row may join the core.
DIRECT_ROWS = 4096
# Rows whose envelopes estimate the price, and how many standard errors the bracket reaches to either side. A
# bracket that misses costs another pass; a wider one leaves more rows undecided in every pass.
SAMPLE_ROWS = 4096
SAMPLE_VALUES = 262_144  # wide curves: fewer rows
MARGIN = 2.5
# Envelope segments on either side of the break whose rows may join the core, at scale.
CORE_SPAN = 256
GOLDEN_RATIO = 0.6180339887498949

Number = TypeVar("Number", np.int64, np.float64)


class Settings(NamedTuple):
    """Per-query settings in the kernels' order; arrays of one element or of N."""

    least: IntArray
    most: IntArray
    weight: FloatArray
    window_cost: IntArray
    base: FloatArray


class Rows(NamedTuple):
    """Rows still to be decided."""

    curves: npt.NDArray[np.floating]
    """(R, W)."""
    ids: IntArray
    """(R,). Their queries, rising; empty where row i is query i."""


class HullResult(NamedTuple):
    """Windows of every query, and the sums that describe them."""

    windows: IntArray
    value: float
    """Summed weighted accuracy."""
    price: float
    """Value per token at the margin."""
    gap: float
    """At most this much more summed value is possible."""


class Bracket(NamedTuple):
    """Prices between which the break is expected."""

    low: float
    high: float
    candidates: list[float]
    """The distinct slopes met between them, falling."""


def allocate_hull(
    curves: npt.NDArray[np.floating], limits: Limits, weight: FloatArray, base: FloatArray
) -> HullResult:
    """Maximise summed weighted accuracy within the budget.

    At scale a sample brackets the price; one streaming pass decides every row that takes the same windows at
    both ends of the bracket, nine in ten or more; the others are narrowed again, and the last few thousand
    solved exactly.

    Raises:
        ValueError: If a value is NaN or outside [0, 1].
    """
    settings = Settings(limits.least, limits.most, weight, limits.window_cost, base)
    windows = np.empty(len(curves), np.int32)
    rows = Rows(curves, np.empty(0, np.int64))
    if len(curves) <= DIRECT_ROWS:
        check_values(curves)
        value, price, gap = _solve_rows(rows, settings, limits.total_tokens, windows, core_span=None)
        return HullResult(windows.astype(np.int64), value, price, gap)

    budget = limits.total_tokens
    value = gap = 0.0
    margin = MARGIN
    room = max(DIRECT_ROWS, len(curves) // 10)
    while len(rows.curves) > DIRECT_ROWS:
        bracket = _bracket(rows, settings, budget, margin)
        undecided = Rows(np.empty((room, curves.shape[1]), curves.dtype), np.empty(room, np.int64))
        split = _split(rows, settings, bracket, windows, undecided)
        if split.suspicious:
            check_values(curves)
        if split.num_undecided > len(rows.curves) // 2:
            rows, spent, tied_value, tied_gap = _settle_ties(
                rows, settings, budget, bracket.candidates, windows
            )
            budget -= spent
            value += tied_value
            gap += tied_gap
            break
        if split.num_undecided > room:
            room = split.num_undecided
            continue
        too_much = split.decided_cost + split.high_cost > budget
        too_little = split.decided_cost + split.low_cost < budget and bracket.low > 0.0
        if too_much or too_little:
            margin *= 4.0  # the sample misled: look wider
            continue
        rows = Rows(undecided.curves[: split.num_undecided], undecided.ids[: split.num_undecided])
        room = max(DIRECT_ROWS, len(rows.curves) // 10)
        budget -= split.decided_cost
        value += split.decided_value
    rest_value, price, rest_gap = _solve_rows(rows, settings, budget, windows, CORE_SPAN)
    return HullResult(windows.astype(np.int64), value + rest_value, price, gap + rest_gap)


def spread_leftover(
    curves: npt.NDArray[np.floating],
    limits: Limits,
    weight: FloatArray,
    base: FloatArray,
    windows: IntArray,
    tokens: int,
) -> None:
    """Spend tokens that raise no curve where the curves lose least: changes `windows` (N,) in place.

    The envelopes are followed beyond their tops, flattest first. What fits no step of theirs goes to the
    queries with the fewest windows; at scale, so does a leftover too small to matter, which saves every
    envelope.
    """
    n_queries = len(curves)
    if n_queries <= DIRECT_ROWS or tokens > n_queries // 64 * int(limits.window_cost.max()):
        settings = Settings(windows, limits.most, weight, limits.window_cost, base)
        menus = Menus(*curve_menus(curves, np.empty(0, np.int64), *settings))
        seg_row, seg_item, seg_slope = envelopes(*menus, -np.inf)
        order = steepest_first(seg_slope)
        budget = tokens + int(menus.cost[menus.start[:-1]].sum())
        choice, tokens = take_what_fits(menus.start, menus.cost, seg_row, seg_item, order, budget)
        windows += choice - menus.start[:-1]
    raise_evenly(windows, limits.most, limits.window_cost, tokens)


def _of(setting: npt.NDArray[Number], ids: IntArray) -> npt.NDArray[Number]:
    """A setting of the rows with these ids, still of one element where it is shared."""
    return setting if setting.size == 1 or ids.size == 0 else setting[ids]


def _solve_rows(
    rows: Rows,
    settings: Settings,
    budget: int,
    windows: npt.NDArray[np.int32],
    core_span: int | None,
) -> tuple[float, float, float]:
    """Solve rows by their menus and write their windows; return value, price and gap."""
    if len(rows.curves) == 0:
        return 0.0, 0.0, 0.0
    menus = Menus(*curve_menus(*rows, *settings))
    solution = solve(menus, budget, core_span)
    where = rows.ids if rows.ids.size else slice(None)
    windows[where] = solution.choice - menus.start[:-1] + _of(settings.least, rows.ids)
    return float(menus.value[solution.choice].sum()), solution.price, solution.gap


def _bracket(rows: Rows, settings: Settings, budget: int, margin: float) -> Bracket:
    """Where the price lies, judged by a sample.

    The sample is spread by the golden ratio: even, and in step with no period of the rows' order.
    """
    count, num_windows = rows.curves.shape
    size = min(SAMPLE_ROWS, max(64, SAMPLE_VALUES // num_windows), count // 4)
    fractions = np.arange(1, size + 1) * GOLDEN_RATIO % 1.0
    sample = np.sort((fractions * count).astype(np.int64))
    menus = Menus(*curve_menus(rows.curves[sample], rows.ids[sample] if rows.ids.size else sample, *settings))
    seg_row, seg_item, seg_slope = envelopes(*menus, 0.0)
    order = np.argsort(-seg_slope)
    opens_row = np.ones(seg_row.size, bool)
    opens_row[1:] = seg_row[1:] != seg_row[:-1]
    before = np.where(opens_row, menus.start[seg_row], np.roll(seg_item, 1))
    spending = np.cumsum((menus.cost[seg_item] - menus.cost[before])[order])
    least_spending = int(menus.cost[menus.start[:-1]].sum())

    target = budget * (sample.size / count)
    choice, _, _ = climb(menus.start, menus.cost, seg_row, seg_item, order, int(target))
    # Standard error of the sample's spending, drawn without replacement; and a step more or less.
    error = float(menus.cost[choice].std()) * np.sqrt(sample.size * (1.0 - sample.size / count))
    error += float(menus.cost.max())
    begin, end = np.searchsorted(spending, target - least_spending + margin * error * np.array([-1.0, 1.0]))
    slopes = seg_slope[order]
    # No step gains more than a weight over at least one window: above this price nobody takes a second one.
    ceiling = 2.0 * float(settings.weight.max()) / int(settings.window_cost.min())
    return Bracket(
        low=float(slopes[end]) if end < slopes.size else 0.0,
        high=float(slopes[begin - 1]) if begin > 0 else ceiling,
        candidates=np.unique(slopes[max(0, begin - 1) : end + 1])[::-1].tolist(),
    )


class _Split(NamedTuple):
    num_undecided: int
    decided_cost: int
    high_cost: int
    low_cost: int
    decided_value: float
    suspicious: bool


def _split(
    rows: Rows,
    settings: Settings,
    bracket: Bracket,
    windows: npt.NDArray[np.int32],
    undecided: Rows,
) -> _Split:
    """One streaming pass: write the windows of rows the bracket decides, collect the others."""
    scale = float(settings.weight.max())
    cheapest, dearest = int(settings.window_cost.min()), int(settings.window_cost.max())
    # The pass compares float32 values. Its rounding moves no comparison by more than this change of price,
    # so a row decided inside the widened bracket is decided, in exact arithmetic, inside the bracket.
    largest = 1.0 + bracket.high / scale * dearest * rows.curves.shape[1]
    rounding = 2.0**-21 * largest / cheapest
    low, high = bracket.low / scale - rounding, bracket.high / scale + rounding
    return _Split(
        *split_by_price(*rows, low, high, *settings, scale, windows, undecided.ids, undecided.curves)
    )


def _settle_ties(
    rows: Rows,
    settings: Settings,
    budget: int,
    candidates: list[float],
    windows: npt.NDArray[np.int32],
) -> tuple[Rows, int, float, float]:
    """Decide rows that stand at one price in great numbers, as copies of a few curves do.

    At the right price, rows may take anything between their fewest and their most best windows at no loss:
    the first rows get the most, the last the fewest, and the rows around the break are left to be solved.

    Returns:
        The rows left, and tokens, value and gap of those decided. All rows are left where no candidate is the
        right price.
    """
    count = len(rows.curves)
    fewest, furthest = np.empty((2, count), np.int64)
    tolerance = 1e-13 * float(settings.weight.max())
    low_cost = high_cost = 0
    price = 0.0
    for price in [*candidates[:16], 0.0]:
        low_cost, high_cost = ties_at_price(
            rows.curves,
            rows.ids,
            price,
            tolerance if price > 0.0 else 0.0,
            *settings,
            fewest,
            furthest,
        )
        if low_cost > budget:
            return rows, 0, 0.0, 0.0
        if budget <= high_cost:
            break
    ids = rows.ids if rows.ids.size else np.arange(count)
    cost = _of(settings.window_cost, rows.ids)
    taken = fewest
    left = np.zeros(count, bool)
    if price > 0.0:
        fits = np.cumsum((furthest - fewest) * cost) <= budget - low_cost
        taken = np.where(fits, furthest, fewest)
        tied = np.flatnonzero(furthest > fewest)
        middle = int(np.searchsorted(tied, fits.sum()))
        left[tied[max(0, middle - DIRECT_ROWS // 2) : middle + DIRECT_ROWS // 2]] = True
    done = np.flatnonzero(~left)
    windows[ids[done]] = taken[done]
    spent = int((taken * cost)[done].sum())
    accuracy = np.where(taken > 0, rows.curves[np.arange(count), taken - 1], _of(settings.base, rows.ids))
    value = float((_of(settings.weight, rows.ids) * accuracy)[done].sum(dtype=np.float64))
    return Rows(rows.curves[left], ids[left]), spent, value, tolerance * done.size
