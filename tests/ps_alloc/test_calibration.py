"""Calibrated predictions are those that the outcomes bear out, for accuracy and for use."""

import json

import numpy as np
import pytest
from naive import make_curves
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from ps_alloc import PlattCalibrator, UseCalibrator
from ps_alloc import calibration as calibration_module

RNG = np.random.default_rng(0)


def logit(p):
    return np.log(p) - np.log1p(-p)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_without_the_prior_the_fit_is_exactly_logistic_regression(monkeypatch):
    monkeypatch.setattr(calibration_module, "PRIOR", 0.0)
    predictions = RNG.uniform(0.05, 0.95, (200, 2))
    outcomes = (RNG.random((200, 2)) < sigmoid(2 * logit(predictions) + 0.3)).astype(float)
    fit = PlattCalibrator.fit(predictions, outcomes)
    for window in range(2):
        reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
        reference.fit(logit(predictions[:, [window]]), outcomes[:, window])
        assert fit.slopes[window] == pytest.approx(reference.coef_[0, 0], rel=1e-3)
        assert fit.shifts[window] == pytest.approx(reference.intercept_[0], rel=1e-3, abs=1e-3)


def test_overconfident_predictions_are_pulled_back_to_the_truth():
    truth = RNG.uniform(0.1, 0.9, (2000, 4))
    predictions = sigmoid(3 * logit(truth) + 1)
    outcomes = RNG.binomial(20, truth) / 20
    calibrated = PlattCalibrator.fit(predictions, outcomes, n_traces=20).apply(predictions)
    assert np.abs(calibrated - truth).mean() < 0.02 < np.abs(predictions - truth).mean()


def test_useless_and_reversed_predictions_become_the_mean():
    truth = RNG.uniform(0.1, 0.9, (1000, 1))
    outcomes = RNG.binomial(50, truth) / 50
    fit = PlattCalibrator.fit(1 - truth, outcomes, n_traces=50)
    assert fit.slopes[0] == 0.0
    np.testing.assert_allclose(fit.apply(truth), outcomes.mean(), atol=1e-3)


def test_certain_predictions_and_constant_outcomes_stay_finite():
    predictions = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]])
    for outcomes in (np.zeros((2, 3)), np.ones((2, 3)), predictions):
        calibrated = PlattCalibrator.fit(predictions, outcomes).apply(predictions)
        assert ((calibrated >= 0) & (calibrated <= 1)).all()


@pytest.mark.parametrize("sharpness", [0.3, 3, 200])
@pytest.mark.parametrize("traces", [1, 40])
def test_the_fit_is_the_maximum_of_the_penalised_likelihood(sharpness, traces):
    """Against a minimiser from outside, on outcomes that change slowly, or all but at once."""
    rng = np.random.default_rng(3)
    x = np.clip(rng.normal(0, 4 / sharpness, 300), -11, 11)  # 12 is where logits are cut
    outcomes = rng.binomial(traces, sigmoid(sharpness * x - 0.7)) / traces
    fit = PlattCalibrator.fit(sigmoid(x)[:, None], outcomes[:, None], traces)

    def loss(at):
        z = at[0] * x + at[1]
        likelihood = traces * (outcomes * z - np.logaddexp(0, z))
        return ((at[0] - 1) ** 2 + at[1] ** 2) / 2 - likelihood.sum()  # one trace's worth of prior

    reference = minimize(
        loss, [sharpness, -0.7], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}
    )
    np.testing.assert_allclose([fit.slopes[0], fit.shifts[0]], reference.x, rtol=1e-4, atol=1e-4)


def test_a_steep_truth_is_found_however_far_from_the_start():
    """Predictions squeezed 200 times: the slope that undoes it is 200, with a thousand outcomes each."""
    rng = np.random.default_rng(5)
    truth = rng.uniform(0.02, 0.98, 400)
    squeezed = sigmoid(logit(truth) / 200)
    fit = PlattCalibrator.fit(squeezed[:, None], truth[:, None], n_traces=10**9)
    assert fit.slopes[0] == pytest.approx(200, rel=1e-3)
    np.testing.assert_allclose(fit.apply(squeezed[:, None])[:, 0], truth, atol=1e-4)


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(calibration_module, "NEWTON_STEPS", 2)
    predictions = RNG.uniform(0.1, 0.9, (50, 1))
    with pytest.warns(RuntimeWarning, match="the calibration of window 1 has not converged in 2 steps"):
        PlattCalibrator.fit(predictions, np.round(predictions))


def test_a_saved_calibration_gives_the_same_predictions(tmp_path):
    curves = make_curves("noisy", 50, 6, RNG)
    calibrator = PlattCalibrator.fit(curves, curves, 100)
    calibrator.save(tmp_path / "platt.json")
    loaded = PlattCalibrator.load(tmp_path / "platt.json")
    np.testing.assert_array_equal(loaded.apply(curves), calibrator.apply(curves))


