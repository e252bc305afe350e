from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge as ReferenceRidge

from ps_train.light import ridge as ridge_module
from ps_train.light.ridge import fit_ridge
from ps_train.light.shape import CurveMap, falling, possible_use, rising, summaries

RNG = np.random.default_rng(3)


def problem(n: int = 60):
    text = csr_array(RNG.random((n, 30)) * (RNG.random((n, 30)) < 0.3))
    dense = RNG.normal(size=(n, 3))
    targets = text @ RNG.normal(size=(30, 2)) + dense @ RNG.normal(size=(3, 2)) + RNG.normal(size=(n, 2))
    return text, dense, targets


@pytest.fixture
def one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_module, "STRENGTHS", np.array([2.0]))
    monkeypatch.setattr(ridge_module, "COUNT_WEIGHTS", (0.5,))


def reference(text, dense, targets):
    inputs = np.hstack([text.toarray(), dense * np.sqrt(0.5)])
    return ReferenceRidge(alpha=2.0).fit(inputs, targets), inputs


def test_weights_and_left_out_scores_are_those_of_a_plain_ridge(one_setting) -> None:
    text, dense, targets = problem()
    ridge, rows, left_out, _ = fit_ridge(text, [dense], targets)
    model, inputs = reference(text, dense, targets)
    np.testing.assert_allclose(ridge.scores(text, dense), model.predict(inputs), atol=1e-5)
    for row in (0, 17, 59):
        others = rows != row
        without, _ = reference(text[others], dense[others], targets[others])
        # The kernel's own mean of dense columns is fitted too, so this is exact.
        np.testing.assert_allclose(left_out[row], without.predict(inputs[row : row + 1])[0], atol=1e-6)


def test_many_rows_are_solved_to_the_same_weights(one_setting, monkeypatch: pytest.MonkeyPatch) -> None:
    text, dense, targets = problem()
    exact, *_ = fit_ridge(text, [dense], targets)
    monkeypatch.setattr(ridge_module, "EXACT_ROWS", 30)
    solved, rows, held_out, _ = fit_ridge(text, [dense], targets)
    np.testing.assert_allclose(solved.scores(text, dense), exact.scores(text, dense), atol=5e-3)
    assert len(rows) == 12 == len(held_out)
    others = np.setdiff1d(np.arange(60), rows)
    without, inputs = (
        reference(text[others], dense[others], targets[others])[0],
        reference(text, dense, targets)[1],
    )
    np.testing.assert_allclose(held_out, without.predict(inputs[rows]), atol=5e-3)


def test_noise_is_regularised_away_and_signal_is_not() -> None:
    text, dense, targets = problem(200)
    noise = RNG.normal(size=200)
    _, _, left_out, choices = fit_ridge(text, [dense], np.column_stack([targets[:, 0], noise]))
    assert choices[1].error < 1.1
    assert choices[1].strength > choices[0].strength
    assert left_out[:, 1].std() < 0.35 * noise.std()
    assert choices[0].error < 0.7


def test_falling_is_isotonic_regression() -> None:
    values, weights = RNG.normal(size=(40, 9)), RNG.random(9) + 0.1
    expected = [
        IsotonicRegression(increasing=False).fit_transform(np.arange(9), row, sample_weight=weights)
        for row in values
    ]
    np.testing.assert_allclose(falling(values, weights), expected, atol=1e-12)
    np.testing.assert_allclose(rising(values), -falling(-values, np.ones(9)))
    assert (np.diff(rising(values)) >= 0).all()


def test_use_rises_ever_more_slowly_and_stays_below_the_budget() -> None:
    budgets = np.array([100, 250, 300, 900, 5000])
    use = possible_use(RNG.normal(300, 400, size=(50, 5)), budgets)
    slopes = np.diff(use, axis=1, prepend=0) / np.diff(budgets, prepend=0)
    assert (slopes >= -1e-9).all()
    assert (slopes <= 1 + 1e-9).all()
    assert (np.diff(slopes, axis=1) <= 1e-9).all()
    possible = np.minimum(RNG.integers(1, 6000, size=(50, 1)), budgets).astype(float)
    # Use that is possible stays as it is.
    np.testing.assert_allclose(possible_use(possible, budgets), possible, atol=1e-9)


def test_the_length_score_is_the_mean_logarithm_of_the_tokens() -> None:
    budgets = np.unique(np.geomspace(10, 20_000, 400).astype(np.int64))
    tokens = RNG.integers(20, 10_000, size=200)
    use = np.minimum(tokens[:, None], budgets).astype(float)
    length = summaries(np.zeros_like(use), use, budgets)[:, 0]
    assert np.corrcoef(length, np.log(tokens))[0, 1] > 0.9999


def test_squares_are_used_where_they_help_and_only_there() -> None:
    scores = RNG.normal(size=(300, 2))
    bent = np.column_stack([scores[:, 0] ** 2, scores[:, 1]]) + 0.1 * RNG.normal(size=(300, 2))
    straight = scores + 0.1 * RNG.normal(size=(300, 2))
    assert len(CurveMap.fit(scores, bent).coefficients) == 6
    assert len(CurveMap.fit(scores, straight).coefficients) == 3
    assert np.abs(CurveMap.fit(scores, bent)(scores) - bent).mean() < 0.15
