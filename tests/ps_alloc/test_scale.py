"""Beyond the thresholds as they are: shapes of settings, masses of ties, leftovers, work that must end."""

import itertools

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import OptionMenus, _menus, allocate, allocate_options

N, W = 5_000, 16
SCALARS = {"min_windows": 0, "max_windows": 12, "weights": 3.0, "window_cost": 16, "base_accuracy": 0.3}


@pytest.mark.parametrize("arrays", [c for r in range(6) for c in itertools.combinations(SCALARS, r)])
def test_a_number_and_as_many_equal_numbers_are_one_setting(arrays):
    curves = make_curves("noisy", N, W, np.random.default_rng(0))
    shaped = {name: np.full(N, value) if name in arrays else value for name, value in SCALARS.items()}
    expected = allocate(curves, N * 64, **SCALARS)
    actual = allocate(curves, N * 64, **shaped)
    np.testing.assert_array_equal(actual.windows, expected.windows)
    assert (actual.price, actual.gap_bound) == (expected.price, expected.gap_bound)


@pytest.mark.parametrize("base", [0.5, np.full(N, 0.5)])
def test_weights_with_a_base_accuracy_spend_where_they_gain(base):
    rng = np.random.default_rng(0)
    curves = 0.5 + 0.5 * rng.random((N, 1)) * (1 - np.exp(-np.arange(1, 17) / 4))
    weights = np.where(np.arange(N) % 10 == 0, 10.0, 1.0)
    allocation = allocate(curves, N * 64, min_windows=0, base_accuracy=base, weights=weights, leftover="keep")
    assert allocation.expected_accuracy == pytest.approx(0.6993, abs=1e-4)
    assert allocation.spent_tokens == N * 64


def test_a_leftover_lowers_no_curve_at_scale():
    curves = np.tile([[0.9, 0, 0, 0], [0.1, 0.5, 0.5, 0.5]], (3_200, 1))
    for extra in (0, 1, 100, 101, 6_400):
        allocation = allocate(curves, 16 * (9_600 + extra))
        assert allocation.expected_accuracy == pytest.approx(0.7)
        assert allocation.spent_tokens == 16 * (9_600 + min(extra, 6_400))


def test_the_price_of_tied_rows_is_what_the_next_token_buys():
    curves = np.array([[0.1, 0.9, 0.9]] * 6_000 + [[0.1, 0.3, 0.35]] * 4_000)
    assert allocate(curves, 16 * 16_000).price == pytest.approx(0.2 / 16)
    assert allocate(curves, 16 * 15_000).price == pytest.approx(0.8 / 16)
    assert allocate(curves, 16 * 21_000).price == pytest.approx(0.05 / 16)


def test_one_query_of_great_weight_leaves_the_others_decided(monkeypatch):
    from ps_alloc import _hull

    curves = make_curves("noisy", 30_000, W, np.random.default_rng(1))
    undecided = []
    split = _hull.split_by_price

    def spy(*arguments):
        result = split(*arguments)
        undecided.append(result[0])
        return result

    monkeypatch.setattr(_hull, "split_by_price", spy)
    weights = np.ones(30_000)
    weights[7] = 1e6
    allocation = allocate(curves, 30_000 * 96, weights=weights, leftover="keep")
    assert allocation.windows[7] == curves[7].argmax() + 1
    assert undecided[0] < 15_000


@pytest.mark.parametrize("weights", [5e-324, 1e-310, 1e300])
def test_weights_of_any_size_choose_alike(weights):
    curves = make_curves("noisy", N, W, np.random.default_rng(2))
    np.testing.assert_array_equal(
        allocate(curves, N * 64, weights=weights).windows, allocate(curves, N * 64).windows
    )


