"""Hull allocation of curves: exact menus for small batches, a narrowing price bracket at scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_values
from ps_alloc._menus import Menus, Solution, chosen_windows, segment_steps, solve
from ps_alloc._problem import NO_ROWS, Limits
from ps_alloc.kernels.curves import curve_menus, first_invalid, first_invalid_use
from ps_alloc.kernels.menus import climb, envelopes
from ps_alloc.kernels.stream import best_at_price, settle_tied, split_by_price

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
# Values that differ by less, of an answer of the largest weight, are ties where rows are tied in masses.
TIE = 1e-13


class Rows(NamedTuple):
    """Rows still to be decided."""

    curves: npt.NDArray[np.floating]
    """(R, W)."""
    use: npt.NDArray[np.floating]
    """(R, W) or (0, W)."""
    ids: IntArray
    """(R,). Their queries, rising; empty where row i is query i."""

    def pick(self, which: Any) -> Rows:
        """Some of the rows."""
        ids = self.ids[which] if self.ids.size else np.arange(len(self.curves))[which]
        return Rows(self.curves[which], self.use[which] if len(self.use) else self.use, ids)

    def sample(self, size: int) -> Rows:
        """Rows spread by the golden ratio: evenly, and in step with no period of their order."""
        fractions = np.arange(1, size + 1) * GOLDEN_RATIO % 1.0
        return self.pick(np.sort((fractions * len(self.curves)).astype(np.int64)))


class HullResult(NamedTuple):
    """Windows of every query, and the sums that describe them."""

    windows: IntArray
    cost: int
    """Summed units."""
    value: float
    """Summed weighted accuracy."""
    price: float
    """Value a unit of cost at the margin."""
    gap: float
    """At most this much more summed value is possible."""


class Bracket(NamedTuple):
    """Prices between which the break is expected."""

    low: float
    high: float
    candidates: FloatArray
    """The distinct slopes met between them, falling."""


class _Decided(NamedTuple):
    """What is settled once some rows are decided."""

    cost: int
    value: float
    gap: float
    low: float
    """They are decided for every price from here ..."""
    high: float
    """... to here."""


def allocate_hull(
    curves: npt.NDArray[np.floating], limits: Limits, weight: FloatArray, base: FloatArray
) -> HullResult:
    """Maximise summed weighted accuracy within the budget.

    At scale a sample brackets the price; one streaming pass decides every row that takes the same windows at
    both ends of the bracket, nine in ten or more; the others are narrowed again, and the last few thousand
    solved exactly.

    Raises:
        ValueError: If a value is NaN or outside [0, 1], or a use is no use.
    """
    rows = Rows(curves, limits.costs.use, NO_ROWS)
    settings = limits.settings(weight, base)
    windows = np.empty(len(curves), np.int32)
    if len(curves) <= DIRECT_ROWS:
        _check(limits, rows)
        budget = limits.budget
        # Uses are rounded up to units: with a unit more for each query, nothing that fits is left out.
        hidden = len(curves) if limits.costs.unit > 1 else 0
        cost, value, solution = _solve_rows(rows, settings, budget + hidden, windows, core_span=None)
        gap = solution.gap
        if cost > budget and not limits.costs.fit(windows, limits.total_tokens):
            highest = value + gap
            cost, value, solution = _solve_rows(rows, settings, budget, windows, core_span=None)
            gap = max(0.0, highest - value)
        return HullResult(windows.astype(np.int64), cost, value, solution.price, gap)
    for widening in (1.0, 4.0, 16.0):
        rest, decided = _narrow(rows, limits, settings, windows, widening * MARGIN)
        if decided.low > decided.high:  # no price is right for all rows
            continue
        cost, value, solution = 0, 0.0, Solution(NO_ROWS, 0.0, 0.0, np.inf)
        if len(rest.curves):
            left = limits.budget - decided.cost
            cost, value, solution = _solve_rows(rest, settings, left, windows, CORE_SPAN)
        # The price of the rest must be one at which the others were decided: their losses are 0 only there.
        price = min(max(solution.price, decided.low), decided.high)
        if abs(min(max(price, solution.price), solution.highest_price) - price) <= 1e-12 * price:
            unspent = price * (limits.budget - decided.cost)
            gap = decided.gap + (solution.gap if len(rest.curves) else unspent)
            cost, value = decided.cost + cost, decided.value + value
            return HullResult(windows.astype(np.int64), cost, value, price, gap)
    cost, value, solution = _solve_rows(rows, settings, limits.budget, windows, CORE_SPAN)
    return HullResult(windows.astype(np.int64), cost, value, solution.price, solution.gap)


def _narrow(
    rows: Rows, limits: Limits, settings: tuple[Any, ...], windows: npt.NDArray[np.int32], margin: float
) -> tuple[Rows, _Decided]:
    """Decide rows by narrowing brackets until few are left; write their windows."""
    decided = _Decided(0, 0.0, 0.0, 0.0, np.inf)
    room = max(DIRECT_ROWS, len(rows.curves) // 10)
    ceiling = 0.0
    ties: _Ties | None = None  # what bisecting the sample's slopes found
    while len(rows.curves) > DIRECT_ROWS:
        budget = limits.budget - decided.cost
        bracket = ties.bracket() if ties else _bracket(rows, limits, settings, budget, margin, ceiling)
        undecided = Rows(
            np.empty((room, rows.curves.shape[1]), rows.curves.dtype),
            np.empty((room if len(rows.use) else 0, rows.curves.shape[1]), rows.use.dtype),
            np.empty(room, np.int64),
        )
        count, (cost, high_cost, low_cost), (value, _, _), suspicious = split_by_price(
            *rows, settings, (bracket.low, bracket.high), windows, *undecided
        )
        if suspicious:
            _check(limits, rows)
        too_much = cost + high_cost > budget
        too_little = cost + low_cost < budget and bracket.low > 0.0
        if too_much or too_little or count > len(rows.curves) // 2:
            if ties is None and not (too_much or too_little):
                ties = _bisect(rows, settings, budget, bracket)
            elif ties is None:
                margin *= 4.0  # the sample misled: look wider
                ceiling = max(2.0 * ceiling, 4.0 * bracket.high) if too_much else ceiling
                continue
            elif ties.span == 0:
                break  # rounding stands between two neighbouring slopes: solve what is left as it is
            else:
                ties = ties._replace(span=ties.span // 8)
            if ties.found is not None and (ties.span == 0 or ties.found.in_masses()):
                rest, tied = _settle_ties(rows, settings, budget, ties.found, windows)
                return rest, _Decided(
                    decided.cost + tied.cost,
                    decided.value + tied.value,
                    decided.gap + tied.gap,
                    max(decided.low, tied.low),
                    min(decided.high, tied.high),
                )
            continue
        if count > room:
            room = count
            continue
        ties = None
        rows = Rows(undecided.curves[:count], undecided.use[:count], undecided.ids[:count])
        room = max(DIRECT_ROWS, count // 10)
        decided = _Decided(
            decided.cost + cost,
            decided.value + value,
            decided.gap,
            max(decided.low, bracket.low),
            min(decided.high, bracket.high),
        )
    return rows, decided


def _check(limits: Limits, rows: Rows) -> None:
    check_values(rows.curves)
    limits.costs.check_use()


def _solve_rows(
    rows: Rows, settings: tuple[Any, ...], budget: int, windows: npt.NDArray[np.int32], core_span: int | None
) -> tuple[int, float, Solution]:
    """Solve rows by their menus and write their windows; return their cost, their value and the solution."""
    *items, of_item = curve_menus(*rows, settings)
    menus = Menus(*items)
    solution = solve(menus, budget, core_span)
    where = rows.ids if rows.ids.size else slice(None)
    least = settings[0] if settings[0].size == 1 else settings[0][where]
    windows[where] = chosen_windows(menus, solution.choice, of_item, least)
    cost, value = int(menus.cost[solution.choice].sum()), float(menus.value[solution.choice].sum())
    return cost, value, solution


def _bracket(
    rows: Rows, limits: Limits, settings: tuple[Any, ...], budget: int, margin: float, ceiling: float
) -> Bracket:
    """Where the price lies, judged by a sample."""
    count, num_windows = rows.curves.shape
    size = max(1, min(SAMPLE_ROWS, max(64, SAMPLE_VALUES // num_windows), count // 4))
    sample = rows.sample(size)
    budgets = limits.costs.grid[1:].astype(np.float64)
    if first_invalid(sample.curves.reshape(-1)) >= 0 or first_invalid_use(sample.use, budgets)[0] >= 0:
        _check(limits, rows)
    menus = Menus(*curve_menus(*sample, settings)[:3])
    seg_row, seg_item, seg_slope = envelopes(*menus, 0.0)
    order = np.argsort(-seg_slope)
    spending = np.cumsum(segment_steps(menus, seg_row, seg_item)[0][order])
    least_spending = int(menus.cost[menus.start[:-1]].sum())

    target = budget * (size / count)
    choice, _, _ = climb(menus.start, menus.cost, seg_row, seg_item, order, int(target))
    # Standard error of the sample's spending, drawn without replacement; and a step more or less.
    error = float(menus.cost[choice].std()) * np.sqrt(size * (1.0 - size / count))
    error += float(menus.cost.max())
    begin, end = np.searchsorted(spending, target - least_spending + margin * error * np.array([-1.0, 1.0]))
    slopes = seg_slope[order]
    steepest = float(slopes[0]) if slopes.size else 1.0 / max(1.0, float(limits.costs.grid[-1]))
    return Bracket(
        low=float(slopes[end]) if end < slopes.size else 0.0,
        # Rows outside the sample may be steeper than all in it: `ceiling` rises until it is above them.
        high=float(slopes[begin - 1]) if begin > 0 else max(ceiling, 2.0 * steepest),
        candidates=np.unique(slopes[max(0, begin - 1) : end + 1])[::-1],
    )


class _Price(NamedTuple):
    """The price at which rows are tied, and what they may take there."""

    price: float
    fewest: IntArray
    furthest: IntArray
    low_cost: int

    def in_masses(self) -> bool:
        """Whether more rows are tied than can be solved together."""
        return int(np.count_nonzero(self.furthest > self.fewest)) > DIRECT_ROWS or self.price == 0.0


class _Ties(NamedTuple):
    """Where among the candidate prices spending passes the budget."""

    candidates: list[float]
    """Falling, from the bracket's high end to its low end."""
    above: int
    """Position of the cheapest one known to be too dear."""
    below: int
    """Position of the dearest one known to be too cheap."""
    found: _Price | None
    """The one between them, if any."""
    span: int = 64
    """Candidates further away on either side: enough rows for a good core, unless masses stand tied there."""

    def bracket(self) -> Bracket:
        low = self.candidates[min(self.below + self.span, len(self.candidates) - 1)]
        high = self.candidates[max(self.above - self.span, 0)]
        return Bracket(low, high, np.empty(0))


