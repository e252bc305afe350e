"""Menus of every shape and kind, on both sides of every threshold, against an independent referee."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referee import bound, optimum, relaxation, tied_spending

from ps_alloc import OptionMenus, _menus, allocate_options

THRESHOLDS = {
    "FIRST_CORE": (1, 3, 64),
    "EXACT_ROWS": (3, 128),
    "WORK_LIMIT": (10, 200, 20_000_000),
    "EXACT_WORK_LIMIT": (50, 200_000_000),
    "STATE_LIMIT": (4, 1_500_000),
}


def draw_menus(rng):
    """Rows of costs and values: unsorted, tied, dominated, free, worthless, harmful, of any scale."""
    n = int(rng.choice([1, 2, 5, 9, 20, 45]))
    most = int(rng.choice([1, 2, 6, 12]))
    sizes = rng.integers(1, most + 1, n)
    cost_scale = int(rng.choice([1, 1, 16, 10**6, 2**40]))
    dearest = int(rng.choice([2, 9, 1000]))
    value_scale = rng.choice([1.0, 1.0, 1e-310, 1e200])
    levels = int(rng.choice([2, 7, 10**6]))
    costs = [rng.integers(0, dearest + 1, size) * cost_scale for size in sizes]
    lowest = rng.choice([0, 0, -levels])
    values = [rng.integers(lowest, levels + 1, size) / levels * value_scale for size in sizes]
    if rng.random() < 0.3:  # masses of ties
        kinds = rng.integers(0, min(n, 3), n)
        costs, values = [costs[k] for k in kinds], [values[k] for k in kinds]
    return costs, values


def undominated(costs, values):
    """The referee takes items by rising cost, each worth more than all cheaper ones."""
    kept_costs, kept_values, best = [], [], -np.inf
    for cost, value in sorted(zip(costs.tolist(), values.tolist(), strict=True), key=lambda p: (p[0], -p[1])):
        if value > best:
            kept_costs.append(cost)
            kept_values.append(value)
            best = value
    return np.array(kept_costs, float), np.array(kept_values)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_the_referee_finds_nothing(seed):
    rng = np.random.default_rng(seed)
    costs, values = draw_menus(rng)
    n = len(costs)
    smallest, largest = sum(int(c.min()) for c in costs), sum(int(c.max()) for c in costs)
    share = rng.choice([0.0, 1.0, 1.1, rng.random(), rng.random(), rng.random()])
    total = smallest + int(share * (largest - smallest))
    with pytest.MonkeyPatch.context() as patch:
        for name, choices in THRESHOLDS.items():
            patch.setattr(_menus, name, int(rng.choice(choices)))
        result = allocate_options(OptionMenus.from_lists(costs, values), total)

    chosen = result.options.tolist()
    assert result.costs.tolist() == [int(c[k]) for c, k in zip(costs, chosen, strict=True)]
    assert result.spent_tokens == sum(result.costs.tolist()) <= total
    value = sum(np.longdouble(v[k]) for v, k in zip(values, chosen, strict=True))
    largest_value = np.longdouble(max(np.abs(v).max() for v in values))
    tolerance = 1e-11 * largest_value * n
    assert abs(result.expected_value * np.longdouble(n) - value) <= tolerance
    rows = [undominated(c, v) for c, v in zip(costs, values, strict=True)]
    for (kept_costs, kept_values), k, c, v in zip(rows, chosen, costs, values, strict=True):
        assert (c[k], v[k]) in zip(kept_costs.tolist(), kept_values.tolist(), strict=True)
        assert k == next(j for j in range(len(c)) if (c[j], v[j]) == (c[k], v[k]))  # copies: the first

    kept_costs, kept_values = [r[0] for r in rows], [r[1] for r in rows]
    upper = relaxation(kept_values, kept_costs, total)
    assert value <= upper + tolerance
    claimed = value + np.longdouble(result.gap_bound) * n
    best = optimum(kept_values, kept_costs, total) if n <= 20 else None
    if best is not None:
        assert claimed >= best - tolerance
    elif result.gap_bound > 0:
        assert claimed >= upper - tolerance
    if largest_value < 1e-300:  # a price that no float holds
        return
    assert bound(kept_values, kept_costs, total, result.price) <= upper + 1e-9 * largest_value * n
    cheap, dear = tied_spending(kept_values, kept_costs, result.price, 1e-9 * largest_value)
    assert cheap <= total
    assert dear >= total or result.price == 0.0


@pytest.mark.parametrize("shared", [10**9, 10**15])
def test_what_all_options_cost_alike_changes_nothing(shared):
    """Beside a price times such costs, values are lost in rounding."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, size = int(rng.integers(2, 8)), int(rng.integers(2, 6))
        costs = np.cumsum(rng.integers(1, 5, (n, size)), axis=1)
        values = np.round(rng.random((n, size)), int(rng.integers(1, 6)))
        total = int(costs[:, 0].sum() + rng.integers(0, 4 * n))
        plain = allocate_options(OptionMenus.from_lists(list(costs), list(values)), total)
        dear = allocate_options(
            OptionMenus.from_lists(list(costs + shared), list(values)), total + n * shared
        )
        assert dear.options.tolist() == plain.options.tolist()
        assert dear.gap_bound == plain.gap_bound == 0.0
