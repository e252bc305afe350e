"""Costs that are expected use: what is charged, what is really used, and what is kept back."""

import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive import make_curves

from ps_alloc import Allocation, _hull, allocate, allocate_by_difficulty

BUDGETS = np.array([64, 128, 256, 512, 1024])


def traces(n, rng, samples=200):
    """(n, samples) lengths of traces, each query's of another mean, and their mean use of the budgets."""
    lengths = rng.exponential(rng.uniform(20, 900, (n, 1)), (n, samples))
    return lengths, np.minimum(lengths[:, None], BUDGETS[:, None]).mean(axis=2)


def test_a_query_that_ends_early_is_granted_much_for_little():
    curves = np.tile([0.1, 0.2, 0.3, 0.4, 0.5], (2, 1))
    use = np.array([[10.0, 12, 12, 12, 12], [64, 128, 256, 512, 1024]])
    allocation = allocate(curves, 140, budgets=BUDGETS, use=use)
    assert allocation.tokens.tolist() == [1024, 128]
    assert allocation.expected_used.tolist() == [12, 128]
    assert allocation.spent_tokens == 140
    assert allocation.charged == "used"
    # By granted tokens the same budget buys both the least.
    assert allocate(curves, 140, budgets=BUDGETS).tokens.tolist() == [64, 64]


def test_use_that_is_the_budget_changes_nothing():
    curves = make_curves("noisy", 60, 5, np.random.default_rng(0))
    granted = allocate(curves, 60 * 200, budgets=BUDGETS, leftover="keep")
    for use in (BUDGETS, np.tile(BUDGETS, (60, 1)).astype(np.float32)):
        used = allocate(curves, 60 * 200, budgets=BUDGETS, use=use, leftover="keep")
        np.testing.assert_array_equal(used.windows, granted.windows)
        assert used.price == pytest.approx(granted.price)
    whole = allocate(curves, 60 * 48, leftover="keep")
    np.testing.assert_array_equal(
        allocate(curves, 60 * 48, budgets=16 * np.arange(1, 6), leftover="keep").windows, whole.windows
    )


def test_an_allocation_by_use_survives_its_file(tmp_path):
    rng = np.random.default_rng(1)
    curves, (_, use) = make_curves("noisy", 30, 5, rng), traces(30, rng)
    allocation = allocate(curves, 30 * 150, budgets=BUDGETS, use=use)
    allocation.save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["window"] is None
    assert content["budgets"] == BUDGETS.tolist()
    assert content["charged"] == "used"
    loaded = Allocation.load(tmp_path / "a.json")
    assert loaded.to_json_dict() == allocation.to_json_dict()
    np.testing.assert_array_equal(loaded.windows, allocation.windows)
    np.testing.assert_array_equal(loaded.expected_used, allocation.expected_used)


def test_difficulty_classes_take_a_grid_and_a_use():
    class_curves = np.array([[0.8, 0.9, 0.9, 0.9, 0.9], [0.0, 0.1, 0.3, 0.6, 0.8]])
    labels = [0, 1, 1, 0]
    allocation = allocate_by_difficulty(
        class_curves, 4 * 300, labels=labels, budgets=BUDGETS, use=[60, 100, 150, 300, 500], leftover="keep"
    )
    assert allocation.tokens.tolist() == [128, 1024, 1024, 128]