def test_bad_input_is_refused(tmp_path):
    curves = make_curves("noisy", 5, 4, RNG)
    with pytest.raises(ValueError, match=r"outcomes must have the predictions' shape \(5, 4\), got \(5, 3\)"):
        PlattCalibrator.fit(curves, curves[:, :3])
    with pytest.raises(ValueError, match=r"predictions must lie in \[0, 1\], got 2.0 at row 0, column 0"):
        PlattCalibrator.fit([[2.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"predictions must have the 4 fitted windows, got 3"):
        PlattCalibrator.fit(curves, curves).apply(curves[:, :3])
    with pytest.raises(ValueError, match=r"n_traces must lie in \[1, 2147483648\], got 0"):
        PlattCalibrator.fit(curves, curves, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"x.json must be a JSON object with the fields \('slopes', 'shifts'\)"),
        ("[]", r"x.json must be a JSON object with the fields"),
        ('{"slopes": [null], "shifts": [0.0]}', r"x.json: slopes must be finite numbers, got \[None\]"),
        ('{"slopes": [1e999], "shifts": [0.0]}', r"x.json: slopes must be finite numbers, got \[inf\]"),
        ('{"slopes": [1%s], "shifts": [0.0]}' % ("0" * 400), r"x.json: slopes must be finite numbers"),
        ('{"slopes": [1.0], "shifts": []}', r"slopes and shifts must be equally long"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        PlattCalibrator.load(tmp_path / "x.json")


GRID = np.array([32, 64, 256, 1024])


def uses(n, rng, factor=1.0):
    """What a predictor off by `factor` says is used of each budget, and what 50 traces a question used."""
    middle = rng.lognormal(5, 1, (n, 1, 1))
    lengths = middle * rng.lognormal(0, 0.4, (n, 50, 1))
    guessed = middle * factor * rng.lognormal(0, 0.4, (n, 50, 1))
    return np.minimum(guessed, GRID).mean(1), np.minimum(lengths, GRID).mean(1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_calibrated_use_adds_up_to_what_is_used(factor):
    rng = np.random.default_rng(7)
    calibrator = UseCalibrator.fit(*uses(2000, rng, factor), GRID, n_traces=50)
    predicted, measured = uses(2000, rng, factor)
    calibrated = calibrator.apply(predicted)
    np.testing.assert_allclose(calibrated.mean(0), measured.mean(0), rtol=0.03)
    assert np.abs(calibrated - measured).mean() <= np.abs(predicted - measured).mean() + 1
    assert (np.diff(calibrated, axis=1) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= GRID)).all()


def test_use_never_falls_with_the_budget_even_where_the_fits_of_two_budgets_cross():
    shares = PlattCalibrator(np.array([1.0, 1.0]), np.array([5.0, -5.0]))
    calibrated = UseCalibrator(np.array([100, 110]), shares).apply([[50.0, 55.0]])
    assert calibrated[0, 0] == calibrated[0, 1] == pytest.approx(99.33, abs=0.01)


def test_a_saved_use_calibration_gives_the_same_use(tmp_path):
    predicted, measured = uses(50, np.random.default_rng(8))
    calibrator = UseCalibrator.fit(predicted, measured, GRID, 50)
    calibrator.save(tmp_path / "use.json")
    loaded = UseCalibrator.load(tmp_path / "use.json")
    np.testing.assert_array_equal(loaded.apply(predicted), calibrator.apply(predicted))
    for damage, message in (
        ({"budgets": [1, 2, 3]}, r"use.json: budgets must be as many as slopes \(4\), got 3"),
        ({"budgets": [2, 1, 3, 4]}, r"use.json: budgets must rise"),
        ({"slopes": 1}, r"use.json: slopes and shifts must be equally long"),
    ):
        whole = {"budgets": [1, 2, 3, 4], "slopes": [1.0] * 4, "shifts": [0.0] * 4}
        (tmp_path / "use.json").write_text(json.dumps({**whole, **damage}))
        with pytest.raises(ValueError, match=message):
            UseCalibrator.load(tmp_path / "use.json")


def test_a_mean_that_rounding_put_above_its_budget_is_all_of_it():
    use = np.repeat(GRID[None].astype(np.float32), 5, axis=0)
    above = np.nextafter(use, np.float32(np.inf))
    calibrator = UseCalibrator.fit(above, use, GRID)
    np.testing.assert_allclose(calibrator.apply(above), use, rtol=1e-3)


def test_bad_use_is_refused():
    use = GRID * np.full((3, 1), 0.5)
    with pytest.raises(ValueError, match=r"use must have a column for each of the 3 budgets, got \(3, 4\)"):
        UseCalibrator.fit(use, use, GRID[:3])
    for wrong in (-1.0, 65.0, np.nan):
        bad = use.copy()
        bad[2, 1] = wrong
        with pytest.raises(
            ValueError, match=rf"measured must lie between 0 and .* 64 tokens, got {wrong} at row 2"
        ):
            UseCalibrator.fit(use, bad, GRID)


def test_a_calibration_of_use_is_none_of_accuracy(tmp_path):
    predicted, measured = uses(50, np.random.default_rng(8))
    UseCalibrator.fit(predicted, measured, GRID, 50).save(tmp_path / "use.json")
    with pytest.raises(
        ValueError, match=r"use.json must hold a calibration of accuracy, but it is one of use"
    ):
        PlattCalibrator.load(tmp_path / "use.json")
