import numpy as np
import pytest
from scipy.stats import bootstrap

from ps_eval.reporting import statistics
from ps_eval.reporting.statistics import paired_bootstrap, wilson_interval


def make_scores(n_rows: int = 3, n_questions: int = 120, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hardness = rng.random(n_questions)
    return (hardness < np.linspace(0.3, 0.7, n_rows)[:, None]).astype(float)


def test_means_and_gains_are_those_of_the_scores_themselves() -> None:
    scores = make_scores()
    result = paired_bootstrap(scores, [0, 0, 1])
    np.testing.assert_allclose(result.means, scores.mean(axis=1))
    np.testing.assert_allclose(result.gains, [0, *np.diff(scores.mean(axis=1))], atol=1e-12)


def test_intervals_agree_with_scipy_bootstrap() -> None:
    scores = make_scores()
    ours = paired_bootstrap(scores, [0, 0, 0], n_resamples=20_000)
    settings = {"n_resamples": 20_000, "method": "percentile", "rng": np.random.default_rng(7)}
    for row in range(3):
        theirs = bootstrap((scores[row],), np.mean, **settings).confidence_interval
        # Both ends are Monte-Carlo quantiles: their standard error is about 0.0007 here.
        assert ours.lows[row] == pytest.approx(theirs.low, abs=0.005)
        assert ours.highs[row] == pytest.approx(theirs.high, abs=0.005)
    theirs = bootstrap(
        (scores[2], scores[0]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        **settings,
    ).confidence_interval
    assert ours.gain_lows[2] == pytest.approx(theirs.low, abs=0.005)
    assert ours.gain_highs[2] == pytest.approx(theirs.high, abs=0.005)


def test_pairing_narrows_the_interval_of_a_difference_between_similar_policies() -> None:
    scores = make_scores(n_rows=2)
    scores[1] = scores[0]
    scores[1, :3] = 1 - scores[1, :3]
    result = paired_bootstrap(scores, [0, 0])
    assert result.gain_highs[1] - result.gain_lows[1] < 0.5 * (result.highs[1] - result.lows[1])


def test_a_row_that_is_its_own_reference_gains_exactly_nothing() -> None:
    result = paired_bootstrap(make_scores(), [0, 1, 2])
    for values in (result.gains, result.gain_lows, result.gain_highs):
        np.testing.assert_array_equal(values, 0)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    scores = make_scores()
    first, again, other = (paired_bootstrap(scores, [0, 0, 0], seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.lows, again.lows)
    assert (first.lows != other.lows).any()


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make_scores()
    whole = paired_bootstrap(scores, [0, 0, 0], n_resamples=100)
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 7 * scores.shape[1])
    chunked = paired_bootstrap(scores, [0, 0, 0], n_resamples=100)
    np.testing.assert_allclose(chunked.lows, whole.lows, atol=1e-12)
    np.testing.assert_allclose(chunked.gain_highs, whole.gain_highs, atol=1e-12)


def test_about_95_percent_of_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.random((400, 200)) < 0.3).astype(float)
    # Each sample is one experiment: its interval must be drawn from its own questions alone.
    inside = 0
    for seed, sample in enumerate(samples):
        result = paired_bootstrap(sample[None], [0], n_resamples=400, seed=seed)
        inside += result.lows[0] <= 0.3 <= result.highs[0]
    assert 0.91 <= inside / 400 <= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], [0]), r"scores must be an array \(policies, questions\).*got \(2,\)"),
        ((np.zeros((1, 0)), [0]), r"both at least 1, got \(1, 0\)"),
        (([[0.0, np.nan]], [0]), "scores must be finite, got nan at row 0, column 1"),
        (([[0.0, 1.0]], [0, 0]), r"references must be 1 row numbers, got int64 of shape \(2,\)"),
        (([[0.0, 1.0]], [0.0]), "references must be 1 row numbers, got float64"),
        (([[0.0, 1.0]], [1]), r"references must lie in 0\.\.0, got \[1\]"),
    ],
)
def test_scores_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*arguments)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="n_resamples must be at least 1, got 0"):
        paired_bootstrap([[1.0]], [0], n_resamples=0)
    with pytest.raises(ValueError, match="confidence must lie strictly between 0 and 1, got 95"):
        paired_bootstrap([[1.0]], [0], confidence=95)


@pytest.mark.parametrize(
    ("right", "n", "expected"),
    [(1.0, 20, (0.8389, 1.0)), (0.0, 10, (0.0, 0.2775)), (0.5, 100, (0.4038, 0.5962)), (0.9, 12, None)],
)
def test_wilsons_interval_is_that_of_its_published_formula(right: float, n: int, expected: tuple) -> None:
    low, high = wilson_interval(right, n)
    if expected:
        assert (low, high) == pytest.approx(expected, abs=1e-4)
    # Its ends are the shares from which `right` lies 1.96 standard errors away.
    for end in (low, high):
        if 0 < end < 1:
            assert abs(right - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n), rel=1e-5)


def test_wilsons_interval_covers_where_the_bootstrap_does_not() -> None:
    rng = np.random.default_rng(0)
    right = rng.binomial(15, 0.95, 2000) / 15
    covered = np.mean([low <= 0.95 <= high for low, high in (wilson_interval(r, 15) for r in right)])
    assert covered > 0.9
