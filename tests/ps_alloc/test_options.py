import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import exact_dp, highs, make_curves

from ps_alloc import OptionMenus, allocate, allocate_options, majority_vote_values, vote_menus

RNG = np.random.default_rng(0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_ragged_menus_get_the_exact_optimum(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 15))
    sizes = rng.integers(1, 7, n)
    costs = [rng.integers(0, 40, size) for size in sizes]
    values = [rng.integers(0, 20, size) / 19 for size in sizes]
    cheapest = sum(int(c.min()) for c in costs)
    budget = cheapest + int(rng.integers(0, 40 * n))
    result = allocate_options(OptionMenus.from_lists(costs, values), budget)
    chosen = [(costs[i][k], values[i][k]) for i, k in enumerate(result.options)]
    assert result.spent_tokens == sum(c for c, _ in chosen) == result.costs.sum() <= budget
    assert result.expected_value * n == pytest.approx(sum(v for _, v in chosen))
    best = exact_dp([v.tolist() for v in values], [c.tolist() for c in costs], budget)
    assert result.expected_value * n == pytest.approx(best, abs=1e-9)
    assert result.gap_bound == 0.0


def test_many_odd_costs_agree_with_highs():
    costs = [RNG.integers(1, 10_000, 6) for _ in range(300)]
    values = [RNG.random(6) for _ in range(300)]
    result = allocate_options(OptionMenus.from_lists(costs, values), 600_000)
    best = highs(values, costs, 600_000)
    assert best - result.gap_bound * 300 - 1e-6 <= result.expected_value * 300 <= best + 1e-6


def test_windows_of_a_curve_as_options_are_the_same_problem():
    curves = make_curves("noisy", 70, 9, RNG)
    menus = OptionMenus(np.arange(71) * 9, np.tile(np.arange(1, 10) * 16, 70), curves.ravel())
    options = allocate_options(menus, 70 * 64)
    windows = allocate(curves, 70 * 64, leftover="keep")
    assert options.expected_value == pytest.approx(windows.expected_accuracy)
    assert options.price == pytest.approx(windows.price)


def test_dominated_options_are_never_chosen_and_ties_go_to_the_cheaper():
    menus = OptionMenus.from_lists([[5, 1, 3, 3]], [[0.5, 0.2, 0.5, 0.1]])
    assert allocate_options(menus, 100).options.tolist() == [2]
    assert allocate_options(menus, 2).options.tolist() == [1]


def test_a_majority_of_samples_is_counted_by_enumeration():
    for p, n in itertools.product([0.0, 0.3, 0.5, 0.9, 1.0], [1, 2, 3, 4, 7]):
        expected = 0.0
        for right in range(n + 1):
            chance = math.comb(n, right) * p**right * (1 - p) ** (n - right)
            expected += chance * (1.0 if 2 * right > n else 0.5 if 2 * right == n else 0.0)
        assert majority_vote_values([[p]], n)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_votes_help_the_able_and_hurt_the_others():
    values = majority_vote_values([[0.3, 0.5, 0.7]], 15)[0]
    assert values[0] < 0.3
    assert values[1] == pytest.approx(0.5)
    assert values[2] > 0.7
    np.testing.assert_allclose(majority_vote_values([[0.3, 0.7]], 1), [[0.3, 0.7]])


def test_vote_menus_offer_every_length_with_every_number_of_samples():
    curves = np.array([[0.2, 0.8], [0.6, 0.7]])
    menus = vote_menus(curves, [1, 3], window=10)
    assert list(menus.cost[:4]) == [10, 30, 20, 60]
    assert menus.value[2] == pytest.approx(0.8)
    assert menus.value[3] == pytest.approx(0.8**3 + 3 * 0.8**2 * 0.2)
    result = allocate_options(menus, 90)
    assert result.options.tolist() == [3, 2]  # 2 windows x 3 samples, 2 windows x 1 sample


