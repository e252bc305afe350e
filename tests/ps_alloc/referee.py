"""An independent referee of allocations: linear relaxation in long double, exact search, nothing of ps_alloc.

A problem is rows of items: `values[i][j]` and `costs[i][j]` of row i; costs in tokens, not falling. One item
a row is chosen.
"""

import bisect
import itertools

import numpy as np

LONG = np.longdouble


def reduced(values, costs, price):
    return [LONG(v) - LONG(price) * c for v, c in zip(values, costs, strict=True)]


def bound(values, costs, budget, price):
    """Lagrangian bound: no choice within the budget is worth more, whatever the price."""
    return LONG(price) * budget + sum(r.max() for r in reduced(values, costs, price))


def tied_spending(values, costs, price, tolerance):
    """Least and most that the rows' best items at a price cost, up to a tolerance in value."""
    low = high = LONG(0)
    for c, r in zip(costs, reduced(values, costs, price), strict=True):
        best = c[r >= r.max() - tolerance]
        low, high = low + best.min(), high + best.max()
    return low, high


def relaxation(values, costs, budget):
    """The linear relaxation's value: the least bound over every slope at which a row changes its mind."""
    slopes = {LONG(0)}
    for v, c in zip(values, costs, strict=True):
        for a, b in itertools.combinations(range(len(v)), 2):
            if v[b] > v[a] and c[b] > c[a]:
                slopes.add((LONG(v[b]) - LONG(v[a])) / (LONG(c[b]) - LONG(c[a])))
    slopes = sorted(slopes)
    # Spending falls with the price: the bound is least where it passes the budget.
    where = bisect.bisect_left(
        range(len(slopes)), True, key=lambda i: tied_spending(values, costs, slopes[i], 0)[0] <= budget
    )
    near = slopes[max(0, where - 1) : where + 2]
    return min(bound(values, costs, budget, price) for price in near)


def optimum(values, costs, budget):
    """The best value within the budget, by keeping every undominated (cost, value) of the rows so far.

    None where they become too many.
    """
    states = [(0.0, 0.0)]
    for v, c in zip(values, costs, strict=True):
        items = list(zip(v.astype(float), c.astype(float), strict=True))
        reached = sorted((cost + y, -(value + x)) for cost, value in states for x, y in items)
        if len(reached) > 20_000:
            return None
        states, best = [], -np.inf
        for cost, value in reached:
            if cost <= budget * (1 + 1e-12) and -value > best:
                states.append((cost, -value))
                best = -value
    return states[-1][1]
