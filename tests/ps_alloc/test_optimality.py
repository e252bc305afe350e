"""The hull allocator against exhaustive search, a plain dynamic program and HiGHS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import KINDS, envelope_value, exact_dp, exhaustive, highs, make_curves

from ps_alloc import _hull, allocate
from ps_alloc._menus import steepest_first
from ps_alloc.kernels.menus import envelopes


def value_of(allocation):
    return allocation.expected_accuracy * len(allocation)


def largest_increment(curves):
    with_zero = np.concatenate((np.zeros((len(curves), 1)), curves), axis=1)
    return np.max(with_zero.max(axis=1) - with_zero.min(axis=1))


small_curves = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        # Few distinct values make ties; 1/7 has no exact float.
        st.sampled_from([0.0, 1 / 7, 0.25, 0.5, 0.75, 1.0]),
        min_size=shape[0] * shape[1],
        max_size=shape[0] * shape[1],
    ).map(lambda values: np.array(values).reshape(shape))
)


@given(small_curves, st.integers(0, 1), st.floats(0, 1))
def test_tiny_batches_get_the_optimum_that_exhaustive_search_finds(curves, least, share):
    n, w = curves.shape
    total = least * n + round(share * (w - least) * n)
    allocation = allocate(curves, total * 16, min_windows=least, leftover="keep")
    assert value_of(allocation) == pytest.approx(exhaustive(curves, total, least), abs=1e-9)
    assert allocation.gap_bound <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean_windows", [1.5, 4, 9])
def test_a_hundred_queries_get_the_exact_optimum(kind, mean_windows):
    curves = make_curves(kind, 100, 16, np.random.default_rng(1))
    total = int(mean_windows * 100)
    allocation = allocate(curves, total * 16, leftover="keep")
    best = exact_dp(curves.astype(float).tolist(), [range(1, 17)] * 100, total)
    assert value_of(allocation) == pytest.approx(best, abs=1e-9)
    assert allocation.gap_bound == 0.0


def test_highs_agrees_with_the_plain_dynamic_program():
    curves = make_curves("noisy", 40, 8, np.random.default_rng(2)).astype(float)
    best = exact_dp(curves.tolist(), [range(1, 9)] * 40, 150)
    assert highs(curves, [np.arange(1, 9)] * 40, 150) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_queries_are_within_the_gap_bound_of_highs(kind):
    curves = make_curves(kind, 1000, 16, np.random.default_rng(3))
    allocation = allocate(curves, 4_321 * 16, leftover="keep")
    best = highs(curves.astype(float), [np.arange(1, 17)] * 1000, 4_321)
    assert value_of(allocation) <= best + 1e-6
    assert value_of(allocation) + allocation.gap_bound * 1000 >= best - 1e-6
    assert allocation.gap_bound * 1000 < largest_increment(curves)


@pytest.mark.parametrize("mean_tokens", [32, 96, 200])
def test_real_curves_are_solved_exactly(gsm8k_tables, mean_tokens):
    pytest.importorskip("pyarrow", reason="reads the real tables")
    from ps_train.curve_table import CurveTable

    curves = CurveTable.load(gsm8k_tables / "test", features=[]).curves
    n = len(curves)
    allocation = allocate(curves, mean_tokens * n, leftover="keep")
    best = highs(curves.astype(float), [np.arange(1, 17)] * n, mean_tokens * n // 16)
    assert value_of(allocation) == pytest.approx(best, abs=1e-6)
    assert allocation.gap_bound == 0.0


@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS))
@settings(max_examples=30)
def test_limits_weights_and_costs_of_each_query_are_kept_and_used_best(seed, kind):
    rng = np.random.default_rng(seed)
    n, w = int(rng.integers(2, 25)), int(rng.integers(1, 12))
    curves = make_curves(kind, n, w, rng)
    least = rng.integers(0, w + 1, n)
    most = rng.integers(least, w + 1)
    weights, base = rng.uniform(0.1, 5, n), rng.uniform(0, 0.3, n)
    cost = rng.integers(1, 9, n)
    budget = int((least * cost).sum() + rng.uniform(0, 1) * ((most - least) * cost).sum())
    allocation = allocate(
        curves,
        budget,
        min_windows=least,
        max_windows=most,
        weights=weights,
        window_cost=cost,
        base_accuracy=base,
        leftover="keep",
    )
    assert (allocation.windows >= least).all()
    assert (allocation.windows <= most).all()
    assert allocation.spent_tokens == (allocation.windows * cost).sum() <= budget
    with_zero = np.concatenate((base[:, None], curves), axis=1) * weights[:, None]
    values = [with_zero[i, least[i] : most[i] + 1].tolist() for i in range(n)]
    costs = [[int(k * cost[i]) for k in range(least[i], most[i] + 1)] for i in range(n)]
    best = exact_dp(values, costs, budget)
    assert allocation.expected_accuracy * weights.sum() == pytest.approx(best, abs=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_envelopes_touch_what_every_pair_of_points_gives(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 2, 5, 8, 40]))  # short rows are wrapped, long ones chained
    cost = np.cumsum(rng.integers(1, 5, size))
    value = rng.integers(0, 6, size) / 5 if seed % 2 else rng.random(size)
    _, item, slope = envelopes(np.array([0, size]), cost, value, 0.0)
    assert (np.diff(slope) <= 0).all()
    assert (np.diff(item) > 0).all()
    assert (slope > 0).all()
    for vertex in item:
        assert value[vertex] == pytest.approx(envelope_value(cost, value, cost[vertex]))
    assert value[item[-1] if item.size else 0] == value.max()


@pytest.mark.parametrize("width", [31, 32, 33, 40])
def test_rows_on_either_side_of_the_change_of_method_are_solved_exactly(width):
    curves = make_curves("noisy", 40, width, np.random.default_rng(10))
    allocation = allocate(curves, 40 * 16 * width // 2, leftover="keep")
    best = exact_dp(curves.astype(float).tolist(), [range(1, width + 1)] * 40, 40 * width // 2)
    assert value_of(allocation) == pytest.approx(best, abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0]), max_size=40))
def test_segments_are_sorted_like_a_stable_sort(slopes):
    slopes = np.array(slopes)
    np.testing.assert_array_equal(steepest_first(slopes), np.argsort(-slopes, kind="stable"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean_windows", [1.1, 3.3, 9.0, 15.5])
def test_the_streaming_path_finds_what_solving_every_row_finds(kind, mean_windows, monkeypatch):
    curves = make_curves(kind, 30_000, 16, np.random.default_rng(4))
    total = int(30_000 * mean_windows) * 16
    streamed = allocate(curves, total, leftover="keep")
    monkeypatch.setattr(_hull, "DIRECT_ROWS", 10**9)
    direct = allocate(curves, total, leftover="keep")
    assert streamed.spent_tokens <= total
    assert value_of(streamed) == pytest.approx(value_of(direct), abs=largest_increment(curves))
    assert value_of(streamed) + streamed.gap_bound * 30_000 >= value_of(direct) - 1e-6
    assert streamed.gap_bound * 30_000 < largest_increment(curves)


@pytest.mark.parametrize("seed", range(6))
def test_the_streaming_path_keeps_limits_weights_and_costs_of_each_query(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    n, w = 9_000, int(rng.integers(2, 40))
    curves = make_curves("noisy", n, w, rng).astype(rng.choice([np.float32, np.float64]))
    least = rng.integers(0, w // 2 + 1, n) if seed % 2 else 0
    most = rng.integers(least, w + 1, n) if seed % 3 else None
    weights = rng.uniform(0, 5, n) if seed != 1 else 2.5
    cost = rng.integers(1, 9, n) if seed != 2 else None
    settings = {
        "min_windows": least,
        "max_windows": most,
        "weights": weights,
        "window_cost": cost,
        "base_accuracy": rng.uniform(0, 0.3, n),
        "leftover": "keep",
    }
    cheapest = int((np.broadcast_to(least, n) * (16 if cost is None else cost)).sum())
    total = cheapest + int(3.7 * n * (16 if cost is None else 4))
    streamed = allocate(curves, total, **settings)
    assert (streamed.windows >= least).all()
    assert (streamed.windows <= (w if most is None else most)).all()
    assert streamed.spent_tokens == (streamed.windows * (16 if cost is None else cost)).sum() <= total
    monkeypatch.setattr(_hull, "DIRECT_ROWS", 10**9)
    direct = allocate(curves, total, **settings)
    tolerance = streamed.gap_bound + 1e-12
    assert streamed.expected_accuracy == pytest.approx(direct.expected_accuracy, abs=tolerance)
    assert streamed.price == pytest.approx(direct.price)


@pytest.mark.parametrize("margin", [0.01, 0.3, 40.0])
def test_a_bracket_that_misses_or_is_far_too_wide_only_costs_time(margin, monkeypatch):
    curves = make_curves("logistic", 20_000, 16, np.random.default_rng(5))
    expected = allocate(curves, 20_000 * 96)
    monkeypatch.setattr(_hull, "MARGIN", margin)
    allocation = allocate(curves, 20_000 * 96)
    np.testing.assert_array_equal(allocation.windows, expected.windows)


@pytest.mark.parametrize("sample", [600, 2000, 5000])
def test_the_answer_does_not_depend_on_the_sample(sample, monkeypatch):
    curves = make_curves("noisy", 40_000, 16, np.random.default_rng(6))
    expected = allocate(curves, 40_000 * 80)
    monkeypatch.setattr(_hull, "SAMPLE_ROWS", sample)
    np.testing.assert_array_equal(allocate(curves, 40_000 * 80).windows, expected.windows)


def test_identical_rows_at_scale_are_settled_in_row_order():
    curve = make_curves("logistic", 1, 16, np.random.default_rng(7))
    allocation = allocate(np.repeat(curve, 50_000, axis=0), 50_000 * 80, leftover="keep")
    assert allocation.gap_bound * 50_000 < largest_increment(curve)
    changes = np.count_nonzero(np.diff(allocation.windows))
    assert changes <= 20  # one break, and the few rows that use up the slack
    assert allocation.windows[0] >= allocation.windows[-1]


def test_a_budget_beyond_every_use_gives_every_row_its_best_and_keeps_the_rest():
    curves = make_curves("noisy", 10_000, 16, np.random.default_rng(8))
    allocation = allocate(curves, 10_000 * 16 * 100, leftover="keep")
    np.testing.assert_array_equal(allocation.windows, np.argmax(curves, axis=1) + 1)
    assert allocation.price == 0.0
    assert allocation.gap_bound == 0.0
    spread = allocate(curves, 10_000 * 16 * 100, leftover="all")
    assert (spread.windows == 16).all()


@pytest.mark.parametrize("n", [300, 8_000])
def test_a_leftover_is_spread_where_the_curves_lose_least(n):
    curves = make_curves("noisy", n, 16, np.random.default_rng(9)).astype(float)
    total = n * 16 * 15
    kept = allocate(curves, total, leftover="keep")
    spread = allocate(curves, total, leftover="all")
    assert kept.price == 0.0
    assert total - spread.spent_tokens < 16
    assert (spread.windows >= kept.windows).all()
    # Nothing that spends as much loses less: the mirrored problem, solved with a bonus on every window.
    bonus = curves * 0.5 + 0.5 / 16 * np.arange(1, 17)
    best = allocate(bonus, total, leftover="keep")
    assert best.spent_tokens == total
    optimum = (best.expected_accuracy - 0.5 / 16 * best.windows.mean()) * 2
    assert spread.expected_accuracy == pytest.approx(optimum, abs=2 / n)


@pytest.mark.parametrize("n", [70, 300])
def test_copies_of_a_few_curves_are_solved_exactly_and_soon(n, monkeypatch):
    """What class labels and mean curves make: hundreds of rows tied at the break."""
    from ps_alloc import _menus

    work, fill_slack = [], _menus.fill_slack
    monkeypatch.setattr(_menus, "fill_slack", lambda *a: work.append(fill_slack(*a)) or work[-1])
    rng = np.random.default_rng(n)
    for classes in (1, 3):
        few = make_curves("noisy", classes, 9, rng)
        curves = few[rng.integers(0, classes, n)]
        for left in (0, 3, 7):
            total = n * 4 + left
            allocation = allocate(curves, 16 * total, leftover="keep")
            assert allocation.gap_bound == 0.0
            best = np.append(0.0, np.full(total, -np.inf))
            for curve in curves:
                best = np.max(
                    [np.append(np.full(k, -np.inf), best[:-k]) + curve[k - 1] for k in range(1, 10)], 0
                )
            assert allocation.expected_accuracy * n == pytest.approx(best.max())
    assert sum(result[2] for result in work) < 2_000_000


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_copies_with_costs_of_any_size_lose_nothing_by_being_left_out(seed):
    from ps_alloc import _menus

    rng = np.random.default_rng(seed)
    n, w, classes = int(rng.integers(5, 13)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    which = rng.integers(0, classes, n)
    curves = (rng.integers(0, 5, (classes, w)) / 4)[which]
    cost = rng.integers(1, 6, classes)[which] * int(rng.choice([1, 3]))
    costs = cost[:, None] * np.arange(w + 1)
    total = int(costs[:, -1].sum() * rng.random())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_menus, "FIRST_CORE", 1)
        allocation = allocate(curves, total, window_cost=cost, min_windows=0, leftover="keep")
    values = np.concatenate((np.zeros((n, 1)), curves), axis=1)
    assert allocation.gap_bound == 0.0
    assert allocation.expected_accuracy * n == pytest.approx(exact_dp(values, costs, total))


@pytest.mark.parametrize(
    ("curves", "total", "best"),
    [
        ([[0.4, 0.5, 0.6], [0.0, 0.0, 0.9]], 3, 0.25),
        ([[0.4, 0.0, 0.8], [0.0, 0.1, 0.3]], 3, 0.25),
        ([[0.4, 0.2, 0.8], [0.7, 0.8, 0.6]], 3, 0.6),
    ],
)
def test_a_row_that_gives_up_most_of_what_is_unspent_is_still_looked_at(curves, total, best):
    """The break leaves a window, and the best way to spend it costs more than half of its price."""
    allocation = allocate(curves, 16 * total, leftover="keep")
    assert allocation.expected_accuracy == pytest.approx(best)
    assert allocation.gap_bound == 0.0
