"""The front door: semantics, bad input, odd arrays, files."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import KINDS, level, make_curves, released_myopic

from ps_alloc import Allocation, _menus, allocate

RNG = np.random.default_rng(0)
CURVES = make_curves("noisy", 20, 8, RNG)

batches = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(1, 12),
    st.floats(1, 13),
)


@given(batches, st.sampled_from(["hull", "myopic", "uniform"]), st.sampled_from(["spread", "keep", "all"]))
@settings(max_examples=60)
def test_no_method_ever_spends_more_than_the_budget(batch, method, leftover):
    seed, kind, n, w, mean_windows = batch
    curves = make_curves(kind, n, w, np.random.default_rng(seed))
    total = int(n * mean_windows * 16)
    allocation = allocate(curves, total, method=method, leftover=leftover)
    assert allocation.windows.dtype == allocation.tokens.dtype == np.int64
    assert ((allocation.windows >= 1) & (allocation.windows <= w)).all()
    assert allocation.spent_tokens == allocation.tokens.sum() <= total
    if leftover == "all" or (leftover == "spread" and method != "hull"):
        assert total - allocation.spent_tokens < 16 or (allocation.windows == w).all()
    accuracy = curves[np.arange(n), allocation.windows - 1].astype(float).mean()
    assert allocation.expected_accuracy == pytest.approx(accuracy)
    assert allocation.accuracy_on(curves) == pytest.approx(accuracy)


@given(batches, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_permuting_queries_permutes_the_answer_up_to_ties(batch, seed):
    curve_seed, kind, n, w, mean_windows = batch
    curves = make_curves(kind, n, w, np.random.default_rng(curve_seed))
    order = np.random.default_rng(seed).permutation(n)
    total = int(n * mean_windows) * 16
    before = allocate(curves, total, leftover="keep")
    after = allocate(curves[order], total, leftover="keep")
    assert after.expected_accuracy == pytest.approx(before.expected_accuracy, abs=1e-9)


def test_permuting_queries_without_ties_permutes_the_answer_exactly():
    curves = np.random.default_rng(1).random((60, 16))
    order = np.random.default_rng(2).permutation(60)
    windows = allocate(curves, 60 * 80).windows
    np.testing.assert_array_equal(allocate(curves[order], 60 * 80).windows, windows[order])


@given(batches)
@settings(max_examples=40)
def test_more_budget_never_lowers_the_expected_accuracy(batch):
    seed, kind, n, w, mean_windows = batch
    curves = make_curves(kind, n, w, np.random.default_rng(seed))
    accuracies = [
        allocate(curves, int(n * mean_windows) * 16 + more, leftover="keep").expected_accuracy
        for more in sorted((0, 16, 48, 16 * n))
    ]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(accuracies))


def test_ties_go_to_fewer_windows_and_then_to_the_earlier_query():
    curve = np.array([0.1, 0.3, 0.3, 0.5])
    assert allocate([curve] * 3, 16 * 4, leftover="keep").windows.tolist() == [2, 1, 1]
    flat = np.full((3, 4), 0.5)
    assert allocate(flat, 16 * 12, leftover="keep").windows.tolist() == [1, 1, 1]


def test_tokens_that_raise_no_curve_are_kept_or_spread_where_they_cost_least():
    curves = np.array([[0.1, 0.9, 0.8, 0.8], [0.5, 0.4, 0.3, 0.2], [0.2, 0.2, 0.2, 0.7]])
    kept = allocate(curves, 16 * 10, leftover="keep")
    assert kept.windows.tolist() == [2, 1, 4]
    assert (kept.spent_tokens, kept.price, kept.gap_bound) == (16 * 7, 0.0, 0.0)
    assert allocate(curves, 16 * 10).windows.tolist() == [2, 1, 4]  # every further token would lower a curve
    everything = allocate(curves, 16 * 10, leftover="all")
    assert everything.windows.tolist() == [4, 2, 4]
    assert everything.spent_tokens == 160
    # What spending all costs in expected accuracy is owned up to in the bound.
    assert everything.gap_bound == pytest.approx(kept.expected_accuracy - everything.expected_accuracy)
    flat = np.array([[0.1, 0.9, 0.9, 0.9], [0.5, 0.5, 0.4, 0.5], [0.2, 0.2, 0.2, 0.2]])
    assert allocate(flat, 16 * 8, leftover="keep").windows.tolist() == [2, 1, 1]
    spread = allocate(flat, 16 * 8)  # fewest windows first
    assert spread.windows.tolist() == [3, 2, 3]
    assert spread.gap_bound == 0.0


@pytest.mark.parametrize("leftover", ["keep", "spread", "all"])
def test_where_the_search_is_given_up_the_answer_is_no_worse_than_uniform_s(leftover, monkeypatch):
    curves = np.array([[0.0, 0.0, 0.9], [0.0, 0.3, 0.3]])
    monkeypatch.setattr(_menus, "EXACT_WORK_LIMIT", 0)  # else it would find this by itself
    monkeypatch.setattr(_menus, "WORK_LIMIT", 0)
    allocation = allocate(curves, 16 * 3, leftover=leftover)
    assert allocation.windows.tolist() == [1, 2]
    assert allocation.gap_bound == pytest.approx(0.45 / 2 - 0.15)


def test_a_budget_beyond_all_windows_gives_all_windows():
    allocation = allocate(CURVES, 10**9, leftover="all")
    assert (allocation.windows == 8).all()
    assert allocation.spent_tokens == 20 * 8 * 16
    assert allocation.total_tokens == 10**9


def test_a_query_twice_as_dear_gets_half_the_windows_for_the_same_money():
    rising = np.tile(np.linspace(0.1, 0.9, 9), (2, 1))
    allocation = allocate(rising, 16 * 12, window_cost=[16, 32], leftover="keep")
    assert allocation.windows.tolist() == [9, 1]
    assert allocation.spent_tokens == 9 * 16 + 32


def test_zero_windows_are_worth_the_base_accuracy():
    curves = np.array([[0.4, 0.5], [0.4, 0.9]])
    allocation = allocate(curves, 32, min_windows=0, base_accuracy=[0.35, 0.0], leftover="keep")
    assert allocation.windows.tolist() == [0, 2]
    assert allocation.expected_accuracy == pytest.approx((0.35 + 0.9) / 2)


def test_a_query_of_no_weight_gets_its_minimum_only():
    allocation = allocate(CURVES, 20 * 48, weights=[0.0] + [1.0] * 19, leftover="keep")
    assert allocation.windows[0] == 1


@given(batches)
@settings(max_examples=60)
def test_myopic_is_the_released_allocator_quirks_and_all(batch):
    seed, kind, n, w, mean_windows = batch
    curves = make_curves(kind, min(n, 12), w, np.random.default_rng(seed)).astype(float)
    budget = int(mean_windows * 16)
    expected = released_myopic(curves.tolist(), budget)
    actual = allocate(curves, budget * len(curves), method="myopic").windows
    np.testing.assert_array_equal(actual, expected)


def test_myopic_looks_further_ahead_only_when_every_next_window_loses():
    curves = np.array([[0.5, 0.4, 0.9], [0.5, 0.51, 0.52]])
    assert allocate(curves, 16 * 3, method="myopic", leftover="keep").windows.tolist() == [1, 2]
    both_dip = np.array([[0.5, 0.4, 0.9], [0.5, 0.45, 0.6]])
    assert allocate(both_dip, 16 * 3, method="myopic", leftover="keep").windows.tolist() == [2, 1]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_levelling_up_raises_the_lowest_first_and_spends_what_it_can(seed):
    rng = np.random.default_rng(seed)
    n, w = int(rng.integers(1, 12)), int(rng.integers(1, 10))
    least = rng.integers(0, w + 1, n)
    most = rng.integers(least, w + 1)
    cost = np.full(n, 16) if seed % 2 else rng.integers(1, 9, n)
    total = int((least * cost).sum() + rng.integers(0, 16 * w * n))
    curves = np.zeros((n, w))
    allocation = allocate(
        curves, total, method="uniform", min_windows=least, max_windows=most, window_cost=cost
    )
    floor, left = level(least, most, cost, total - int((least * cost).sum()))
    extra = allocation.windows - floor
    assert set(extra.tolist()) <= {0, 1}
    assert (allocation.windows <= most).all()
    assert (extra * cost).sum() <= left
    if seed % 2:  # equal costs: nothing that still buys a window is left
        room = (
            np.count_nonzero((np.array(floor) == np.min(floor)) & (floor < most))
            if (floor < most).any()
            else 0
        )
        assert left - (extra * cost).sum() < 16 or extra.sum() == room or (allocation.windows == most).all()


@given(st.integers(1, 400), st.integers(0, 10**6), st.booleans())
def test_one_window_more_goes_to_an_even_share_of_those_at_the_common_level(n, seed, same):
    """Error diffusion in exact fractions: every third query gets one where a third of equal steps is paid."""
    rng = np.random.default_rng(seed)
    cost = np.full(n, 16) if same else rng.integers(1, 9, n)
    left = int(rng.integers(0, cost.sum()))
    windows = allocate(np.zeros((n, 3)), int(cost.sum()) + left, method="uniform", window_cost=cost).windows
    share, owed, spare = Fraction(left, int(cost.sum())), Fraction(0), left
    for i in range(n):
        owed += share * int(cost[i])
        gets = owed >= cost[i] and cost[i] <= spare
        owed, spare = (owed - int(cost[i]), spare - cost[i]) if gets else (owed, spare)
        assert windows[i] == 1 + gets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"curves": np.array([[0.1, np.nan], [0.2, 0.3]])},
            r"curves must lie in \[0, 1\], got nan at row 0, column 1",
        ),
        ({"curves": np.array([[0.1, 0.2], [np.inf, 0.3]])}, r"got inf at row 1, column 0"),
        ({"curves": np.array([[0.1, 0.2], [0.1, 1.001]])}, r"got 1.001 at row 1, column 1"),
        ({"curves": np.array([[0.1, -0.2]])}, r"got -0.2 at row 0, column 1"),
        (
            {"curves": np.zeros(3)},
            r"curves must be an array of shape \(N, W\), both at least 1, got shape \(3,\)",
        ),
        ({"curves": np.zeros((0, 3))}, r"got shape \(0, 3\)"),
        ({"curves": np.array([["a"]])}, r"curves must be an array of real numbers, got dtype <U1"),
        ({"curves": np.array([[1j]])}, r"real numbers, got dtype complex128"),
        ({"curves": np.array([[None]])}, r"real numbers, got dtype object"),
        (
            {"total_tokens": 16 * 19},
            r"total_tokens must pay for .* which takes 320 tokens, got 304 \(a query: 16, got",
        ),
        ({"total_tokens": "many"}, r"total_tokens must be a whole number, got 'many'"),
        ({"total_tokens": 320.5}, r"total_tokens must be a whole number, got 320.5"),
        ({"total_tokens": -1}, r"total_tokens must be at least 0"),
        ({"total_tokens": 2**70}, r"total_tokens must be at least 0 and at most 2\*\*62"),
        ({"window": 0}, r"window must be at least 1 .* got 0"),
        ({"min_windows": 9}, r"min_windows must lie in \[0, 8\], got 9$"),
        ({"min_windows": 1.5}, r"min_windows must be whole numbers, got 1.5"),
        (
            {"min_windows": [1] * 19},
            r"min_windows must be one number or have shape \(20,\), got shape \(19,\)",
        ),
        ({"max_windows": [0] * 20}, r"min_windows must not exceed max_windows, got 1 and 0 for query 0"),
        ({"max_windows": -1}, r"max_windows must lie in \[0, 8\], got -1"),
        ({"weights": [1.0] * 19 + [-1.0]}, r"weights must be finite and at least 0, got -1.0 for query 19"),
        ({"weights": np.nan}, r"weights must be finite and at least 0, got nan"),
        ({"weights": 0.0}, r"weights must have a finite sum above zero, got 0"),
        ({"weights": 1e308}, r"weights must have a finite sum above zero, got inf"),
        ({"weights": "x"}, r"weights must be an array of real numbers, got dtype <U1"),
        ({"weights": [[1.0]]}, r"weights must be one number or have shape \(20,\), got shape \(1, 1\)"),
        ({"base_accuracy": 1.5}, r"base_accuracy must lie in \[0, 1\], got 1.5"),
        ({"window_cost": 0}, r"window_cost must lie in \[1, 2147483648\], got 0"),
        ({"method": "best"}, r"method must be one of .* got 'best'"),
        ({"leftover": "burn"}, r"leftover must be one of .* got 'burn'"),
        ({"window": 2**62}, r"window must be at most 2\*\*62 tokens divided by the 8 windows, got 46"),
        ({"window": 2**58}, r"costs of all queries together must be at most 46.* tokens, got up to 46"),
        ({"curves": np.ma.masked_greater(CURVES, 0.5)}, r"curves must not hold masked values, got "),
        ({"weights": np.inf}, r"weights must be finite and at least 0, got inf"),
        ({"weights": True}, r"weights must be an array of real numbers, got dtype bool"),
        ({"window_cost": 16, "budgets": range(1, 9)}, r"window_cost must stand alone, got it with budgets"),
        ({"budgets": range(1, 8)}, r"budgets must be a list of shape \(8,\), got shape \(7,\)"),
        ({"budgets": [1, 2, 3, 4, 5, 6, 7, 7]}, r"budgets must rise, got 7 after 7 at position 7"),
        ({"budgets": [1, 2, 3, 4, 5, 6, 7, 7.5]}, r"budgets must be whole tokens, got 7.5 at position 7"),
        ({"budgets": [0, 2, 3, 4, 5, 6, 7, 8]}, r"budgets must lie in \[1, .*\], got 0"),
        ({"use": np.ones((20, 7))}, r"use must have shape \(8,\) or \(20, 8\), got \(20, 7\)"),
        ({"use": np.full((20, 8), 17.0)}, r"use must not fall .* got 17.0 after 0.0 under a budget of 16"),
        ({"use": np.full((20, 8), np.nan)}, r"use must not fall .* got nan after 0.0 under a budget of 16"),
        ({"use": [9, 9, 8, 9, 9, 9, 9, 9]}, r"use must not fall .* got 8 after 9 under .* at position 2"),
        (
            {"use": np.ones((20, 8)) * 5, "total_tokens": 99},
            r"min_windows, which takes 100 tokens, got 99 \(a query: 5, ",
        ),
    ],
)
def test_bad_input_is_refused_with_one_sentence(change, message):
    arguments = {"curves": CURVES, "total_tokens": 20 * 64, **change}
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)


@pytest.mark.parametrize("bad", [np.nan, -0.5, 2.0, np.inf])
def test_bad_values_are_found_in_the_streaming_path_too(bad):
    curves = make_curves("noisy", 10_000, 16, RNG)
    curves[9_876, 3] = bad
    with pytest.raises(ValueError, match=rf"got {bad} at row 9876, column 3"):
        allocate(curves, 10_000 * 64)


def test_negative_zero_is_a_probability():
    curves = make_curves("step", 10_000, 16, RNG)
    negative = np.where(curves == 0, -curves, curves)
    assert np.signbit(negative).any()
    np.testing.assert_array_equal(
        allocate(negative, 10_000 * 64).windows, allocate(curves, 10_000 * 64).windows
    )


def odd_arrays(values):
    """The same numbers in every memory layout and dtype that keeps them."""
    yield "fortran", np.asfortranarray(values)
    yield "strided", np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)[::2, ::3]
    yield "reversed", np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
    yield "big endian", values.astype(values.dtype.newbyteorder(">"))
    yield "list", values.tolist()
    yield "float64", values.astype(np.float64)
    yield "broadcast", np.broadcast_to(values, (1, *values.shape))[0]
    frozen = values.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    unaligned = np.frombuffer(b"\0" + values.tobytes(), dtype=np.uint8)[1:].view(values.dtype)
    yield "unaligned", unaligned.reshape(values.shape)
    yield "subclass", np.ma.masked_array(values)


@pytest.mark.parametrize("n", [30, 5_000])
@pytest.mark.parametrize("w", [1, 5, 16])
def test_every_memory_layout_gives_the_same_answer(n, w):
    values = (RNG.integers(0, 65, (n, w)) / 64).astype(np.float32)  # exact in float16 as well
    total = n * (w // 2 + 1) * 16
    expected = allocate(values, total).windows
    for name, array in [*odd_arrays(values), ("float16", values.astype(np.float16))]:
        np.testing.assert_array_equal(allocate(array, total).windows, expected, err_msg=name)


def test_whole_number_curves_are_accepted_and_the_input_stays_as_it_was():
    outcomes = (RNG.random((50, 8)) < 0.4).astype(np.int8)
    kept = outcomes.copy()
    assert allocate(outcomes, 50 * 64).expected_accuracy == pytest.approx(
        allocate(outcomes.astype(bool), 50 * 64).expected_accuracy
    )
    np.testing.assert_array_equal(outcomes, kept)
    writeable = CURVES.copy()
    allocate(writeable, 20 * 64)
    writeable[0, 0] = 0.5  # still writeable


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 30), st.integers(0, 20)),
    st.sampled_from(["f2", "f4", "f8", ">f4", ">f8", "i1", "u8", "?", "g"]),
    st.booleans(),
)
@settings(max_examples=80)
def test_fuzzed_arrays_are_allocated_within_budget_or_refused(seed, shape, dtype, transpose):
    rng = np.random.default_rng(seed)
    values = (rng.random(shape) * 1.02 if seed % 3 == 0 else rng.random(shape)).astype(dtype)
    values = values.T if transpose else values
    total = int(rng.integers(0, 6_000))
    try:
        allocation = allocate(values, total)
    except ValueError:
        return
    assert allocation.tokens.sum() == allocation.spent_tokens <= total
    assert ((allocation.windows >= 1) & (allocation.windows <= values.shape[1])).all()


def test_allocations_are_deterministic_across_threads_that_share_the_kernels():
    from concurrent.futures import ThreadPoolExecutor

    curves = make_curves("noisy", 20_000, 16, RNG)
    expected = allocate(curves, 20_000 * 96).windows
    with ThreadPoolExecutor(4) as pool:
        for windows in pool.map(lambda _: allocate(curves, 20_000 * 96).windows, range(8)):
            np.testing.assert_array_equal(windows, expected)


def test_an_allocation_survives_its_file(tmp_path):
    allocation = allocate(CURVES, 20 * 64)
    allocation.save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["budget"] == 64
    assert content["tokens"] == allocation.tokens.tolist()
    loaded = Allocation.load(tmp_path / "a.json")
    assert loaded.to_json_dict() == allocation.to_json_dict()
    np.testing.assert_array_equal(loaded.windows, allocation.windows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"must hold a JSON object, got a list"),
        ({"window": 16}, r"must have the fields .* but lacks \['method'"),
        ({"window": 0, "tokens": [16]}, r"window must be at least 1 and at most 2\*\*62, got 0"),
        ({"window": True, "tokens": [16]}, r"window must be a whole number, got True"),
        ({"window": None, "tokens": [16]}, r"must have a window or budgets, got neither"),
        (
            {"window": None, "budgets": [16, 16], "tokens": [16]},
            r"budgets must rise from above 0, got \[16, 16",
        ),
        ({"window": None, "budgets": [16, 64], "tokens": [32]}, r"tokens must be 0 or one of the budgets"),
        ({"window": 16, "tokens": [-16]}, r"tokens must not be negative, got -16"),
        ({"window": 16, "tokens": [16], "expected_used": [1, 2]}, r"expected_used must be a list of shape"),
        ({"window": 16, "tokens": []}, r"tokens must be a non-empty list of whole numbers"),
        ({"window": 16, "tokens": [1.5]}, r"tokens must be a non-empty list of whole numbers"),
        ({"window": 16, "tokens": [[16], [16, 32]]}, r"tokens must be a non-empty list of whole numbers"),
        ({"window": 16, "tokens": [16], "ids": 3}, r"ids must be a list of texts, got 3"),
        ({"window": 16, "tokens": [16], "ids": [None]}, r"ids must be a list of texts, got \[None\]"),
        ({"window": 16, "tokens": [16], "method": 3}, r"a.json: method must be a text, got 3"),
        ({"window": 16, "tokens": [16], "charged": None}, r"a.json: charged must be a text, got None"),
        ({"window": 16, "tokens": [16], "price": "0.1"}, r"a.json: price must be a number, got '0.1'"),
        ({"window": 16, "tokens": [16], "gap_bound": float("inf")}, r"gap_bound must be finite, got inf"),
        ({"window": 16, "tokens": [17]}, r"tokens must be multiples of the window, 16"),
        ({"window": 16, "tokens": [16], "invalid": [1]}, r"invalid must be rows of 1, got 1"),
        ({"window": 16, "tokens": [16], "unlike": [1]}, r"unlike must be rows of 1, got 1"),
        ({"window": 16, "tokens": [16], "ids": ["a", "b"]}, r"ids must be as many as tokens \(1\), got 2"),
    ],
)
def test_a_bad_allocation_file_is_refused(tmp_path, content, message):
    if isinstance(content, dict) and "tokens" in content:
        content = {"method": "hull", "total_tokens": 16, "spent_tokens": 16, **content}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Allocation.load(tmp_path / "a.json")


def test_a_window_in_a_file_says_the_grid_whatever_budgets_stand_beside_it(tmp_path):
    content = {"method": "hull", "window": 16, "tokens": [16, 48], "total_tokens": 64, "spent_tokens": 64}
    (tmp_path / "a.json").write_text(json.dumps({**content, "budgets": "none"}))
    assert Allocation.load(tmp_path / "a.json").budgets.tolist() == [16, 32, 48]


@pytest.mark.parametrize("method", ["auto", "hull", "myopic", "uniform"])
def test_an_allocation_says_how_it_was_made(method):
    assert allocate(CURVES, 20 * 64, method=method).method == ("hull" if method == "auto" else method)


@pytest.mark.parametrize(("weights", "total"), [(np.zeros(20), "0"), (1e308, "inf")])
def test_accuracy_by_weights_of_no_finite_sum_is_refused(weights, total):
    with pytest.raises(ValueError, match=f"weights must have a finite sum above zero, got {total}"):
        allocate(CURVES, 20 * 64).accuracy_on(CURVES, weights=weights)


def test_accuracy_on_curves_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"curves must be an array of shape \(20, \d or more\), got shape \(3, 8\)"
    ):
        allocate(CURVES, 20 * 64).accuracy_on(CURVES[:3])
