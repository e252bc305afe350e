"""The underrun rate that is asked for is the one that is got: exactly, by leaving one query out at a time."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps_alloc import allocate_by_difficulty
from ps_alloc.conformal import BudgetCalibrator, conformal_quantile

WINDOW = 16
LEVELS = [0.1, 0.5, 0.9]
RATES = [0.05, 0.1, 0.3, 0.5, 0.73]
METHODS = ["additive", "multiplicative", "scaled", "quantile"]


def queries(n: int, seed: int, method: str = "additive", repeated: bool = False) -> dict[str, np.ndarray]:
    """Needed budgets in 16 windows, and predictions that know something of them; a skewed, uneven error."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(n)
    needed = np.clip(np.round(16 * difficulty + rng.gamma(1, 3 * difficulty)), 1, 16) * WINDOW
    point = 20 + 200 * difficulty + rng.normal(0, 5, n).clip(-15, 15)
    if repeated:
        point = np.full(n, 120.0)
    data = {"needed": needed, "predicted": point}
    if method == "scaled":
        data["spread"] = 10 + 50 * difficulty
    if method == "quantile":
        data["predicted"] = point[:, None] + np.array([-40.0, 0.0, 25.0])
    return data


def fit(data: dict[str, np.ndarray], method: str) -> BudgetCalibrator:
    levels = LEVELS if method == "quantile" else None
    return BudgetCalibrator.fit(**data, method=method, window=WINDOW, levels=levels)


def given_to(calibrator: BudgetCalibrator, data: dict[str, np.ndarray], rate: float) -> np.ndarray:
    return calibrator.budgets(data["predicted"], rate, spread=data.get("spread"), max_tokens=16 * WINDOW)


@settings(max_examples=200, deadline=None)
@given(scores=st.lists(st.integers(-5, 5), min_size=1, max_size=30), percent=st.integers(1, 99))
def test_the_quantile_is_the_smallest_score_that_enough_scores_do_not_exceed(scores, percent):
    wanted = (len(scores) + 1) * (1 - Fraction(percent, 100))
    enough = [score for score in sorted(scores) if sum(other <= score for other in scores) >= wanted]
    expected = enough[0] if enough else np.inf
    assert conformal_quantile(scores, percent / 100) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("repeated", [False, True], ids=["continuous", "tied"])
def test_each_query_left_out_in_turn_underruns_no_more_often_than_asked(method, repeated):
    """For exchangeable queries the marginal rate is the mean over which of the n + 1 was left out."""
    n = 80
    data = queries(n, seed=1, method=method, repeated=repeated)
    for rate in RATES:
        short = 0
        for out in range(n):
            others = {name: np.delete(values, out, axis=0) for name, values in data.items()}
            one = {name: values[out : out + 1] for name, values in data.items()}
            short += int(given_to(fit(others, method), one, rate)[0] < data["needed"][out])
        assert short / n <= rate
        if not repeated:  # no ties: not rarer than asked by more than 1 / n either
            assert short / n >= rate - 1 / n - 1e-9


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 6), st.floats(1, 100)), min_size=5, max_size=25),
    rate=st.sampled_from(RATES),
    method=st.sampled_from(["additive", "multiplicative"]),
)
def test_any_predictions_keep_the_rate(rows, rate, method):
    needed, predicted = (np.array(column, float) for column in zip(*rows, strict=True))
    needed *= WINDOW
    short = []
    for out in range(len(rows)):
        calibrator = BudgetCalibrator.fit(
            np.delete(predicted, out), np.delete(needed, out), method=method, window=WINDOW
        )
        tokens = calibrator.budgets(predicted[out : out + 1], rate, max_tokens=6 * WINDOW)
        short.append(tokens[0] < needed[out])
    assert np.mean(short) <= rate


@pytest.mark.parametrize("method", METHODS)
def test_new_queries_underrun_as_often_as_asked(method):
    calibration, new = queries(2000, 3, method), queries(20_000, 4, method)
    calibrator = fit(calibration, method)
    for rate in (0.1, 0.3, 0.5):
        tokens = given_to(calibrator, new, rate)
        assert np.mean(tokens < new["needed"]) == pytest.approx(rate, abs=0.03)
        assert (tokens % WINDOW == 0).all()
        assert tokens.min() >= WINDOW


def test_spread_and_quantiles_spend_fewer_tokens_than_a_constant_margin():
    tokens = {}
    for method in METHODS:
        calibration, new = queries(4000, 3, method), queries(4000, 4, method)
        tokens[method] = given_to(fit(calibration, method), new, 0.1).mean()
    assert tokens["scaled"] < tokens["additive"]


