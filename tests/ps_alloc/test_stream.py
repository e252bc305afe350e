"""The streaming pass against a slow twin: what it decides is best at both prices, however a row is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps_alloc.kernels.access import USE_UNITS
from ps_alloc.kernels.stream import LANES, ROUNDING, split_by_price


def one_or_each(rng, n, draw):
    return np.array([draw() for _ in range(1 if rng.random() < 0.5 else n)])


def draw_rows(rng):
    """Curves, use, ids and settings of some rows of n queries, as the kernel takes them."""
    n, w = int(rng.choice([3, LANES, 37, 50])), int(rng.choice([1, 3, 16, 19]))
    dtype = rng.choice([np.float32, np.float64])
    picked = np.sort(rng.choice(n, int(rng.integers(1, n + 1)), replace=False))
    ids = picked if rng.random() < 0.3 else np.empty(0, np.int64)
    rows = len(ids) or n
    curves = (rng.random((rows, w)) if rng.random() < 0.7 else rng.integers(0, 3, (rows, w)) / 2).astype(
        dtype
    )
    step = int(rng.choice([1, 16, 2**20]))
    grid = step * np.cumsum(np.append(0, rng.integers(1, 4, w)))
    use, rate = np.empty((0, w), dtype), one_or_each(rng, n, lambda: int(rng.integers(1, 5)))
    if rng.random() < 0.5:
        use, rate = (
            np.minimum(np.sort(rng.random((rows, w)) * grid[-1]), grid[1:]).astype(dtype),
            np.ones(1, int),
        )
    least = one_or_each(rng, n, lambda: int(rng.integers(0, min(w, 2) + 1)))
    most = one_or_each(rng, n, lambda: int(rng.integers(least.max(), w + 1)))
    if rng.random() < 0.5:
        most = np.array([w])
    weight = one_or_each(rng, n, lambda: float(rng.choice([0.0, 1.0, 1e-9, rng.random()])))
    base = one_or_each(rng, n, rng.random)
    return curves, use, ids, (least, most, weight, base, rate, grid)


def choices(curves, use, ids, given_settings, r):
    """Windows, weighted values and whole costs that row r may choose from."""
    i = int(ids[r]) if ids.size else r
    *each, grid = given_settings
    least, most, weight, base, rate = (setting[i if setting.size > 1 else 0] for setting in each)
    windows = np.arange(least, most + 1)
    costs = grid * rate
    if len(use):
        costs = np.append(0, np.ceil(use[r].astype(np.float64) * USE_UNITS)).astype(np.int64)
    values = weight * np.append(base, curves[r].astype(np.float64))
    return i, windows, values[windows], costs[windows]


def split(curves, use, ids, given_settings, prices, n=50):
    windows, room = np.full(n, -1, np.int32), len(curves)
    undecided = np.empty_like(curves), np.empty_like(use[:room]), np.empty(room, np.int64)
    return windows, undecided, split_by_price(curves, use, ids, given_settings, prices, windows, *undecided)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_what_is_decided_is_best_at_both_prices(seed):
    rng = np.random.default_rng(seed)
    curves, use, ids, given_settings = draw_rows(rng)
    high = float(10.0 ** rng.uniform(-3, 1)) / (given_settings[-1][-1] * (USE_UNITS if len(use) else 1))
    low = high * float(rng.choice([0.0, 0.5, 0.99]))
    windows, undecided, (count, costs, values, suspicious) = split(
        curves, use, ids, given_settings, (low, high)
    )
    assert not suspicious
    rows = range(len(curves))
    left = dict(zip(undecided[2][:count].tolist(), range(count), strict=True))
    expected_costs, expected_values = [0, 0], [0.0, 0.0]
    for r in rows:
        i, possible, value, cost = choices(curves, use, ids, given_settings, r)
        assert windows[i] in possible
        at = list(possible).index(windows[i])
        at_high, at_low = value - high * cost, value - low * cost
        # Single precision, of a value that is worth 1, may be off by this.
        width = ROUNDING * (1.0 + high * cost[-1]) + 1e-12
        assert at_high[at] >= at_high.max() - 4 * max(width, ROUNDING)
        if i in left:
            np.testing.assert_array_equal(undecided[0][left[i]], curves[r])
            if len(use):
                np.testing.assert_array_equal(undecided[1][left[i]], use[r])
        else:
            assert at_high[at] >= at_high.max() - 1e-12
            assert at_low[at] >= at_low.max() - 1e-12
        expected_costs[i in left] += int(cost[at])
        expected_values[i in left] += value[at]
    assert list(costs[:2]) == expected_costs
    np.testing.assert_allclose(values[:2], expected_values, atol=1e-12)
    assert costs[2] >= costs[1]


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("least", [np.zeros(1, int), np.zeros(40, int)], ids=["read in place", "brought in"])
def test_where_one_choice_is_clear_nothing_is_left_undecided(used, least):
    """Every way of reading rows: whole groups, and the rest of them."""
    curves = np.full((40, 5), 0.1, np.float32)
    curves[:, 2:] = 0.9, 0.92, 0.93  # at a price of 0 they would take it all
    use = np.tile(np.arange(1, 6, dtype=np.float32), (40 if used else 0, 1))
    rate = 1 if used else 3
    unit = USE_UNITS if used else rate
    rows = (least, np.array([5]), np.ones(1), np.zeros(1), np.array([rate]), np.arange(6))
    windows, _, (count, costs, _, suspicious) = split(
        curves, use, np.empty(0, int), rows, (0.05 / unit, 0.1 / unit), 40
    )
    assert (windows == 3).all()
    assert (count, suspicious) == (0, False)
    assert costs == (40 * 3 * unit, 0, 0)


@pytest.mark.parametrize("row", [0, 17, 39])
@pytest.mark.parametrize("least", [np.zeros(1, int), np.zeros(40, int)], ids=["read in place", "brought in"])
@pytest.mark.parametrize("bad", ["value", "use"])
def test_what_is_out_of_range_is_reported_wherever_it_lies(row, least, bad):
    curves, use = np.full((40, 5), 0.5, np.float32), np.tile(np.arange(1, 6, dtype=np.float32), (40, 1))
    (curves if bad == "value" else use)[row, 3] = np.nan
    rows = (least, np.array([5]), np.ones(1), np.zeros(1), np.ones(1, int), np.arange(6))
    *_, (_, _, _, suspicious) = split(curves, use, np.empty(0, int), rows, (0.0, 1e-9), 40)
    assert suspicious