@pytest.mark.parametrize("n", [28, 128])
def test_subset_sums_end_with_a_bound(n, monkeypatch):
    work = []
    fill_slack = _menus.fill_slack

    def spy(*arguments):
        result = fill_slack(*arguments)
        work.append(result[2])
        return result

    monkeypatch.setattr(_menus, "fill_slack", spy)
    rng = np.random.default_rng(0)
    cost = rng.integers(10**8, 10**9, n)
    total = int(cost.sum() // 2)
    allocation = allocate((cost / 1e9)[:, None], total, window_cost=cost, min_windows=0, leftover="keep")
    # States cost some nanoseconds each: this is what keeps a small batch below two seconds.
    assert sum(work) <= 1.1 * _menus.EXACT_WORK_LIMIT
    assert allocation.spent_tokens <= total
    assert 0 < allocation.gap_bound < 1e-5
    assert allocation.expected_accuracy + allocation.gap_bound >= total / 1e9 / n - 1e-12
    menus = OptionMenus.from_lists([[0, c] for c in cost], [[0.0, c / 1e9] for c in cost])
    options = allocate_options(menus, total)
    assert options.expected_value + options.gap_bound >= total / 1e9 / n - 1e-12


def test_costs_beyond_what_integers_hold_are_spread_within_the_budget():
    cost = 2**31
    total = 7 * cost + cost // 2
    for leftover in ("spread", "all", "keep"):
        allocation = allocate(np.zeros((5, 8)), total, window_cost=cost, leftover=leftover)
        assert allocation.windows.sum() * cost == allocation.spent_tokens <= total
    even = allocate(np.zeros((5, 8)), 37 * cost, window_cost=cost, method="uniform")
    assert even.windows.sum() == 37
    assert np.ptp(even.windows) == 1


def test_random_small_batches_keep_what_spreading_promises():
    rng = np.random.default_rng(3)
    for _ in range(300):
        n, w = rng.integers(1, 7, 2)
        curves = rng.random((n, w)) if rng.random() < 0.5 else rng.integers(0, 4, (n, w)) / 4
        before = 0.0
        for windows in range(n, n * w + 2):
            now = allocate(curves, 16 * windows).expected_accuracy
            assert now >= before - 1e-12
            assert now >= allocate(curves, 16 * windows, method="uniform").expected_accuracy - 1e-12
            before = now


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_rows_tied_at_one_price_with_costs_of_their_own_are_settled_within_the_budget(share, monkeypatch):
    from referee import relaxation

    from ps_alloc import _hull

    settled = []
    settle_ties = _hull._settle_ties
    monkeypatch.setattr(_hull, "_settle_ties", lambda *a: settled.append(settle_ties(*a)) or settled[-1])
    monkeypatch.setattr(_hull, "DIRECT_ROWS", 40)
    rng = np.random.default_rng(4)
    n = 600
    cost = 16 * rng.integers(1, 9, n)
    weights = cost / 16.0  # what costs twice as much is worth twice as much: one price for all
    curve = np.array([0.1, 0.2, 0.6, 0.65])
    total = int(cost.sum() * (1 + 3 * share))
    allocation = allocate(np.tile(curve, (n, 1)), total, weights=weights, window_cost=cost, leftover="keep")
    assert total - 128 < allocation.spent_tokens <= total
    upper = relaxation([w * curve for w in weights], [c * np.arange(1, 5) for c in cost], total)
    claimed = (allocation.expected_accuracy + allocation.gap_bound) * weights.sum()
    assert claimed >= upper - 1e-9
    assert allocation.gap_bound < 1e-3
    assert len(settled) == 1  # else the rest did not fit, and every row was solved again


def test_gains_of_a_millionth_are_weighed_like_any_other():
    curves = np.array([[0.9, 0.9, 0.9 + 6e-7], [0.9, 0.9 + 2.5e-7, 0.9 + 2.5e-7]])
    allocation = allocate(curves, 16 * 3, leftover="keep")
    assert allocation.windows.tolist() == [1, 2]
    assert allocation.gap_bound == 0.0


def test_what_single_precision_cannot_tell_apart_is_left_undecided():
    rng = np.random.default_rng(5)
    curves = np.tile([0.1, 0.5, 0.5], (N, 1))
    curves[:, 2] += 2e-8 * rng.random(N)  # the same to a float32, at the same cost
    use = np.tile([1_000.0, 20_000.0, 20_000.0], (N, 1))
    allocation = allocate(curves, N * 8_000, budgets=[1_000, 20_000, 40_000], use=use, leftover="keep")
    assert set(np.unique(allocation.windows)) == {1, 3}


@pytest.mark.parametrize("kind", ["noisy", "copies"])
def test_what_all_budgets_cost_alike_changes_nothing_at_scale(kind):
    curves = make_curves(kind, N, 6, np.random.default_rng(6)).astype(float)
    budgets = np.array([1, 3, 4, 9, 10, 20])
    plain, dear = (
        allocate(curves, N * (6 + shared), budgets=budgets + shared, leftover="keep") for shared in (0, 2**48)
    )
    for one, other in ((plain, dear), (dear, plain)):
        assert one.expected_accuracy <= other.expected_accuracy + other.gap_bound + 1e-12
        assert one.gap_bound < 1e-4
        assert one.price == pytest.approx(other.price)


@pytest.mark.parametrize("row", [0, 1_234, 4_097, 5_999])
def test_a_value_out_of_range_is_named_wherever_it_stands_among_thousands(row):
    curves = make_curves("noisy", 6_000, 5, np.random.default_rng(8))
    curves[row, 2] = np.nan
    with pytest.raises(ValueError, match=rf"curves must lie in \[0, 1\], got nan at row {row}, column 2"):
        allocate(curves, 6_000 * 40)
