import numpy as np
import pytest
from naive import make_curves

from ps_alloc import allocate
from ps_alloc.baselines import no_information_mix, noise_honest_oracle, uniform

RNG = np.random.default_rng(0)


def test_uniform_at_half_a_window_gives_every_second_query_one_more():
    allocation = uniform(8, 8 * 72, max_windows=16)
    assert allocation.tokens.tolist() == [64, 80] * 4
    assert allocation.spent_tokens == 8 * 72


@pytest.mark.parametrize(("n", "total"), [(1, 16), (7, 777), (10, 1600), (10, 10**6), (3, 50)])
def test_uniform_is_what_the_uniform_method_gives(n, total):
    allocation = uniform(n, total, max_windows=8)
    np.testing.assert_array_equal(
        allocation.windows, allocate(np.zeros((n, 8)), total, method="uniform").windows
    )
    assert np.ptp(allocation.windows) <= 1


def test_uniform_without_the_money_for_the_minimum_is_refused():
    with pytest.raises(ValueError, match=r"takes 320 tokens, got 100"):
        uniform(10, 100, min_windows=2, max_windows=8)


def test_the_mix_deals_two_budgets_at_random_where_the_mean_curve_is_s_shaped():
    mean_curve = 1 / (1 + np.exp(-(np.arange(1, 17) - 8.0)))
    allocation = no_information_mix(mean_curve, 1000, 1000 * 64, rng=RNG)
    levels, counts = np.unique(allocation.windows, return_counts=True)
    assert counts[np.argsort(-counts)[:2]].sum() >= 980  # two levels, and a few that use up the slack
    assert levels.max() > 8
    assert allocation.spent_tokens == allocation.tokens.sum() <= 1000 * 64
    halves = allocation.windows[:500].sum(), allocation.windows[500:].sum()
    assert abs(halves[0] - halves[1]) < 0.2 * sum(halves)
    assert allocation.expected_accuracy > mean_curve[3]  # better than the same 4 windows for all


def test_the_mix_refuses_a_table_of_curves():
    with pytest.raises(ValueError, match=r"mean_curve must be an array of shape .* got shape \(2, 2\)"):
        no_information_mix(np.zeros((2, 2)), 10, 1000, rng=RNG)


def test_the_honest_oracle_does_not_profit_from_measuring_noise():
    truth = make_curves("logistic", 400, 16, RNG).astype(float)
    measured = RNG.binomial(10, truth) / 10
    flattered = allocate(measured, 400 * 64)
    honest = noise_honest_oracle(measured, 10, 400 * 64, rng=RNG)
    assert honest.expected_accuracy == pytest.approx(honest.accuracy_on(measured))
    assert honest.expected_accuracy < flattered.expected_accuracy - 0.01
    assert honest.accuracy_on(truth) > allocate(truth, 400 * 64, method="uniform").expected_accuracy


def test_an_oracle_of_endless_traces_is_the_hull_itself():
    curves = make_curves("concave", 50, 8, RNG)
    oracle = noise_honest_oracle(curves, 2**31, 50 * 48, rng=RNG)
    assert oracle.expected_accuracy == pytest.approx(allocate(curves, 50 * 48).expected_accuracy, abs=1e-3)


def test_the_oracle_refuses_curves_outside_zero_and_one():
    with pytest.raises(ValueError, match=r"curves must lie in \[0, 1\], got 2.0 at row 0, column 0"):
        noise_honest_oracle([[2.0]], 10, 16, rng=RNG)


def test_uniform_by_use_grants_the_level_whose_use_can_be_paid():
    budgets = [64, 256, 1024]
    use = np.array([[60.0, 200.0, 500.0], [64.0, 256.0, 1024.0], [10.0, 10.0, 10.0]])
    allocation = uniform(3, 700, budgets=budgets, use=use)
    assert allocation.windows.tolist() == [2, 2, 3]  # one step more where it costs nothing
    np.testing.assert_allclose(allocation.expected_used, [200, 256, 10])
    assert allocation.spent_tokens == 466
    np.testing.assert_array_equal(
        allocation.windows,
        allocate(np.zeros((3, 3)), 700, budgets=budgets, use=use, method="uniform").windows,
    )
    assert uniform(4, 4 * 256, budgets=budgets).tokens.tolist() == [256] * 4


def test_uniform_of_no_known_width_is_refused():
    with pytest.raises(ValueError, match=r"max_windows must be given where neither budgets nor use are"):
        uniform(3, 100)


def test_the_mix_deals_use_with_its_budgets():
    curve, use = [0.1, 0.1, 0.9], [50.0, 80.0, 90.0]
    allocation = no_information_mix(curve, 100, 7_000, budgets=[64, 256, 1024], use=use, rng=RNG)
    np.testing.assert_allclose(allocation.expected_used, np.array([0.0, *use])[allocation.windows])
    assert allocation.expected_used.sum() <= 7_000
    assert set(allocation.tokens.tolist()) == {64, 1024}


def test_the_oracle_by_use_charges_the_measured_use():
    curves = make_curves("logistic", 200, 5, RNG).astype(float)
    use = np.cumsum(RNG.random((200, 5)) * 60, axis=1)
    oracle = noise_honest_oracle(curves, 10, 200 * 90, budgets=[64, 128, 256, 512, 1024], use=use, rng=RNG)
    assert oracle.expected_used.sum() <= 200 * 90
    assert oracle.charged == "used"


def test_the_mix_names_its_own_curve_where_that_is_none():
    with pytest.raises(ValueError, match=r"mean_curve must lie in \[0, 1\], got nan at column 1"):
        no_information_mix([0.1, np.nan], 10, 1000, rng=RNG)