@pytest.mark.parametrize(
    ("menus", "budget", "message"),
    [
        (OptionMenus([0, 1], [3], [0.5]), 2, r"cheapest option, which takes 3 tokens, got 2"),
        (OptionMenus([0], [3], [0.5]), 9, r"start must be whole numbers of shape \(N \+ 1,\)"),
        (OptionMenus([0.0, 1.0], [3], [0.5]), 9, r"start must be whole numbers"),
        (OptionMenus([0, 2], [3], [0.5]), 9, r"start must run from 0 to M = 1, got 0 to 2"),
        (OptionMenus([0, 1, 1], [3], [0.5]), 9, r"every query must have an option, got none for query 1"),
        (OptionMenus([0, 2, 1], [3], [0.5]), 9, r"every query must have an option, got none for query 1"),
        (OptionMenus([0, 1], [3, 4], [0.5]), 9, r"cost and value must have one shape \(M,\)"),
        (OptionMenus([0, 1], ["3"], [0.5]), 9, r"cost must be an array of real numbers"),
        (OptionMenus([0, 1], [3], [True]), 9, r"value must be an array of real numbers, got dtype bool"),
        (OptionMenus([0, 1], [3], [[1], [1, 2]]), 9, r"value must be an array of .* rows of several lengths"),
        (
            OptionMenus([0, 2], [3, 4], np.ma.masked_array([0.5, 0.9], mask=[0, 1])),
            9,
            r"value must not hold masked values, got 1",
        ),
        (
            OptionMenus([0, 1], [-3], [0.5]),
            9,
            r"cost must be whole numbers, not negative and at most .*, got -3 at option 0",
        ),
        (OptionMenus([0, 1], [3.5], [0.5]), 9, r"cost must be whole numbers, .*, got 3.5"),
        (OptionMenus([0, 1], [np.nan], [0.5]), 9, r"cost must be whole numbers, .*, got nan"),
        (
            OptionMenus([0, 2], [3, 2**62], [0.5, 1]),
            9,
            r"at most 2305843009213693952 .* got 46.* at option 1",
        ),
        (OptionMenus([0, 1], [3], np.array([np.longdouble("1e400")])), 9, r"value must be finite, got inf"),
        (None, 9, r"menus must be OptionMenus of start, cost and value, got None"),
        (([0, 1], [3], [0.5]), 9, r"menus must be OptionMenus of start, cost and value, got \(\[0, 1"),
        (OptionMenus([0, 1], [3], [np.nan]), 9, r"value must be finite, got nan at option 0"),
        (OptionMenus([0, 1], [3], [0.5]), -1, r"total_tokens must be at least 0"),
    ],
)
def test_bad_menus_are_refused_with_one_sentence(menus, budget, message):
    with pytest.raises(ValueError, match=message):
        allocate_options(menus, budget)


@pytest.mark.parametrize("scale", [2.0**-1074, 2.0**-1030, 2.0**1022])
def test_values_of_any_scale_get_the_same_options(scale):
    costs = [RNG.integers(0, 30, 5) for _ in range(12)]
    values = [RNG.integers(0, 2, 5).astype(float) for _ in range(12)]
    plain = allocate_options(OptionMenus.from_lists(costs, values), 100)
    scaled = allocate_options(OptionMenus.from_lists(costs, [v * scale for v in values]), 100)
    assert scaled.options.tolist() == plain.options.tolist()
    assert scaled.expected_value == pytest.approx(plain.expected_value * scale, abs=5e-324)
    assert scaled.gap_bound == plain.gap_bound == 0.0


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"one list a query, got 1 and 2"):
        OptionMenus.from_lists([[1]], [[0.5], [0.5]])
    with pytest.raises(ValueError, match=r"equally long, got \(1,\) and \(2,\) for query 0"):
        OptionMenus.from_lists([[1]], [[0.5, 0.6]])


def test_bad_sample_counts_are_refused():
    with pytest.raises(ValueError, match=r"n_samples must be at least 1"):
        majority_vote_values([[0.5]], 0)
    with pytest.raises(ValueError, match=r"n_samples must be at least 1 and at most 1000, got 1001"):
        majority_vote_values([[0.5]], 1001)
    with pytest.raises(ValueError, match=r"sample_counts must be a list of shape \(M,\), got shape \(0,\)"):
        vote_menus([[0.5]], [])
    with pytest.raises(ValueError, match=r"sample_counts must be at least 1 and at most 1000, got 1001"):
        vote_menus([[0.5]], [3, 1001])
    with pytest.raises(ValueError, match=r"window must be at least 1 and at most 1099511627776, got 46"):
        vote_menus([[0.5]], [3], window=2**62)
