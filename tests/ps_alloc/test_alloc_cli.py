"""The `ps-alloc` command, in-process: files in, files out, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from naive import make_curves

from ps_alloc import Allocation, Guard, PlattCalibrator, Predictions, allocate
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
    text = capsys.readouterr().out
    assert "40 queries, 3840 of 3840 tokens" in text
    assert text.endswith(f"next: ps-eval run --questions … --model … --allocations {output}\n")


def test_greedy_passes_its_options_on(tmp_path, predictions):
    output = str(tmp_path / "a.json")
    options = ["--total-tokens", "3000", "--window", "8", "--min-windows", "2", "--method", "myopic"]
    assert (
        main(["greedy", "--predictions", predictions, "--output", output, "--leftover", "keep", *options])
        == 0
    )
    expected = allocate(CURVES, 3000, window=8, min_windows=2, method="myopic", leftover="keep")
    np.testing.assert_array_equal(Allocation.load(output).windows, expected.windows)


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
        (None, "96", "predictions must be an existing file (.npz, .npy or .json), got"),
        (b"no array", "96", "must hold valid JSON, but"),
        (b"[" * 100_000, "96", "must hold valid JSON, but it is nested too deeply"),
        (b"7" * 5000, "96", "must hold valid JSON, but Exceeds the limit"),
        (
            np.zeros(3),
            "96",
            "p.npy: curves must be an array of shape (N, W), both at least 1, got shape (3,)",
        ),
        (np.zeros(()), "96", "got shape ()"),
        (np.zeros((0, 4)), "96", "got shape (0, 4)"),
        (np.zeros((4, 0)), "96", "p.npy: "),
        (np.zeros((2, 2), complex), "96", "curves must be an array of real numbers, got dtype complex128"),
        (np.full((2, 2), 7.0), "96", "curves must lie in [0, 1], got 7.0 at row 0, column 0"),
        (np.zeros((2, 2)), "8", "--budget must be at least 16 tokens (--min-windows 1), got 8"),
        (np.zeros((2, 2)), "nan", "--budget must be finite, got nan"),
        (np.zeros((2, 2)), "-1", "--budget must lie in [0, 1.09951e+12], got -1.0"),
        (np.zeros((2, 2)), "1e300", "--budget must lie in [0, 1.09951e+12], got 1e+300"),
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


def test_a_total_that_is_too_small_says_what_each_query_must_get(tmp_path, predictions, capsys):
    command = ["greedy", "--predictions", predictions, "--output", str(tmp_path / "a.json")]
    assert main([*command, "--total-tokens", "1000", "--min-windows", "2"]) == 2
    message = "--total-tokens must be at least 1280, 32 for each of 40 queries (--min-windows 2), got 1000"
    assert message in capsys.readouterr().err


def test_any_cut_or_garbled_file_is_refused_in_one_sentence(tmp_path, capsys):
    """Bytes lost or changed anywhere in the three kinds of files."""
    np.save(tmp_path / "p.npy", CURVES[:3, :4])
    Predictions(CURVES[:3, :4], [8, 16, 24, 32], ids=["a", "b", "c"]).save(tmp_path / "p.npz")
    classes = {"class_curves": CLASS_CURVES, "labels": [0, 1, 1], "probabilities": [[0, 1], [1, 0], [0, 1]]}
    (tmp_path / "p.json").write_text(json.dumps(classes))
    rng = np.random.default_rng(0)
    for kind in ("npy", "npz", "json"):
        whole = (tmp_path / f"p.{kind}").read_bytes()
        for attempt in range(60):
            content = bytearray(whole)
            if attempt % 2:
                content = content[: rng.integers(len(whole))]
            else:
                content[rng.integers(min(len(whole), 200))] = rng.integers(256)
            (tmp_path / "broken").write_bytes(content)
            command = ["greedy", "--predictions", str(tmp_path / "broken"), "--budget", "24"]
            code = main([*command, "--output", str(tmp_path / "a.json")])
            error = capsys.readouterr().err
            assert (code, error.count("\n")) in ((0, 0), (2, 1)), error


@pytest.mark.parametrize(
    "change",
    [
        {"class_curves": 1},
        {"class_curves": [[10**400, 1]]},
        {"class_curves": [["a", "b"]]},
        {"class_curves": []},
        {"labels": [0, 10**30, 1]},
        {"labels": [[0], [1], [1]]},
        {"labels": "001"},
        {"labels": {}},
        {"probabilities": [[None, 1]] * 3},
        {"probabilities": [[[0.5]], [[0.5]], [[0.5]]]},
        {"ids": ["a", "b"]},
        {"ids": ["a", "a", "b"]},
        {"ids": [["a"], "b", "c"]},
    ],
)
def test_odd_fields_of_difficulty_predictions_are_refused_in_one_sentence(tmp_path, capsys, change):
    content = {"class_curves": CLASS_CURVES, "labels": [0, 1, 1], **change}
    (tmp_path / "p.json").write_text(json.dumps(content))
    command = ["difficulty", "--predictions", str(tmp_path / "p.json"), "--budget", "32"]
    assert main([*command, "--output", str(tmp_path / "a.json")]) == 2
    error = capsys.readouterr().err
    assert (error.startswith("error: "), error.count("\n")) == (True, 1)


def test_the_output_is_looked_at_before_anything_is_read(tmp_path, predictions, capsys):
    for output, message in (
        (predictions, "must be another file than the input"),
        (tmp_path, "but it is a folder"),
    ):
        assert main(["greedy", "--predictions", predictions, "--budget", "96", "--output", str(output)]) == 2
        assert message in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(predictions), CURVES)


def test_json_is_printed_where_it_is_asked_for(tmp_path, predictions, capsys):
    output = str(tmp_path / "a.json")
    assert main(["greedy", "--predictions", predictions, "--budget", "96", "--output", output, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["output"], printed["queries"], printed["spent_tokens"]) == (output, 40, 3840)
    assert main(["bench", "--queries", "50", "--repeats", "1", "--json"]) == 0
    assert [row["queries"] for row in json.loads(capsys.readouterr().out)] == [50]


def test_a_calibration_and_a_guard_go_from_command_to_command(tmp_path, capsys):
    rng = np.random.default_rng(4)
    curves = make_curves("logistic", 300, 16, rng)
    wrong = np.clip(curves[rng.permutation(300)], 0, 1)  # everyone has another's curve
    for name, values in (("good", curves), ("wrong", wrong), ("measured", curves)):
        np.save(tmp_path / f"{name}.npy", values)

    def run(command, predictions, output, *flags):
        given = ["--predictions", str(tmp_path / f"{predictions}.npy"), "--output", str(tmp_path / output)]
        assert main([command, *given, *flags]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    outcomes = ("--outcomes", str(tmp_path / "measured.npy"))
    calibration = ("--calibration", str(tmp_path / "c.json"))
    assert run("calibrate", "wrong", "c.json", *outcomes, "--n-traces", "100").count("\n") == 19
    expected = PlattCalibrator.fit(wrong, curves, 100)
    np.testing.assert_array_equal(PlattCalibrator.load(tmp_path / "c.json").slopes, expected.slopes)
    table = run("guard", "wrong", "g.json", *outcomes, "--budgets", "160,224")
    assert table.count("uniform: no clear gain") == 2
    assert table.endswith(f"g.json\nnext: ps-alloc greedy --guard {tmp_path}/g.json …\n")
    table = run("guard", "good", "good-g.json", *outcomes, "--budgets", "96,128")
    assert "uniform" not in table
    assert Guard.load(tmp_path / "good-g.json").budgets.tolist() == [96, 128]
    run("guard", "wrong", "cg.json", *outcomes, *calibration, "--budgets", "96", "--z", "1")
    expected = Guard.fit(expected.apply(wrong), curves, [96], z=1)
    np.testing.assert_array_equal(Guard.load(tmp_path / "cg.json").gains, expected.gains)

    text = run("greedy", "good", "a.json", "--budget", "96", "--guard", str(tmp_path / "good-g.json"))
    assert "(hull)" in text
    np.testing.assert_array_equal(
        Allocation.load(tmp_path / "a.json").windows, allocate(curves, 300 * 96).windows
    )
    text = run(
        "greedy", "wrong", "a.json", "--budget", "192", "--guard", str(tmp_path / "g.json"), *calibration
    )
    assert "g.json: no clear gain was validated at this budget, so all get the same" in text
    assert Allocation.load(tmp_path / "a.json").windows.tolist() == [12] * 300


def test_outcomes_of_other_questions_or_budgets_are_refused(tmp_path, capsys):
    Predictions(CURVES, 16 * np.arange(1, 17), ids=[f"q{i}" for i in range(40)]).save(tmp_path / "p.npz")
    Predictions(CURVES, 16 * np.arange(1, 17), ids=[f"q{i}" for i in range(1, 41)]).save(
        tmp_path / "other.npz"
    )
    Predictions(CURVES, 2 ** np.arange(4, 20), ids=[f"q{i}" for i in range(40)]).save(tmp_path / "grid.npz")
    command = ["calibrate", "--predictions", str(tmp_path / "p.npz"), "--output", str(tmp_path / "c.json")]
    for name, message in (
        ("other", "got other questions: row 0 is 'q0'"),
        ("grid", "must have the budgets of"),
    ):
        assert main([*command, "--outcomes", str(tmp_path / f"{name}.npz")]) == 2
        assert message in capsys.readouterr().err


def test_ids_travel_from_predictions_to_allocation(tmp_path):
    ids = [f"q{i}" for i in range(40)]
    Predictions(CURVES, 8 * np.arange(1, 17), ids=ids).save(tmp_path / "p.npz")
    command = ["greedy", "--predictions", str(tmp_path / "p.npz"), "--budget", "48"]
    assert main([*command, "--output", str(tmp_path / "a.json")]) == 0
    loaded = Allocation.load(tmp_path / "a.json")
    assert loaded.ids == ids
    np.testing.assert_array_equal(
        loaded.windows, allocate(CURVES, 40 * 48, window=8).windows
    )  # the file's own


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid", "16,32"], "--grid must be that of"),
        (["--window", "16"], "--window must be that of"),
        (["--window", "8"], None),
        (["--grid", "8,16,24,32"], None),
    ],
)
def test_a_grid_that_is_not_the_file_s_own_is_refused(tmp_path, capsys, flags, message):
    Predictions(CURVES[:, :4], [8, 16, 24, 32]).save(tmp_path / "p.npz")
    command = ["greedy", "--predictions", str(tmp_path / "p.npz"), "--output", str(tmp_path / "a.json")]
    assert main([*command, "--budget", "24", *flags]) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_alone_it_gives_an_overview_and_a_first_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out == text
    assert "ps-alloc greedy --predictions predictions.npz --budget 96 --output allocation.json" in text
    assert all(f"\n  {name} " in text for name in ("greedy", "difficulty", "calibrate", "guard", "bench"))


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert f"numpy {np.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "usage", "message"),
    [
        (["gredy"], "usage: ps-alloc COMMAND ...", "there is no command 'gredy'; did you mean 'greedy'?"),
        (["xyz"], "usage: ps-alloc COMMAND ...", "there is no command 'xyz'\n"),
        (
            ["greedy", "--buget", "3"],
            "usage: ps-alloc greedy",
            "there is no --buget; did you mean '--budget'?",
        ),
        (
            ["greedy"],
            "usage: ps-alloc greedy",
            "the following arguments are required: --predictions, --output",
        ),
        (["bench", "--repeats", "x"], "usage: ps-alloc bench", "argument --repeats: invalid int value: 'x'"),
    ],
)
def test_a_slip_gets_the_command_s_own_usage_and_what_was_meant(args, usage, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(args)
    error = capsys.readouterr().err
    assert error.startswith(usage)
    assert f"error: {message}" in error


@pytest.mark.parametrize("flag", ["--repeats", "--queries", "--windows"])
def test_a_bench_of_nothing_is_refused(flag, capsys):
    assert main(["bench", flag, "0"]) == 2
    assert f"{flag} must be at least 1" in capsys.readouterr().err


def test_budgets_to_try_must_be_numbers(tmp_path, predictions, capsys):
    command = ["guard", "--predictions", predictions, "--outcomes", predictions, "--budgets", "48;96"]
    assert main([*command, "--output", str(tmp_path / "g.json")]) == 2
    assert "--budgets must be numbers with commas between them, such as 32,64" in capsys.readouterr().err


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "ps_alloc", "--version"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "numba" in done.stdout


def test_a_token_grid_and_expected_use_go_from_file_to_file(tmp_path, capsys):
    rng = np.random.default_rng(12)
    grid = np.array([64, 256, 1024, 4096])
    need = rng.lognormal(6, 1.2, (400, 1))
    curves = np.clip(0.9 * (grid >= need) + 0.02, 0, 1).astype(np.float32)
    use = np.minimum(grid, need).astype(np.float32)
    ids = [f"q{i}" for i in range(400)]
    path, output, guard = (str(tmp_path / name) for name in ("p.npz", "a.json", "g.json"))
    Predictions(curves, grid, use, ids).save(path)
    command = ["guard", "--predictions", path, "--outcomes", path, "--budgets", "150,300", "--output", guard]
    assert main(command) == 0
    assert "uniform" not in capsys.readouterr().out
    command = ["greedy", "--predictions", path, "--budget", "150", "--guard", guard, "--output", output]
    assert main(command) == 0
    expected = allocate(curves, 400 * 150, budgets=grid, use=use)
    loaded = Allocation.load(output)
    np.testing.assert_array_equal(loaded.tokens, expected.tokens)
    np.testing.assert_allclose(loaded.expected_used, expected.expected_used)
    assert loaded.ids == ids
    assert main([*command[:4], "5", *command[5:]]) == 2
    least = use[:, 0].mean()
    assert f"--budget must be at least {least:g} tokens (--min-windows 1), got 5" in capsys.readouterr().err


def test_a_grid_may_be_said_where_the_file_does_not(tmp_path, predictions, capsys):
    output = str(tmp_path / "a.json")
    grid = [16 * k * k for k in range(1, 17)]
    command = ["greedy", "--predictions", predictions, "--budget", "400", "--output", output, "--grid"]
    assert main([*command, ",".join(map(str, grid))]) == 0
    expected = allocate(CURVES, 40 * 400, budgets=grid)
    np.testing.assert_array_equal(Allocation.load(output).tokens, expected.tokens)
    for wrong, message in (
        ("16,32", "p.npy: curves must have a column for each of the 2 budgets, got shape (40, 16)"),
        ("16;32", "--grid must be numbers with commas between them, such as 32,64, got '16;32'"),
    ):
        assert main([*command, wrong]) == 2
        assert message in capsys.readouterr().err


def test_who_is_unlike_travels_from_the_predictions_to_the_allocation(tmp_path, capsys):
    unlike = np.arange(40) % 20 == 3
    Predictions(CURVES, 16 * np.arange(1, 17), unlike=unlike).save(tmp_path / "p.npz")
    files = ["--predictions", str(tmp_path / "p.npz"), "--output", str(tmp_path / "a.json")]
    assert main(["greedy", *files, "--budget", "96"]) == 0
    assert "2 queries are unlike those the predictor learned from" in capsys.readouterr().out
    assert Allocation.load(tmp_path / "a.json").unlike.tolist() == [3, 23]
    Predictions(CURVES, 16 * np.arange(1, 17), unlike=np.zeros(40, bool)).save(tmp_path / "p.npz")
    assert main(["greedy", *files, "--budget", "96"]) == 0
    assert "unlike those" not in capsys.readouterr().out
    assert Allocation.load(tmp_path / "a.json").unlike.tolist() == []
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**content, "unlike": [40]}))
    with pytest.raises(ValueError, match=r"a.json: unlike must be rows of 40, got 40"):
        Allocation.load(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"unlike must be one bool a curve \(40\), got int64 of"):
        Predictions(CURVES, 16 * np.arange(1, 17), unlike=np.array([1, 2]))