def test_budgets_are_the_smallest_that_enough_calibration_queries_would_have_needed():
    """A slow twin: try every score, round each budget up to its window, count."""
    data = queries(60, seed=5)
    new = np.array([10.0, 87.3, 140.0])
    for rate in RATES:
        needed_rank = int(np.ceil(61 * (1 - rate) - 1e-9))
        for shift in sorted(data["needed"] - WINDOW - data["predicted"]):
            rounded = [WINDOW * max(1, int((p + shift + 1e-6) // WINDOW) + 1) for p in data["predicted"]]
            if np.sum(rounded >= data["needed"]) >= needed_rank:
                break
        expected = [WINDOW * max(1, int((p + shift + 1e-6) // WINDOW) + 1) for p in new]
        np.testing.assert_array_equal(fit(data, "additive").budgets(new, rate), expected)


def test_quantiles_between_two_levels_are_in_proportion_and_beyond_them_the_outermost():
    heads = np.array([[10.0, 50.0, 90.0]])
    calibrator = fit(queries(50, 6, "quantile"), "quantile")
    levels = {0.1: 10, 0.3: 30, 0.5: 50, 0.7: 70, 0.9: 90, 0.01: 10, 0.99: 90}
    for level, expected in levels.items():
        assert calibrator._location(heads, level)[0] == pytest.approx(expected)
    single = BudgetCalibrator.fit([[9.0]], [3], method="quantile", levels=[0.5])
    assert single._location(np.array([[9.0]]), 0.8)[0] == 9


@settings(max_examples=200, deadline=None)
@given(st.floats(0.1, 1e4), st.integers(1, 2000), st.sampled_from(["additive", "multiplicative"]))
def test_what_was_needed_is_reached_in_spite_of_float_rounding(predicted, windows, method):
    calibrator = BudgetCalibrator.fit([predicted], [3 * windows], method=method, window=3)
    assert calibrator.budgets([predicted], 0.5) == 3 * windows


def test_every_query_gets_at_least_one_window():
    assert fit(queries(50, 6), "additive").budgets([-500.0], 0.3) == WINDOW


def test_too_few_calibration_queries_for_a_rate_give_everything_or_are_refused():
    calibrator = fit(queries(9, 7), "additive")
    assert np.isfinite(calibrator.budgets([100.0], 0.1)).all()  # exactly 1 / (n + 1)
    assert calibrator.budgets([100.0], 0.09, max_tokens=256)[0] == 256
    with pytest.raises(ValueError, match=r"underrun_rate must be at least 1 / \(n \+ 1\) = 0.1 with n = 9"):
        calibrator.budgets([100.0], 0.09)


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_those_of_the_budgets(method):
    data, new = queries(300, 8, method), queries(7, 9, method)
    calibrator = fit(data, method)
    shares = calibrator.probabilities(new["predicted"], 16, spread=new.get("spread"))
    np.testing.assert_allclose(shares.sum(1), 1)
    sufficient = shares.cumsum(1)
    for rate in (0.105, 0.505, 0.905):
        tokens = given_to(calibrator, new, rate)
        reached = sufficient[np.arange(7), tokens // WINDOW - 1]
        assert (reached >= 1 - rate - 1e-9).all()
    assert allocate_by_difficulty(np.tri(16).T, 7 * 64, probabilities=shares).spent_tokens <= 7 * 64


def test_new_queries_need_more_than_a_share_of_their_probability_as_often_as_that_share_says():
    data, new = queries(3000, 10), queries(3000, 11)
    shares = fit(data, "additive").probabilities(new["predicted"], 16)
    window = (new["needed"] / WINDOW).astype(int) - 1
    below = (shares.cumsum(1) - shares)[np.arange(3000), window]  # probability of needing less
    for level in (0.2, 0.5, 0.8, 0.95):
        assert np.mean(below < level) == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_calibration_gives_the_same_budgets(method, tmp_path):
    calibrator, new = fit(queries(40, 12, method), method), queries(5, 13, method)
    calibrator.save(tmp_path / "calibration.json")
    loaded = BudgetCalibrator.load(tmp_path / "calibration.json")
    np.testing.assert_array_equal(given_to(loaded, new, 0.2), given_to(calibrator, new, 0.2))


def test_a_damaged_calibration_is_refused(tmp_path):
    path = tmp_path / "calibration.json"
    fit(queries(4, 1), "additive").save(path)
    content = json.loads(path.read_text())
    for damaged in (
        [],
        {**content, "needed": ["x"]},
        {**content, "needed": [1.0] * 4},
        {**content, "more": 1},
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"calibration.json must hold a budget calibration, but"):
            BudgetCalibrator.load(path)


def test_bad_calibration_sets_are_refused():
    ready = {"predicted": [20.0, 30.0], "needed": [16, 32], "window": 16}

    def expect(message, **changes):
        with pytest.raises(ValueError, match=message):
            BudgetCalibrator.fit(**{**ready, **changes})

    expect("method must be one of .*got 'sum'", method="sum")
    expect("window must be at least 1 and at most .*, got 0", window=0)
    expect(r"needed must be a list of shape \(M,\), got shape \(0,\)", needed=[])
    expect(r"needed must lie in \[0, .* got inf for position 1", needed=[16, np.inf])
    expect("needed must be positive multiples of the window, 16 tokens, got 20 in row 1", needed=[16, 20])
    expect("levels must ascend between 0 and 1, got None", method="quantile")
    expect(r"levels must ascend between 0 and 1, got \[0.5, 0.5\]", method="quantile", levels=[0.5, 0.5])
    expect("levels must ascend between 0 and 1, got", method="quantile", levels=[0.5, np.nan])
    expect("levels are for the method 'quantile', got them with 'additive'", levels=[0.5])
    expect(r"predicted must have one row a needed budget \(2\), got 1", predicted=[20.0])
    expect(r"predicted must be an array of shape \(N,\), got shape \(2, 1\)", predicted=[[1.0], [2.0]])
    expect("predicted must be finite numbers of tokens, got NaN or infinity", predicted=[1.0, np.nan])
    expect(
        "predicted must be positive for the method 'multiplicative', got 0",
        predicted=[1.0, 0.0],
        method="multiplicative",
    )
    expect(
        "spread must be given for the method 'scaled', and for it alone, got none for 'scaled'",
        method="scaled",
    )
    expect("and for it alone, got one for 'additive'", spread=[1.0, 1.0])
    expect(r"spread must be \(2,\) positive numbers, got", spread=[1.0, 0.0], method="scaled")


def test_budgets_that_no_integer_holds_are_refused_or_cut():
    calibrator = fit(queries(40, 1), "additive")
    assert calibrator.budgets([1e300, 50.0], 0.1, max_tokens=256)[0] == 256
    with pytest.raises(
        ValueError, match=r"budgets must be at most 1099511627776 tokens, or max_tokens be given"
    ):
        calibrator.budgets([50.0, 1e19], 0.1)


def test_numbers_of_numpy_are_numbers():
    calibrator = BudgetCalibrator.fit([20.0, 30.0], [16, 32], window=np.int64(16))
    given = calibrator.budgets([20.0], np.float64(0.5), max_tokens=np.int64(64))
    np.testing.assert_array_equal(given, calibrator.budgets([20.0], 0.5, max_tokens=64))


def test_bad_requests_for_budgets_are_refused():
    calibrator = fit(queries(40, 1), "additive")
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="underrun_rate must be between 0 and 1, got"):
            calibrator.budgets([50.0], rate)
    with pytest.raises(ValueError, match="underrun_rate must be finite, got nan"):
        calibrator.budgets([50.0], np.nan)
    with pytest.raises(ValueError, match=r"num_windows must be at least 1 and at most .*, got 0"):
        calibrator.probabilities([50.0], 0)
    with pytest.raises(ValueError, match="predicted must not hold masked values, got 1"):
        calibrator.budgets(np.ma.masked_equal([50.0, 1.0], 1.0), 0.1)
    with pytest.raises(
        ValueError, match="max_tokens must be a positive multiple of the window, 16 tokens, got 40"
    ):
        calibrator.budgets([50.0], 0.1, max_tokens=40)
    with pytest.raises(ValueError, match="scores must be numbers, got NaN at 1"):
        conformal_quantile([0.0, np.nan], 0.5)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_a_spread_of_another_shape_is_refused_whichever_is_larger(shape):
    with pytest.raises(ValueError, match=r"spread must be \(2,\) positive numbers, got"):
        BudgetCalibrator.fit([10.0, 20.0], [12.0, 25.0], method="scaled", spread=np.ones(shape))


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
def test_a_spread_must_be_positive_and_finite(bad):
    with pytest.raises(ValueError, match=r"spread must be \(2,\) positive numbers, got"):
        BudgetCalibrator.fit([10.0, 20.0], [12.0, 25.0], method="scaled", spread=[1.0, bad])
