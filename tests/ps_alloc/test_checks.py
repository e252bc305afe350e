"""One rule for numbers, wherever they are passed."""

import math

import numpy as np
import pytest

import ps_alloc
from ps_alloc import _checks, reallocate
from ps_alloc.baselines import no_information_mix, uniform
from ps_alloc.conformal import BudgetCalibrator, conformal_quantile

WHOLE = [5, np.int64(5), np.uint8(5), 5.0, np.float32(5), np.array(5), np.array(5.0)]
NO_NUMBERS = [True, np.bool_(True), "5", None, [5], 5j, np.array([5]), np.ma.masked, math.nan]


@pytest.mark.parametrize("value", WHOLE)
def test_whole_numbers_of_every_type_are_the_same_number(value):
    for number in (_checks.whole("n", value), _checks.real("x", value)):
        assert number == 5
    assert type(_checks.whole("n", value)) is int
    assert type(_checks.real("x", value)) is float


@pytest.mark.parametrize(
    ("mean", "count", "total"),
    [
        (0.29, 100, 29),  # 28.999999999999996 in floats
        (44.35, 20, 887),
        (2 / 3, 3, 2),
        (47.5, 3, 142),  # half a token buys none
        (0.999999, 1, 0),
        (96, 10**9, 96 * 10**9),
        (0.0, 5, 0),
        (2.0**40, 2**20, 2**60),
    ],
)
def test_a_mean_allows_no_token_less_for_rounding(mean, count, total):
    assert _checks.whole_total(mean, count) == total


