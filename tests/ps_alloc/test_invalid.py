"""Rows that are no curves, let through on request; and kernels compiled ahead."""

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import Allocation, _hull, allocate, warm_up

N, W = 40, 6
CURVES = make_curves("noisy", N, W, np.random.default_rng(0))
BAD = [3, 17, 39]


def broken(curves):
    curves = curves.copy()
    curves[3, 2], curves[17, 0], curves[39, 5] = np.nan, -0.5, 1.5
    return curves


@pytest.mark.parametrize("method", ["hull", "myopic", "uniform"])
def test_bad_rows_get_the_uniform_budget_and_the_others_an_allocation_of_the_rest(method):
    weights = np.random.default_rng(1).random(N) + 0.1
    arguments = {"method": method, "weights": weights, "min_windows": np.full(N, 1)}
    allocation = allocate(broken(CURVES), N * 56, invalid="uniform", **arguments)
    even = allocate(CURVES, N * 56, method="uniform")
    np.testing.assert_array_equal(allocation.windows[BAD], even.windows[BAD])
    assert allocation.invalid.tolist() == BAD
    good = np.setdiff1d(np.arange(N), BAD)
    arguments |= {"weights": weights[good], "min_windows": 1}
    left = N * 56 - int(even.tokens[BAD].sum())
    others = allocate(CURVES[good], left, **arguments)
    np.testing.assert_array_equal(allocation.windows[good], others.windows)
    assert allocation.expected_accuracy == others.expected_accuracy
    assert (allocation.price, allocation.gap_bound) == (others.price, others.gap_bound)
    assert allocation.spent_tokens == allocation.tokens.sum() <= N * 56


def test_clipped_rows_are_the_curves_they_were_meant_to_be():
    meant = np.clip(np.nan_to_num(broken(CURVES)), 0, 1)
    allocation = allocate(broken(CURVES), N * 56, invalid="clip")
    np.testing.assert_array_equal(allocation.windows, allocate(meant, N * 56).windows)
    assert allocation.invalid.tolist() == BAD


def test_a_use_that_is_none_counts_as_well():
    use = np.minimum(np.cumsum(np.full((N, W), 10.0), axis=1), 16 * np.arange(1, W + 1)).astype(np.float32)
    bad = use.copy()
    bad[3, 2], bad[17, 4], bad[39, 5] = np.nan, 5.0, 1e9
    with pytest.raises(ValueError, match=r"use must not fall .* got nan after 20.0 .* at row 3, column 2"):
        allocate(CURVES, N * 30, use=bad)
    allocation = allocate(CURVES, N * 30, use=bad, invalid="uniform")
    assert allocation.invalid.tolist() == BAD
    np.testing.assert_array_equal(allocation.expected_used[BAD], allocation.tokens[BAD])
    assert allocation.expected_used.sum() <= N * 30
    clipped = allocate(CURVES, N * 30, use=bad, invalid="clip")
    meant = use.copy()
    meant[3, 2:], meant[17, 4], meant[39, 5] = np.maximum(use[3, 2:], 48), use[17, 3], 96
    expected = allocate(CURVES, N * 30, use=meant)
    np.testing.assert_array_equal(clipped.windows, expected.windows)
    np.testing.assert_allclose(clipped.expected_used, expected.expected_used)


@pytest.mark.parametrize("n", [N, W])  # W queries: a shared use must not be taken for one of each
def test_a_use_that_all_share_is_the_same_as_a_row_each(n):
    use = 16 * np.arange(1, W + 1) * np.linspace(1.0, 0.5, W)
    curves = CURVES[:n].copy()
    curves[3, 2] = np.nan
    settings = {"invalid": "uniform", "total_tokens": n * 40}
    shared, rows = (
        allocate(curves, use=use, **settings),
        allocate(curves, use=np.tile(use, (n, 1)), **settings),
    )
    np.testing.assert_array_equal(shared.windows, rows.windows)
    np.testing.assert_allclose(shared.expected_used, rows.expected_used)
    assert shared.expected_used[3] == shared.tokens[3]


def test_a_batch_of_nothing_but_bad_rows_is_spread_evenly(tmp_path):
    allocation = allocate(np.full((5, 4), np.nan), 5 * 40, invalid="uniform")
    assert sorted(set(allocation.windows.tolist())) == [2, 3]
    assert allocation.expected_accuracy is None
    allocation.save(tmp_path / "a.json")
    assert Allocation.load(tmp_path / "a.json").invalid.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["weights", "base_accuracy"])
@pytest.mark.parametrize("curves", [broken(CURVES), np.full((N, W), np.nan)], ids=["some", "all"])
def test_settings_are_of_all_queries_though_some_are_bad(name, curves):
    """As many as there are good ones is a misaligned list."""
    with pytest.raises(
        ValueError, match=rf"{name} must be one number or have shape \(40,\), got shape \(37,"
    ):
        allocate(curves, N * 56, invalid="uniform", **{name: np.full(N - len(BAD), 0.5)})


def test_where_the_bad_rows_alone_are_worth_anything_all_get_the_same():
    weights = np.zeros(N)
    weights[BAD] = 1.0
    allocation = allocate(broken(CURVES), N * 56, invalid="uniform", weights=weights)
    even = allocate(CURVES, N * 56, method="uniform")
    np.testing.assert_array_equal(allocation.windows, even.windows)
    assert allocation.expected_accuracy is None


def test_without_bad_rows_nothing_changes():
    for invalid in ("clip", "uniform"):
        allocation = allocate(CURVES, N * 56, invalid=invalid)
        np.testing.assert_array_equal(allocation.windows, allocate(CURVES, N * 56).windows)
        assert allocation.invalid is None


def test_an_unknown_way_with_bad_rows_is_refused():
    with pytest.raises(
        ValueError, match=r"invalid must be one of \('raise', 'clip', 'uniform'\), got 'drop'"
    ):
        allocate(CURVES, N * 56, invalid="drop")


def test_after_warming_up_nothing_is_compiled():
    from ps_alloc.kernels import core, curves, menus, myopic, stream

    warm_up()
    kernels = [f for module in (core, curves, menus, myopic, stream) for f in vars(module).values()]
    kernels = [f for f in kernels if hasattr(f, "signatures")]

    def versions():
        return sum(len(f.signatures) for f in kernels)

    before = versions()
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float64):
        for n in (3, _hull.DIRECT_ROWS + 500):
            values = make_curves("noisy", n, 5, rng).astype(dtype)
            use = np.sort(rng.random((n, 5)).astype(dtype), axis=1) * 16
            for leftover in ("spread", "keep", "all"):
                allocate(values, n * 40, leftover=leftover, weights=rng.random(n))
                allocate(values, n * 9, leftover=leftover, use=use, min_windows=rng.integers(0, 2, n))
            allocate(values, n * 40, method="myopic")
            allocate(values, n * 40, method="uniform", budgets=[16, 20, 40, 80, 300])
    assert versions() == before


def test_a_use_that_cannot_be_read_is_clipped_to_the_whole_budget():
    use = np.array([[np.nan, 20.0], [4.0, np.nan], [40.0, 3.0]])
    for windows, expected in ((1, [16, 4, 16]), (2, [20, 32, 16])):
        allocation = allocate(
            np.full((3, 2), 0.5), 96, use=use, invalid="clip", min_windows=windows, max_windows=windows
        )
        assert allocation.expected_used.tolist() == expected
