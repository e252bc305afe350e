"""Questions unlike those a predictor learned from: the distance, its limit, and what is kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ps_train.common import novelty
from ps_train.common.novelty import FOLDS, NOVELTY_FILE, Novelty, how_many_unlike


def correlated(number: int, seed: int, width: int = 30, shift: float = 0.0) -> np.ndarray:
    """Rows of few strong factors, weak noise and a constant column; `shift` goes where none varies much."""
    mixing = np.random.default_rng(0).standard_normal((4, width))
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((number, 4)) @ mixing + 0.1 * rng.standard_normal((number, width))
    beside = np.linalg.svd(mixing)[2][-1]
    return np.hstack([rows + shift * beside, np.full((number, 1), 3.0)]).astype(np.float32)


def test_the_distance_is_mahalanobis_under_the_covariance_of_probabilistic_pca() -> None:
    rows, asked = correlated(400, 1).astype(float), correlated(20, 2).astype(float)
    found = Novelty.fit(rows)
    kept = rows[:, :-1]
    scaled = (kept - kept.mean(0)) / kept.std(0)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    axes = min(len(found.axes), len(values))
    assert axes == 30  # as many as columns vary: nothing is left beside them
    assert found.axes.shape == (30, 31)
    covariance = (vectors * values) @ vectors.T
    other = (asked[:, :-1] - kept.mean(0)) / kept.std(0)
    expected = np.einsum("nd,de,ne->n", other, np.linalg.inv(covariance), other)
    np.testing.assert_allclose(found.distances(asked), expected, rtol=1e-4)


def test_with_fewer_axes_the_rest_has_one_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "MOST_AXES", 6)
    rows, asked = correlated(400, 1).astype(float), correlated(20, 2).astype(float)
    kept = rows[:, :-1]
    scaled = (kept - kept.mean(0)) / kept.std(0)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    rest = values[:-6].mean()
    covariance = vectors[:, -6:] @ np.diag(values[-6:]) @ vectors[:, -6:].T
    covariance += rest * vectors[:, :-6] @ vectors[:, :-6].T
    other = (asked[:, :-1] - kept.mean(0)) / kept.std(0)
    expected = np.einsum("nd,de,ne->n", other, np.linalg.inv(covariance), other)
    np.testing.assert_allclose(Novelty.fit(rows).distances(asked), expected, rtol=0.02)


def test_of_questions_like_the_training_questions_one_in_a_hundred_is_flagged_of_others_all() -> None:
    found = Novelty.fit(correlated(1_000, 1))
    assert found.unlike(correlated(5_000, 2)).mean() == pytest.approx(0.01, abs=0.006)
    assert found.unlike(correlated(5_000, 3, shift=1.0)).mean() > 0.99


def test_few_rows_flag_nothing_but_what_lies_beyond_all_of_them() -> None:
    found = Novelty.fit(correlated(2 * FOLDS, 1))
    assert found.unlike(correlated(1_000, 2)).mean() < 0.15
    assert found.unlike(100 * correlated(10, 3)).all()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    assert Novelty.load(tmp_path) is None
    found = Novelty.fit(correlated(200, 1))
    found.save(tmp_path)
    read = Novelty.load(tmp_path)
    assert read is not None
    asked = correlated(100, 2)
    np.testing.assert_allclose(read.distances(asked), found.distances(asked), rtol=1e-3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (np.zeros((3, 4)), r"columns must have at least 10 rows, got shape \(3, 4\)"),
        (np.full((20, 4), np.nan), "columns must be finite, got NaN or infinity"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(columns: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Novelty.fit(columns)


def test_other_columns_and_damaged_files_are_named(tmp_path: Path) -> None:
    found = Novelty.fit(correlated(50, 1))
    with pytest.raises(ValueError, match=r"columns must be of shape \(N, 31\), got \(2, 5\)"):
        found.distances(np.zeros((2, 5)))
    found.save(tmp_path)
    arrays = load_file(tmp_path / NOVELTY_FILE)
    save_file({**arrays, "axes": arrays["axes"][:, :3].copy()}, tmp_path / NOVELTY_FILE)
    with pytest.raises(ValueError, match="must hold what a predictor knows of novelty, but its shapes"):
        Novelty.load(tmp_path)
    (tmp_path / NOVELTY_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must hold what a predictor knows of novelty, but"):
        Novelty.load(tmp_path)


def test_one_sentence_says_how_many_or_that_it_is_not_known() -> None:
    assert how_many_unlike(np.array([True, False, False, False])).startswith("1 of 4 questions (25%) are unl")
    assert "is not known" in how_many_unlike(None)
