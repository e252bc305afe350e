"""Predictions in memory and on disk: what is written is what is read, and what does not fit is refused."""

import json
import mmap

import numpy as np
import pytest

from ps_alloc import Predictions
from ps_alloc.difficulty import difficulty_curves

CURVES = np.random.default_rng(0).random((3, 4)).astype(np.float32)
GRID = [256, 512, 2048, 8192]
IDS = ["a", "ü-2", "c"]


@pytest.mark.parametrize("use", [None, CURVES * 100])
@pytest.mark.parametrize("ids", [None, IDS])
def test_what_is_saved_is_loaded(tmp_path, use, ids):
    Predictions(CURVES, GRID, use, ids).save(tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(loaded.curves, CURVES)
    assert loaded.budgets.tolist() == GRID
    assert loaded.budgets.dtype == np.int64
    assert (loaded.use is None) == (use is None)
    if use is not None:
        np.testing.assert_array_equal(loaded.use, use)
    assert loaded.ids == ids
    assert len(loaded) == 3


def test_the_file_is_plain_arrays_that_anyone_can_read(tmp_path):
    Predictions(CURVES, GRID, ids=IDS).save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as content:
        assert {name: content[name].dtype.kind for name in content} == {
            "curves": "f",
            "budgets": "i",
            "ids": "U",
        }
    assert list(tmp_path.iterdir()) == [tmp_path / "p.npz"]


def test_any_name_may_be_given_to_the_file(tmp_path):
    Predictions(CURVES, GRID).save(tmp_path / "without-suffix")
    assert Predictions.load(tmp_path / "without-suffix").budgets.tolist() == GRID


def test_a_plain_npy_is_memory_mapped_and_gets_equal_windows(tmp_path):
    np.save(tmp_path / "p.npy", CURVES)
    loaded = Predictions.load(tmp_path / "p.npy", window=8)
    base = loaded.curves
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert loaded.budgets.tolist() == [8, 16, 24, 32]
    assert loaded.window == 8
    assert Predictions.load(tmp_path / "p.npy", budgets=GRID).budgets.tolist() == GRID
    with pytest.raises(ValueError, match=r"p.npy: curves must have a column for each of the 2 budgets"):
        Predictions.load(tmp_path / "p.npy", budgets=[1, 2])


def test_difficulty_classes_become_the_curves_they_expect(tmp_path):
    classes = [[0.8, 0.9, 0.9], [0.1, 0.4, 0.8]]
    content = {
        "class_curves": classes,
        "labels": [0, 1],
        "probabilities": [[0.5, 0.5], [0, 1]],
        "ids": [7, 8],
    }
    (tmp_path / "p.json").write_text(json.dumps(content))
    loaded = Predictions.load(tmp_path / "p.json")
    expected = difficulty_curves(classes, probabilities=content["probabilities"])
    np.testing.assert_array_equal(loaded.curves, expected)
    assert loaded.ids == ["7", "8"]
    assert loaded.window == 16


def test_only_equal_windows_from_zero_on_have_a_window():
    assert Predictions(CURVES, [5, 10, 15, 20]).window == 5
    assert Predictions(CURVES, [6, 10, 14, 18]).window is None
    assert Predictions(CURVES, GRID).window is None
    assert Predictions(CURVES[:, :1], [64]).window == 64


def test_precision_is_kept_and_other_types_become_float32():
    assert Predictions(CURVES.astype(np.float64), GRID).curves.dtype == np.float64
    assert Predictions(CURVES.astype(np.float16), GRID).curves.dtype == np.float32
    assert Predictions(CURVES, np.array(GRID, dtype=np.float64)).budgets.dtype == np.int64


def test_other_questions_and_another_order_are_refused():
    known, unknown = Predictions(CURVES, GRID, ids=IDS), Predictions(CURVES, GRID)
    known.check_ids(IDS)
    unknown.check_ids(["x", "y", "z"])
    with pytest.raises(ValueError, match=r"got the same questions in another order: row 0 is 'a', .* 'c'"):
        known.check_ids(IDS[::-1])
    with pytest.raises(
        ValueError, match=r"p.npz must be of these questions .* got other questions: row 2 is 'c'"
    ):
        known.check_ids(["a", "ü-2", "d"], "p.npz")
    for predictions in (known, unknown):
        with pytest.raises(ValueError, match=r"predictions must have one row a question \(2\), got 3"):
            predictions.check_ids(["a", "ü-2"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curves": CURVES[0]}, r"curves must be an array of shape \(N, W\), .* got shape \(4,\)"),
        ({"curves": [["a"]]}, r"curves must be an array of real numbers, got dtype <U1"),
        ({"curves": np.empty((0, 4))}, r"both at least 1, got shape \(0, 4\)"),
        ({"budgets": [1, 2, 3]}, r"curves must have a column for each of the 3 budgets, got shape \(3, 4\)"),
        ({"budgets": [1, 2, 2, 3]}, r"budgets must rise, got 2 after 2 at position 2"),
        ({"budgets": [0, 2, 3, 4]}, r"budgets must lie in \[1, .* got 0.0 for position 0"),
        ({"budgets": [1, 2, 3.5, 4]}, r"budgets must be whole tokens, got 3.5 at position 2"),
        ({"budgets": [1, 2, 3, np.nan]}, r"budgets must lie in \[1, .* got nan for position 3"),
        ({"budgets": [1, 2, 3, 2**54]}, r"budgets must lie in \[1, .* got 1.8.*e\+16 for position 3"),
        ({"budgets": 16}, r"budgets must be a list of shape \(M,\), got shape \(\)"),
        ({"use": CURVES[:2]}, r"use must have the curves' shape \(3, 4\), got \(2, 4\)"),
        ({"unlike": [0, 1, 0]}, r"unlike must be one bool a curve \(3\), got int64 of shape \(3,\)"),
        ({"ids": ["a", "b"]}, r"ids must be one a curve \(3\), got 2"),
        ({"ids": ["a", "b", "a"]}, r"ids must differ from each other, got 'a' twice"),
        ({"ids": "abc"}, r"ids must be a list of texts, got 'abc'"),
        ({"ids": [None, "b", "c"]}, r"ids must be a list of texts, got \[None"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Predictions(**{"curves": CURVES, "budgets": GRID, **change})


def test_files_that_are_no_predictions_are_refused_in_one_sentence(tmp_path):
    def refused(content, message, name="p"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            Predictions.load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    with pytest.raises(
        ValueError, match=r"predictions must be an existing file \(.npz, .npy or .json\), got"
    ):
        Predictions.load(tmp_path / "none")
    refused(b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer: fetch the file itself")
    Predictions(CURVES, GRID).save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    for end in (10, 100, len(whole) // 2, len(whole) - 5):
        refused(whole[:end], "must be a .npz file of plain arrays, but")
    np.savez(tmp_path / "other.npz", curves=CURVES)
    refused((tmp_path / "other.npz").read_bytes(), r"but lacks \['budgets'\]")
    np.savez(tmp_path / "pickled.npz", curves=np.array([{}]), budgets=GRID)
    refused(
        (tmp_path / "pickled.npz").read_bytes(), "must be a .npz file of plain arrays, but .*allow_pickle"
    )
    np.save(tmp_path / "p.npy", CURVES)
    whole = (tmp_path / "p.npy").read_bytes()
    for end in (6, 9, 12, 40, 80, 130, len(whole) - 1):
        refused(whole[:end], "must be a .npy file of plain numbers, but")
    np.save(tmp_path / "vector.npy", CURVES[0])
    refused(
        (tmp_path / "vector.npy").read_bytes(),
        r"curves must be an array of shape \(N, W\), .* got shape \(4,\)",
    )


@pytest.mark.timeout(20)
def test_one_name_twice_among_many_is_found_soon():
    ids = [str(i) for i in range(200_000)] + ["7"]
    with pytest.raises(ValueError, match=r"ids must differ from each other, got '7' twice"):
        Predictions(np.zeros((len(ids), 1)), [16], ids=ids)
