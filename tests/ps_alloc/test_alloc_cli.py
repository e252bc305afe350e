"""The `ps-alloc` command, in-process: files in, files out, exit codes."""

import json

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import Allocation, allocate, cli
from ps_alloc.cli import main

CURVES = make_curves("noisy", 40, 16, np.random.default_rng(0))
CLASS_CURVES = [[0.8, 0.9, 0.9], [0.1, 0.4, 0.8]]


@pytest.fixture
def predictions(tmp_path):
    np.save(tmp_path / "p.npy", CURVES)
    return str(tmp_path / "p.npy")


def test_greedy_writes_the_allocation_of_the_budget(tmp_path, predictions, capsys):
    output = str(tmp_path / "a.json")
    assert main(["greedy", "--predictions", predictions, "--budget", "96", "--output", output]) == 0
    expected = allocate(CURVES, 40 * 96)
    np.testing.assert_array_equal(Allocation.load(output).windows, expected.windows)
    assert json.loads((tmp_path / "a.json").read_text())["budget"] == 96
    assert "40 queries, 3840 of 3840 tokens" in capsys.readouterr().out


def test_greedy_passes_its_options_on(tmp_path, predictions):
    output = str(tmp_path / "a.json")
    options = ["--total-tokens", "3000", "--window", "8", "--min-windows", "2", "--method", "myopic"]
    assert (
        main(["greedy", "--predictions", predictions, "--output", output, "--leftover", "keep", *options])
        == 0
    )
    expected = allocate(CURVES, 3000, window=8, min_windows=2, method="myopic", leftover="keep")
    np.testing.assert_array_equal(Allocation.load(output).windows, expected.windows)


def test_predictions_are_memory_mapped_not_read(predictions):
    assert isinstance(cli.read_predictions(predictions), np.memmap)


def test_difficulty_reads_labels_and_prefers_probabilities(tmp_path):
    content = {"class_curves": CLASS_CURVES, "labels": [0, 1, 1], "ids": ["a", "b", "c"]}
    (tmp_path / "p.json").write_text(json.dumps(content))
    command = ["difficulty", "--predictions", str(tmp_path / "p.json"), "--output", str(tmp_path / "a.json")]
    assert main([*command, "--budget", "32"]) == 0
    loaded = Allocation.load(tmp_path / "a.json")
    assert loaded.ids == ["a", "b", "c"]
    assert loaded.windows.tolist() == [1, 3, 2]
    content["probabilities"] = [[0, 1], [1, 0], [0, 1]]
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert main([*command, "--budget", "32"]) == 0
    assert Allocation.load(tmp_path / "a.json").windows.tolist() == [3, 1, 2]


def test_pickled_arrays_are_refused_and_nothing_is_written(tmp_path, capsys):
    np.save(tmp_path / "p.npy", np.array([{"code": 1}]), allow_pickle=True)
    output = tmp_path / "a.json"
    command = ["greedy", "--predictions", str(tmp_path / "p.npy"), "--budget", "96", "--output", str(output)]
    assert main(command) == 2
    assert "must be a .npy file of plain numbers" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "budget", "message"),
    [
        (None, "96", "predictions must be an existing .npy file"),
        (b"no array", "96", "must be a .npy file of plain numbers"),
        (np.zeros(3), "96", "must hold an array of shape (N, W), got shape (3,)"),
        (np.full((2, 2), 7.0), "96", "curves must lie in [0, 1], got 7.0 at row 0, column 0"),
        (np.zeros((2, 2)), "8", "which takes 32 tokens, got 16"),
        (np.zeros((2, 2)), "nan", "--budget must be a number of tokens, not negative, got nan"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(tmp_path, capsys, content, budget, message):
    path = tmp_path / "p.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    command = ["greedy", "--predictions", str(path), "--budget", budget, "--output", str(tmp_path / "a.json")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.glob("*.json")) == []


def test_a_budget_is_asked_for_once(predictions):
    for budget in ([], ["--budget", "96", "--total-tokens", "5"]):
        with pytest.raises(SystemExit, match="2"):
            main(["greedy", "--predictions", predictions, "--output", "a.json", *budget])


def test_bench_prints_a_line_a_size(capsys):
    assert main(["bench", "--queries", "50", "5000", "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("copies" in line for line in lines[1:])
