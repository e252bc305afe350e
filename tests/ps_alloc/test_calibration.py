import numpy as np
import pytest
from naive import make_curves
from sklearn.linear_model import LogisticRegression

from ps_alloc import Guard, PlattCalibrator, allocate
from ps_alloc import calibration as calibration_module

RNG = np.random.default_rng(0)


def logit(p):
    return np.log(p) - np.log1p(-p)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def noisy(curves, sd, rng):
    """Predictions: curves with noise of `sd` in the logit, half of it shared by all windows of a query."""
    clipped = np.clip(curves.astype(float), 0.01, 0.99)
    shared = rng.normal(0, sd * np.sqrt(0.5), (len(curves), 1))
    return sigmoid(logit(clipped) + shared + rng.normal(0, sd * np.sqrt(0.5), curves.shape))


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


def test_good_predictions_are_allowed_and_keep_the_hull():
    curves = make_curves("logistic", 300, 16, RNG)
    guard = Guard.fit(noisy(curves, 0.3, RNG), curves, [48, 96, 160])
    assert all(guard.allows(budget) for budget in (20, 48, 70, 96, 160, 240))
    np.testing.assert_array_equal(
        guard.allocate(curves, 300 * 96).windows, allocate(curves, 300 * 96).windows
    )


def test_misleading_predictions_fall_back_to_uniform():
    curves = make_curves("logistic", 300, 16, RNG)
    guard = Guard.fit(curves[RNG.permutation(300)], curves, [48, 96])
    assert not guard.allows(96)
    allocation = guard.allocate(curves, 300 * 96)
    assert allocation.method == "uniform"
    assert (allocation.windows == 6).all()


def test_a_budget_between_two_is_allowed_only_if_both_are():
    guard = Guard(
        np.array([50.0, 100.0, 150.0]), np.array([0.1, 0.1, 0.0]), np.array([0.01, 0.01, 0.01]), 1.0
    )
    assert [guard.allows(b) for b in (10, 50, 75, 100, 101, 150, 999)] == [
        True,
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_both_survive_their_files(tmp_path):
    curves = make_curves("noisy", 50, 6, RNG)
    calibrator = PlattCalibrator.fit(curves, curves, 100)
    calibrator.save(tmp_path / "platt.json")
    np.testing.assert_array_equal(
        PlattCalibrator.load(tmp_path / "platt.json").apply(curves), calibrator.apply(curves)
    )
    guard = Guard.fit(curves, curves, [32, 64])
    guard.save(tmp_path / "guard.json")
    loaded = Guard.load(tmp_path / "guard.json")
    np.testing.assert_array_equal(loaded.gains, guard.gains)
    assert loaded.z == guard.z
    assert [loaded.allows(b) for b in (32, 48, 64)] == [guard.allows(b) for b in (32, 48, 64)]


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
    with pytest.raises(ValueError, match=r"budgets must be a rising list of mean tokens per query"):
        Guard.fit(curves, curves, [64, 32])
    with pytest.raises(ValueError, match=r"z must be a number of standard errors, not negative, got -1"):
        Guard.fit(curves, curves, [32], z=-1)
    with pytest.raises(ValueError, match=r"a guard must have at least 2 validation questions, got 1"):
        Guard.fit(curves[:1], curves[:1], [32])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must be a JSON object with the fields \('slopes', 'shifts'\)"):
        PlattCalibrator.load(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"must be a JSON object with the fields \('budgets'"):
        Guard.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"slopes": [null], "shifts": [0.0]}')
    with pytest.raises(ValueError, match=r"x.json: slopes must be finite numbers, got \[None\]"):
        PlattCalibrator.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"budgets": [1.0], "gains": [1.0], "errors": [0.0], "z": {}}')
    with pytest.raises(ValueError, match=r"x.json: z must be finite numbers, got {}"):
        Guard.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"slopes": [1.0], "shifts": []}')
    with pytest.raises(ValueError, match=r"slopes and shifts must be equally long"):
        PlattCalibrator.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"budgets": [1.0], "gains": [], "errors": [], "z": 1.0}')
    with pytest.raises(ValueError, match=r"budgets, gains and errors must be equally long"):
        Guard.load(tmp_path / "x.json")
