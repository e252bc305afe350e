import json

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import allocate, allocate_by_difficulty, fit_class_curves
from ps_alloc.difficulty import difficulty_curves, load_difficulty_predictions

RNG = np.random.default_rng(0)
CLASS_CURVES = np.array([[0.8, 0.9, 0.9, 0.9], [0.1, 0.3, 0.6, 0.7], [0.0, 0.0, 0.0, 0.1]])


def test_class_curves_are_the_means_of_their_questions():
    curves, labels = make_curves("noisy", 30, 5, RNG), RNG.permutation(np.arange(30) % 3)
    expected = np.stack([curves[labels == c].mean(axis=0, dtype=float) for c in range(3)])
    np.testing.assert_allclose(fit_class_curves(curves, labels), expected)


def test_labels_give_each_query_its_class_curve_and_the_hull_does_the_rest():
    labels = RNG.integers(0, 3, 50)
    allocation = allocate_by_difficulty(CLASS_CURVES, 50 * 40, labels=labels, leftover="keep")
    expected = allocate(CLASS_CURVES[labels], 50 * 40, leftover="keep")
    np.testing.assert_array_equal(allocation.windows, expected.windows)
    mean = [allocation.windows[labels == c].mean() for c in range(3)]
    assert mean[1] > mean[0]  # what has most to gain gets most
    assert mean[1] > mean[2]


def test_certain_probabilities_are_labels_and_unsure_ones_mix_the_curves():
    labels = RNG.integers(0, 3, 20)
    np.testing.assert_allclose(
        difficulty_curves(CLASS_CURVES, probabilities=np.eye(3)[labels]), CLASS_CURVES[labels]
    )
    mixed = difficulty_curves(CLASS_CURVES, probabilities=[[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(mixed[0], [0.5, 0.25, 0.25] @ CLASS_CURVES)


def test_many_labels_take_the_tie_path_and_stay_near_the_optimum():
    labels = RNG.integers(0, 3, 50_000)
    allocation = allocate_by_difficulty(CLASS_CURVES, 50_000 * 40, labels=labels, leftover="keep")
    assert allocation.spent_tokens <= 50_000 * 40
    assert allocation.gap_bound * 50_000 < 0.6  # less than one step of the steepest class


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"labels or probabilities must be given, got neither"),
        ({"labels": [0, 3]}, r"labels must lie in \[0, 2\], got 3 in row 1"),
        ({"labels": [0.5]}, r"labels must be whole numbers of shape \(N,\), got float64 \(1,\)"),
        ({"labels": []}, r"labels must be whole numbers of shape \(N,\)"),
        (
            {"probabilities": [[0.5, 0.5]]},
            r"probabilities must be an array of shape \(N, 3\), .* got shape \(1, 2\)",
        ),
        ({"probabilities": [[0.5, 0.5, 0.5]]}, r"must sum to 1 in each row, got \[0.5 0.5 0.5\] in row 0"),
        ({"probabilities": [[1.5, -0.5, 0]]}, r"must not be negative"),
        ({"probabilities": [[np.nan, 0.5, 0.5]]}, r"must not be negative and must sum to 1"),
    ],
)
def test_bad_difficulty_predictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate_by_difficulty(CLASS_CURVES, 1000, **arguments)


def test_bad_training_labels_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one a curve \(3\), got 2"):
        fit_class_curves(CLASS_CURVES, [0, 1])
    with pytest.raises(ValueError, match=r"every class must have a question, got none for class 1"):
        fit_class_curves(CLASS_CURVES, [0, 2, 2])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\], got 2 in row 2"):
        fit_class_curves(CLASS_CURVES, [0, 1, 2], n_classes=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [0]}, r"must be a JSON object with 'class_curves'"),
        ([], r"must be a JSON object with 'class_curves'"),
        (
            {"class_curves": [[0.5]]},
            r"must hold 'labels' or 'probabilities', got the fields \['class_curves'\]",
        ),
        ({"class_curves": [[0.5], [0.5, 0.6]], "labels": [0]}, r"class_curves must have rows of one length"),
        ({"class_curves": [[0.5]], "labels": 0}, r"labels must be a list, got 0"),
        ({"class_curves": [[0.5]], "probabilities": 1.0}, r"probabilities must be a list, got 1.0"),
        (
            {"class_curves": [[0.5]], "labels": [0, 0], "ids": ["a"]},
            r"ids must be a list as long as labels \(2\), got \['a'\]",
        ),
    ],
)
def test_a_bad_predictions_file_is_refused(tmp_path, content, message):
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_difficulty_predictions(tmp_path / "p.json")