def test_every_total_comes_back_from_its_mean():
    for count in range(1, 60):
        for total in range(400):
            assert _checks.whole_total(total / count, count) == total


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_none_anywhere(value):
    with pytest.raises(ValueError, match=r"n must be a whole number, got "):
        _checks.whole("n", value)
    with pytest.raises(ValueError, match=r"x must be (a number|finite), got "):
        _checks.real("x", value)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: _checks.whole("n", 5.5), r"n must be a whole number, got 5.5"),
        (lambda: _checks.whole("n", 2**70), r"n must be at least 0 and at most 2\*\*62, got 1180"),
        (lambda: _checks.whole("n", 0, at_least=1, at_most=9), r"n must be at least 1 and at most 9, got 0"),
        (lambda: _checks.real("x", math.inf), r"x must be finite, got inf"),
        (lambda: _checks.real("x", 10**400), r"x must be finite, got 1000"),
        (lambda: _checks.real("x", -1, low=0.0), r"x must be finite and at least 0, got -1"),
        (lambda: _checks.real("x", 0, above=0.0), r"x must be above 0, got 0"),
        (lambda: _checks.real("x", 3, above=0.0, high=2.0), r"x must be above 0 and at most 2, got 3"),
        (lambda: _checks.share("x", 1.5), r"x must lie in \[0, 1\], got 1.5"),
        (lambda: _checks.one_of("m", "c", ("a", "b")), r"m must be one of \('a', 'b'\), got 'c'"),
        (lambda: _checks.one_of("m", ["a"], ("a", "b")), r"m must be one of \('a', 'b'\), got \['a'\]"),
        (lambda: _checks.numbers("a", [[1], [1, 2]]), r"a must be an array of real numbers, got rows of sev"),
        (lambda: _checks.numbers("a", [True]), r"a must be an array of real numbers, got dtype bool"),
        (lambda: _checks.numbers("a", np.ma.masked_array([1, 2], [0, 1])), r"not hold masked values, got 1"),
        (lambda: _checks.vector("v", [[1.0]]), r"v must be a list of shape \(M,\), got shape \(1, 1\)"),
        (lambda: _checks.vector("v", [1.0], size=2), r"v must be a list of shape \(2,\), got shape \(1,\)"),
        (lambda: _checks.vector("v", [1, math.nan]), r"v must be finite, got nan for position 1"),
        (lambda: _checks.vector("v", [3, 1], rising=True), r"v must rise, got 1 after 3 at position 1"),
        (lambda: _checks.per_query("w", 1.5, 3, low=0, high=9), r"w must be whole numbers, got 1.5$"),
        (lambda: _checks.per_query("w", [1, 1.5], 2, low=0, high=9), r"whole numbers, got 1.5 for query 1"),
        (lambda: _checks.per_query("w", [1, 10], 2, low=0, high=9), r"lie in \[0, 9\], got 10 for query 1"),
        (lambda: _checks.per_query("w", [1], 2, low=0, high=9), r"one number or have shape \(2,\), got"),
        (lambda: _checks.per_query("w", math.nan, 2, low=0, high=9), r"w must be whole numbers, got nan"),
        (lambda: _checks.per_query_float("w", math.inf, 2), r"w must be finite and at least 0, got inf$"),
        (lambda: _checks.per_query_float("w", True, 2), r"w must be an array of real numbers, got dtype bo"),
        (lambda: _checks.curve("c", [0.5, 2.0]), r"c must lie in \[0, 1\], got 2.0 at column 1"),
        (lambda: _checks.curve("c", [[0.5]]), r"c must be an array of shape \(W,\), W at least 1, got shape"),
        (lambda: _checks.curve("c", [0.5], least_size=2), r"W at least 2, got shape \(1,\)"),
        (lambda: _checks.check_curves(np.ma.masked_equal([[0.5, 0.9]], 0.9)), r"masked values, got 1"),
    ],
)
def test_a_refusal_names_the_rule_and_what_was_received(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_bools_are_outcomes_where_curves_are_asked_for():
    np.testing.assert_array_equal(_checks.curve("c", [True, False]), [1.0, 0.0])
    np.testing.assert_array_equal(_checks.check_curves([[True, False]]), [[1.0, 0.0]])


def test_a_masked_array_without_masked_values_is_an_array():
    assert type(_checks.check_curves(np.ma.masked_array([[0.5]]))) is np.ndarray
    assert type(_checks.per_query_float("w", np.ma.masked_array([0.5, 1.0]), 2)) is np.ndarray


def test_what_cannot_become_an_array_is_refused_in_one_sentence():
    class Tensor:
        """Refuses as torch's do that track gradients, or are of bfloat16."""

        def __init__(self, error):
            self.error = error

        def __array__(self, dtype=None, copy=None):
            raise self.error

    for error in (RuntimeError("Use tensor.detach().numpy() instead."), TypeError("no\nbfloat16")):
        with pytest.raises(ValueError, match=r"x must be an array of real numbers, but (Use|no bfloat16)"):
            _checks.numbers("x", Tensor(error))


def test_an_array_where_a_number_is_wanted_is_shown_on_one_line():
    with pytest.raises(ValueError, match=r"n must be a whole number, got array\(\[\[1., 1.\], \[1"):
        _checks.whole("n", np.ones((2, 2)))


def test_the_same_rule_holds_wherever_arrays_are_passed():
    curves = np.array([[0.1, 0.5], [0.2, 0.4]])
    uneven = [[1, 2], [3]]
    pacer = ps_alloc.Pacer(64)
    guard = ps_alloc.Guard.fit(curves, curves, [16, 32])
    for name, call in (
        ("use", lambda: ps_alloc.allocate(curves, 64, use=uneven)),
        ("tokens", lambda: ps_alloc.frontier(curves).at("64")),
        ("labels", lambda: ps_alloc.fit_class_curves(curves, uneven)),
        ("probabilities", lambda: ps_alloc.allocate_by_difficulty(curves, 64, probabilities="x")),
        ("levels", lambda: BudgetCalibrator.fit([[1.0]], [1], method="quantile", levels="x")),
        ("scores", lambda: conformal_quantile("x", 0.5)),
        ("unlike", lambda: ps_alloc.Predictions(curves, [16, 32], unlike=uneven)),
        ("budgets", lambda: uniform(2, 64, budgets=uneven)),
        ("mean_curve", lambda: no_information_mix(uneven, 2, 64, rng=np.random.default_rng())),
        ("curve", lambda: pacer.decide(uneven)),
        ("curves", lambda: guard.allocate(uneven, 64)),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be an array of real numbers, got "):
            call()
    for call in (
        lambda: guard.allocate(curves, 64, window="x"),
        lambda: reallocate(curves, 64, window="x", elapsed=[0, 0], now=[0, 0]),
    ):
        with pytest.raises(ValueError, match="window must be a whole number, got 'x'"):
            call()
    with pytest.raises(ValueError, match="min_windows must be a whole number, got array"):
        ps_alloc.Guard.fit(curves, curves, [32], min_windows=np.ones(2))
    with pytest.raises(ValueError, match="ids must be a list of texts, got 3"):
        ps_alloc.Predictions(curves, [16, 32], ids=3)