def _bisect(rows: Rows, settings: tuple[Any, ...], budget: int, bracket: Bracket) -> _Ties:
    """Find the slope at which spending passes the budget: rows stand tied there in masses, as copies do."""
    inside = [float(price) for price in bracket.candidates if bracket.low < price < bracket.high]
    candidates = [bracket.high, *inside, bracket.low]
    fewest, furthest = np.empty((2, len(rows.curves)), np.int64)
    tolerance = TIE * float(settings[2].max())
    above, below = -1, len(candidates)
    while below - above > 1:
        middle = (above + below) // 2
        price = candidates[middle]
        width = tolerance * (price > 0.0)
        low_cost, high_cost = best_at_price(*rows, settings, price, width, fewest, furthest)
        if low_cost > budget:
            below = middle
        elif high_cost <= budget and price > 0.0:  # the next token is bought more cheaply
            above = middle
        else:
            return _Ties(candidates, middle - 1, middle + 1, _Price(price, fewest, furthest, low_cost))
    return _Ties(candidates, above, below, None)


def _settle_ties(
    rows: Rows, settings: tuple[Any, ...], budget: int, found: _Price, windows: npt.NDArray[np.int32]
) -> tuple[Rows, _Decided]:
    """Decide rows that are tied at the price.

    They may take anything between their fewest and their most best windows at no loss: the first rows get the
    most, the last the fewest, and the rows around the break are left to be solved.

    Returns:
        The rows left, and what was decided of the others.
    """
    span = max(1, DIRECT_ROWS // 2)
    slack = budget - found.low_cost
    furthest = found.furthest if found.price > 0.0 else found.fewest
    left, cost, value = settle_tied(*rows, settings, found.fewest, furthest, slack, span, windows)
    gap = TIE * float(settings[2].max()) * (len(left) - np.count_nonzero(left)) if found.price > 0.0 else 0.0
    return rows.pick(left), _Decided(cost, value, gap, found.price, found.price)
