"""The solver: one item a row from menus of (cost, value), under one budget (multiple-choice knapsack)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.core import fill_slack, worth_changing
from ps_alloc.kernels.menus import climb, envelopes, smallest_losses

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# States that the core's dynamic program may look at, some nanoseconds each. Real curves need some thousands;
# only adversarial ones, such as many copies of one curve or costs of nine digits, reach a limit: they get a
# bound above 0 instead of seconds of proof. Small batches may take up to about two seconds.
WORK_LIMIT = 20_000_000
EXACT_ROWS = 128
EXACT_WORK_LIMIT = 200_000_000
SCALE_WORK_LIMIT = 25_000  # at scale a bound of a step in a million queries is not worth waiting for
# States alive at once, about 100 bytes each; four times as many are remembered, 24 bytes each.
STATE_LIMIT = 1_500_000
THIN_STATES = 20_000  # of a last try where a limit was reached
FIRST_CORE = 64


class Menus(NamedTuple):
    """Items of N rows in CSR form: row i holds items `start[i]` to `start[i + 1] - 1`, M in all."""

    start: IntArray
    """(N + 1,)."""
    cost: IntArray
    """(M,). Strictly rising within a row; a row's first item is the least one may choose."""
    value: FloatArray
    """(M,)."""


class Solution(NamedTuple):
    """One item a row, and what is known about it."""

    choice: IntArray
    """(N,). Index of the chosen item, counted over all rows."""
    price: float
    """Value per unit of cost at the margin; 0 where the budget does not bind."""
    gap: float
    """At most this much more value is possible; 0 is proved optimal."""
    highest_price: float
    """Every price from `price` to this one describes the margin: they differ where nothing is left over."""


def solve(menus: Menus, budget: int, core_span: int | None = None) -> Solution:
    """Choose by the rows' concave envelopes, steepest first; then spend what is left by a dynamic program.

    At price p every item has a loss: what its row gives up in value - p * cost against the row's best item. A
    solution misses the linear relaxation's bound by the sum of its losses plus p * (unspent budget), and
    neither is ever negative. So a row whose smallest loss exceeds the best such total so far cannot take part
    in an optimum: rows join the dynamic program's core by rising loss until that happens (Pisinger 1995's
    expanding core). docs/allocation.md derives it.

    Args:
        menus: The rows' menus.
        budget: Most the chosen items may cost: no less than all first items together.
        core_span: Consider for the core only the rows of this many envelope segments before and after the
            break. None considers all rows, without which optimality cannot be proved.
    """
    seg_row, seg_item, seg_slope = envelopes(*menus, 0.0)
    order = steepest_first(seg_slope)
    choice, slack, taken = climb(menus.start, menus.cost, seg_row, seg_item, order, budget)
    last = float(seg_slope[order[taken - 1]]) if taken else np.inf
    if taken == order.size:  # every row has its best value
        return Solution(choice, 0.0, 0.0, last if slack == 0 else 0.0)
    price = float(seg_slope[order[taken]])
    if slack == 0:
        return Solution(choice, price, 0.0, last)
    if core_span is None:
        rows = np.arange(choice.size)
    else:
        rows = np.unique(seg_row[order[max(0, taken - core_span) : taken + core_span]])
    loss, largest = smallest_losses(*menus, choice, rows, price)
    tolerance = 1e-12 * largest
    inside = np.flatnonzero(loss < price * slack - tolerance)
    inside = inside[steepest_first(-loss[inside])]
    if inside.size > FIRST_CORE:
        inside = inside[worth_changing(*menus, choice, rows[inside], slack)]
    core, core_loss = rows[inside], loss[inside]
    work_limit = EXACT_WORK_LIMIT if choice.size <= EXACT_ROWS else WORK_LIMIT
    if core_span is not None:
        work_limit = SCALE_WORK_LIMIT
    best, gap = choice, price * slack

    def search(core: IntArray, core_loss: FloatArray, work_limit: int, state_limit: int) -> tuple[bool, int]:
        """Keep the best choice of these rows; whether it is proved, and the work."""
        nonlocal best, gap
        trial, limits = choice.copy(), (work_limit, state_limit)
        found, proved, work = fill_slack(*menus, trial, core, core_loss, price, slack, tolerance, *limits)
        if found <= gap:
            best, gap = trial, found
        return proved, work

    for size in (FIRST_CORE, core.size):  # the whole core is looked at only where the first rows do not do
        complete, work = search(core[:size], core_loss[:size], work_limit, STATE_LIMIT)
        if size >= core.size or core_loss[size] >= gap - tolerance or not complete:
            break
        work_limit -= work
    if not complete and core_span is None:
        # Rows of equal loss in order of the break: changes up and down then lie side by side.
        near = np.lexsort((_distance(seg_row, order, taken, choice.size)[core], core_loss))
        search(core[near], core_loss[near], min(WORK_LIMIT, work_limit), THIN_STATES)
    return Solution(best, price, 0.0 if complete and core_span is None else gap, price)


def segment_steps(menus: Menus, seg_row: IntArray, seg_item: IntArray) -> tuple[IntArray, FloatArray]:
    """(S,) what each of a row's envelope segments adds to cost and value, from what `envelopes` returned."""
    opens_row = np.ones(seg_row.size, bool)
    opens_row[1:] = seg_row[1:] != seg_row[:-1]
    before = np.where(opens_row, menus.start[seg_row], np.roll(seg_item, 1))
    return menus.cost[seg_item] - menus.cost[before], menus.value[seg_item] - menus.value[before]


def chosen_windows(menus: Menus, choice: IntArray, of_item: IntArray, least: IntArray) -> IntArray:
    """(R,) windows of chosen items, from what `curve_menus` returned; `least` has one element or R."""
    return of_item[choice] if of_item.size else choice - menus.start[:-1] + least


def _distance(seg_row: IntArray, order: IntArray, taken: int, n_rows: int) -> IntArray:
    """(N,). How far from the break, counted in segments, each row's nearest segment lies."""
    away = np.abs(np.arange(order.size) - taken)
    distance = np.full(n_rows, order.size)
    np.minimum.at(distance, seg_row[order], away)
    return distance


def steepest_first(slopes: FloatArray) -> IntArray:
    """The order that sorts slopes falling, equal ones by their position: by row, and in a row the cheaper
    first.

    numpy's fast sort is not stable; sorting (rank, position) again where there are ties still beats its
    stable one.
    """
    order = np.argsort(-slopes)
    ranked = slopes[order]
    falls = ranked[1:] != ranked[:-1]
    if not falls.all():
        rank = np.zeros(order.size, np.int64)
        np.cumsum(falls, out=rank[1:])
        order = np.sort(rank * order.size + order) % order.size
    return order