@pytest.mark.parametrize("n", [60, 400])
def test_a_reserve_keeps_what_is_really_used_within_the_budget(n):
    rng = np.random.default_rng(2)
    curves, (lengths, use) = make_curves("logistic", n, 5, rng), traces(n, rng)
    total = n * 150

    def overspent(allocation):
        drawn = lengths[np.arange(n)[:, None], rng.integers(0, lengths.shape[1], (n, 1_000))]
        return (np.minimum(drawn, allocation.tokens[:, None]).sum(axis=0) > total).mean()

    plain = allocate(curves, total, budgets=BUDGETS, use=use)
    safe = allocate(curves, total, budgets=BUDGETS, use=use, overspend_rate=0.05)
    assert 0.3 < overspent(plain) < 0.7
    assert overspent(safe) <= 0.05
    assert safe.total_tokens == total
    assert (
        safe.gap_bound is None
    )  # best for the tokens that were not kept back; of all of them nothing is known
    assert safe.expected_used.sum() < total
    # The bound is the largest spread there can be, and no more is kept back than it asks for.
    deviation = np.sqrt((safe.expected_used * (safe.tokens - safe.expected_used)).sum())
    assert safe.expected_used.sum() + 1.645 * deviation == pytest.approx(total, rel=0.02)
    assert safe.expected_accuracy > 0.8 * plain.expected_accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"budgets": [1, 2, 3, 4, 2**50], "use": [0.5, 1, 1, 1, 2**50], "overspend_rate": None},
            r"use must be at most 4398046511104 tokens where it is not whole, got 1.1259e\+15 at position 4",
        ),
        ({"use": None}, r"overspend_rate must come with use, got none: granted budgets are never overspent"),
        ({"overspend_rate": 0.0}, r"overspend_rate must be above 0 and at most 0.5, got 0.0"),
        ({"overspend_rate": 0.7}, r"overspend_rate must be above 0 and at most 0.5, got 0.7"),
        ({"total_tokens": 85}, r"min_windows and a reserve for an overspend_rate of 0.05, got 85"),
    ],
)
def test_a_reserve_that_cannot_be_kept_is_refused(change, message):
    arguments = {
        "curves": np.full((2, 5), 0.5),
        "total_tokens": 900,
        "budgets": BUDGETS,
        "use": np.tile([40.0, 60, 80, 100, 120], (2, 1)),
        "overspend_rate": 0.05,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["keep", "spread", "all"]),
    st.sampled_from(["hull", "myopic", "uniform"]),
    st.booleans(),
)
@example(71365, "keep", "hull", True)
@example(73951, "all", "hull", True)
@settings(max_examples=80)
def test_one_use_for_all_queries_and_a_row_for_each_are_one_setting(seed, leftover, method, streams):
    rng = np.random.default_rng(seed)
    n, w = int(rng.choice([1, 2, 7, 30])), int(rng.integers(1, 7))
    curves = rng.random((n, w)) if seed % 3 else rng.integers(0, 3, (n, w)) / 2
    grid = np.cumsum(rng.integers(1, 30, w))
    use = np.minimum(np.sort(rng.random(w)) * grid[-1], grid)
    if rng.random() < 0.3:
        use[w // 2 :] = use[w // 2]
    least = int(np.ceil(n * use[0] + 1e-3))
    total = least + int(rng.random() * 1.1 * n * (use[-1] - use[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_hull, "DIRECT_ROWS", 5 if streams else 4096)
        one, each = (
            allocate(curves, total, budgets=grid, use=given, leftover=leftover, method=method)
            for given in (use, np.tile(use, (n, 1)))
        )
    np.testing.assert_array_equal(one.windows, each.windows)
    assert one.spent_tokens == each.spent_tokens
    if method == "hull":  # whole uses for all are counted in tokens: rounding to finer units hides nothing
        rounding = 1.01 * each.price / 2**20 + 1e-12  # and of sums
        assert one.gap_bound == pytest.approx(each.gap_bound, abs=rounding)
    else:
        assert one.gap_bound is None


def test_a_reserve_that_is_no_constraint_changes_nothing():
    """What is used in full, or is much less than the budget, needs none kept back."""
    curves, use = [[0.1, 0.9], [0.2, 0.3]], [[16.0, 32.0], [16.0, 32.0]]
    safe = allocate(curves, 1000, use=use, overspend_rate=0.01)
    assert safe.windows.tolist() == allocate(curves, 1000, use=use).windows.tolist() == [2, 2]
    assert safe.total_tokens == 1000


def test_what_is_left_of_a_token_is_left_whatever_the_shape_of_use():
    use = np.array([[10.25, 10.5, 10.75, 11.0]])
    for given_use in (use[0], use):
        allocation = allocate([[0.5, 0.5, 0.4, 0.5]], 11, use=given_use, leftover="all")
        assert allocation.expected_used.tolist() == [10.25]


@pytest.mark.parametrize(
    ("use", "total", "windows"),
    [
        ([[16 / 3]] * 3, 16, [1, 1, 1]),
        ([[10.3], [5.7]], 16, [1, 1]),
        ([[0.1], [0.2], [0.7 + 2e-9]], 1, [0, 1, 0]),  # together a hair too much
    ],
)
def test_uses_that_add_up_to_the_budget_fit_although_they_are_rounded_up_inside(use, total, windows):
    curves = np.array([[0.9], [0.95], [0.7]])[: len(use)]
    allocation = allocate(curves, total, budgets=[16], use=use, min_windows=0, leftover="keep")
    if sum(windows) == len(use):
        assert allocation.windows.tolist() == windows
        assert allocation.spent_tokens == total
        # What everyone's fewest windows take is not rounded up either.
        assert allocate(curves, total, budgets=[16], use=use).windows.tolist() == windows
    assert allocation.expected_used.sum() <= total


def test_the_bound_counts_a_choice_that_fits_behind_one_that_does_not_by_a_hair():
    third = 16 / 3
    curves = np.array([[0.9, 0.9], [0.8, 0.8], [0.5, 0.6]])
    use = np.array([[third, third], [third, third], [third, third + 1e-9]])
    found = allocate(curves, 16, budgets=[16, 32], use=use, min_windows=0, leftover="keep")
    assert math.fsum([third] * 3) <= 16 < math.fsum([third, third, third + 1e-9])
    assert found.expected_accuracy + found.gap_bound >= (0.9 + 0.8 + 0.5) / 3


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_the_bound_is_true_where_budgets_are_just_what_some_choice_uses(seed):
    """Uses in tenths, thirds, … whose sums are whole: rounding up to units must not hide a choice."""
    rng = np.random.default_rng(seed)
    n, w = rng.integers(1, 5), rng.integers(1, 5)
    curves = rng.random((n, w)) if rng.random() < 0.7 else rng.integers(0, 4, (n, w)) / 4
    budgets = 16 * np.arange(1, w + 1)
    part = rng.choice([3, 5, 7, 10])
    use = np.sort(np.minimum(rng.integers(0, 16 * part * w, (n, w)) / part, budgets), axis=1)
    least = int(rng.integers(0, 2))
    values = np.concatenate((np.zeros((n, 1)), curves), axis=1)
    used = np.concatenate((np.zeros((n, 1)), use), axis=1)
    every = np.array(list(itertools.product(range(least, w + 1), repeat=n)))
    costs = np.array([math.fsum(row) for row in used[np.arange(n), every]])
    total = int(np.ceil(costs[rng.integers(len(every))]))
    best = values[np.arange(n), every].mean(axis=1)[costs <= total].max()
    for leftover in ("keep", "spread", "all"):
        found = allocate(curves, total, budgets=budgets, use=use, min_windows=least, leftover=leftover)
        assert math.fsum(found.expected_used) <= total
        assert found.spent_tokens <= total
        assert best - 1e-12 <= found.expected_accuracy + found.gap_bound
        assert found.expected_accuracy <= best + 1e-12


@pytest.mark.parametrize("n", [3, _hull.DIRECT_ROWS + 1])
def test_what_is_used_by_nobody_costs_nothing(n):
    allocation = allocate(np.zeros((n, 3)), 5, use=[0, 0, 0])
    assert (allocation.spent_tokens, allocation.gap_bound, allocation.price) == (0, 0.0, 0.0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 0.3]), st.integers(0, 1))
@settings(max_examples=100)
def test_a_reserve_is_refused_only_where_not_even_the_fewest_windows_can_keep_it(seed, rate, least):
    rng = np.random.default_rng(seed)
    n, w = int(rng.choice([2, 5, 20])), int(rng.integers(1, 8))
    grid = np.cumsum(rng.integers(1, 400, w))
    lengths = rng.exponential(rng.uniform(20, 2000, (n, 1)), (n, 20))
    use = np.minimum(lengths[:, None], grid[None, :, None]).mean(axis=2)

    def needed(used, tokens):
        deviation = math.sqrt((used * np.maximum(tokens - used, 0)).sum())
        return used.sum() + NormalDist().inv_cdf(1 - rate) * deviation

    fewest = math.ceil(needed(use[:, 0] * least, grid[0] * least)) + 2
    total = fewest + int(rng.random() * n * grid[-1] * rng.choice([0.01, 0.1, 1.0]))
    given_settings = {"budgets": grid, "use": use, "min_windows": least, "overspend_rate": rate}
    safe = allocate(rng.random((n, w)), total, **given_settings)
    assert needed(safe.expected_used, safe.tokens) <= total
