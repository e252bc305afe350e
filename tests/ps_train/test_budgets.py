"""Budget data: read from JSONL line by line, and made from curve tables by the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_curves import make_table

from ps_train.budget.budgets import BudgetSet, load_budgets
from ps_train.budget.data import BudgetDataModule
from ps_train.budget.labels import needed_budgets
from ps_train.cli import main


def write(folder: Path, *records: object) -> Path:
    path = folder / "budgets.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_both_names_of_the_budget_are_read_and_ids_are_made_up(tmp_path):
    path = write(tmp_path, {"query": "a", "optimal_budget": 300}, "", {"query": "b", "budget": 32000.0})
    data = load_budgets(path)
    assert data.ids == ["budgets-0", "budgets-2"]
    assert data.queries == ["a", "b"]
    np.testing.assert_array_equal(data.budgets, [300, 32000])
    assert (data.window, data.curves, data.malformed) == (1, None, ())


def test_what_is_saved_is_what_is_read(tmp_path):
    data = BudgetSet(
        ["x", "y"], ["Wie?", "何 \u2028"], np.array([16, 32]), 16, np.array([[0.1, 0.25], [0, 1]], np.float32)
    )
    data.save(tmp_path / "data.jsonl")
    read = load_budgets(tmp_path / "data.jsonl")
    assert (read.ids, read.queries, read.window) == (data.ids, data.queries, 16)
    np.testing.assert_array_equal(read.budgets, data.budgets)
    np.testing.assert_array_equal(read.curves, data.curves)


GOOD = {"query": "q", "budget": 32, "window": 16, "curve": [0.5, 0.5]}
MALFORMED = {
    "must be a JSON object, but Expecting": "{",
    "must be a JSON object, got list": [],
    "must have a non-empty text 'query', got None": {"budget": 5},
    "must have a non-empty text 'query', got ' '": {**GOOD, "query": " "},
    "'optimal_budget' or 'budget' as a positive whole number of tokens, got None": {"query": "q"},
    "'optimal_budget' or 'budget' as a positive whole number of tokens, got '7'": {**GOOD, "budget": "7"},
    "as a positive whole number of tokens, got 0": {**GOOD, "budget": 0},
    "as a positive whole number of tokens, got True": {**GOOD, "budget": True},
    "as a positive whole number of tokens, got 1.5": {**GOOD, "budget": 1.5},
    "as a positive whole number of tokens, got nan": '{"query": "q", "budget": NaN}',
    "must have one budget, got optimal_budget 16 and budget 32": {**GOOD, "optimal_budget": 16},
    "must have 'window' as a positive whole number": {**GOOD, "window": -1},
    r"must have a budget that is a multiple of its window \(16\), got 17": {**GOOD, "budget": 17},
    r"must have a 'curve' of accuracies in \[0, 1\] up to its budget, got \[0.5\]": {**GOOD, "curve": [0.5]},
    r"must have a 'curve' of accuracies .* got \[2, 0\]": {**GOOD, "curve": [2, 0]},
    r"must have the first query's window \(16\), got 8": {**GOOD, "window": 8, "budget": 16},
    "must have a curve of 2 windows as the first query, got none": {"query": "q", "budget": 32, "window": 16},
    "must have an id of its own, got 'first' again": {**GOOD, "id": "first"},
}


@pytest.mark.parametrize("message", MALFORMED)
def test_a_malformed_line_is_named_counted_and_refused_or_skipped_by_request(tmp_path, message):
    path = write(tmp_path, {**GOOD, "id": "first"}, MALFORMED[message], "[3]", GOOD)
    with pytest.raises(ValueError, match=rf"2 of 4 lines are malformed; line 2 .*{message}"):
        load_budgets(path)
    data = load_budgets(path, skip_malformed=True)
    assert data.ids == ["first", "budgets-3"]
    assert [line.split(" must")[0] for line in data.malformed] == ["line 2", "line 3"]


def test_budgets_are_rounded_up_to_other_windows_but_curves_keep_theirs(tmp_path):
    data = load_budgets(write(tmp_path, {"query": "a", "budget": 300}, {"query": "b", "budget": 256}))
    coarse = data.in_windows(128)
    np.testing.assert_array_equal(coarse.budgets, [384, 256])
    assert coarse.window == 128
    with pytest.raises(ValueError, match="window must be at least 1 token, got 0"):
        data.in_windows(0)
    curved = load_budgets(write(tmp_path, GOOD))
    assert curved.in_windows(16) is curved
    with pytest.raises(ValueError, match="window must be that of the curves, 16 tokens, got 32"):
        curved.in_windows(32)


def test_queries_are_read_without_budgets_and_from_question_sets(tmp_path):
    path = write(tmp_path, {"query": "a"}, {"question": "b", "answer": "2", "id": 7}, GOOD)
    data = load_budgets(path, labelled=False)
    assert (data.ids, data.queries) == (["budgets-0", "7", "budgets-2"], ["a", "b", "q"])
    with pytest.raises(ValueError, match=r"2 of 3 lines are malformed; line 1 .* got None"):
        load_budgets(path)


def test_the_data_module_reads_splits_and_batches(tmp_path, backbone, capsys):
    table = make_table(40)
    budgets, _ = needed_budgets(table.curves, 16)
    BudgetSet(table.ids, table.questions, budgets, 16, table.curves).save(tmp_path / "train.jsonl")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{\n")
    write(tmp_path, {"question": "how many eggs ?", "answer": "1"})

    def module(**changes):
        files = {"train": str(tmp_path / "train.jsonl"), "predict": str(tmp_path / "budgets.jsonl")}
        return BudgetDataModule(str(backbone), **{**files, "val_fraction": 0.2, "batch_size": 8, **changes})

    with pytest.raises(ValueError, match="1 of 41 lines are malformed; line 41 must be a JSON object"):
        module().setup("fit")
    data = module(skip_malformed=True)
    data.setup("fit")
    assert "train.jsonl: skipped 1 of 41 lines as malformed; line 41 must" in capsys.readouterr().err
    assert (len(data.rows["train"]), len(data.rows["val"])) == (32, 8)
    assert set(data.rows["train"].ids).isdisjoint(data.rows["val"].ids)
    assert data.rows["train"].source["window"] == data.rows["val"].source["window"] == "16"
    seen = {}
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch["curves"].shape[1] == 8
        for number, text in zip(batch["budgets"].tolist(), batch["input_ids"], strict=True):
            seen.setdefault(len(seen), (number, text))
    assert sorted(number for number, _ in seen.values()) == sorted(budgets)
    data.setup("predict")
    assert data.rows["predict"].texts == ["how many eggs ?"]
    assert set(next(iter(data.predict_dataloader()))) == {"input_ids", "attention_mask", "rows"}
    with pytest.raises(ValueError, match="window must be that of the curves, 16 tokens, got 64"):
        module(skip_malformed=True, window=64).setup("fit")


def test_a_file_without_budgets_is_refused(tmp_path):
    with pytest.raises(ValueError, match="budgets must be an existing JSONL file, got nowhere"):
        load_budgets("nowhere")
    with pytest.raises(ValueError, match="must hold at least one query with its budget, but holds none"):
        load_budgets(write(tmp_path, "", "{"), skip_malformed=True)


def test_the_needed_budget_on_hand_made_curves():
    curves = np.array(
        [
            [0.0, 0.2, 0.8, 0.9],  # 0.81 of the best 0.9 is first reached at the end
            [0.5, 0.5, 0.5, 0.5],  # ties: the first
            [0.0, 0.0, 0.0, 0.04],  # never really right
            [0.9, 0.2, 0.3, 0.8],  # a dip does not matter
        ],
        np.float32,
    )
    budgets, known = needed_budgets(curves, 16, smoothing=1)
    np.testing.assert_array_equal(budgets, [64, 16, 64, 16])
    np.testing.assert_array_equal(known, [True, True, False, True])
    np.testing.assert_array_equal(needed_budgets(curves, 16, share=0.88, smoothing=1)[0], [48, 16, 64, 16])
    equal = (
        np.array([[0, 6, 4, 2, 0, 0, 2, 4, 6, 0]]) / 20
    )  # (.3 + .2 + .1) is not (.1 + .2 + .3) to a computer
    assert needed_budgets(equal, 1, share=1.0)[0] == 3
    lucky = np.array([[0.1, 0.1, 0.6, 0.1, 0.1, 0.5, 0.5, 0.5]], np.float32)
    assert needed_budgets(lucky, 16, smoothing=1)[0] == 48
    assert needed_budgets(lucky, 16, smoothing=3)[0] == 7 * 16  # three windows say so, not one


@settings(max_examples=100, deadline=None)
@given(
    rights=st.lists(st.integers(0, 20), min_size=3, max_size=9),
    share=st.sampled_from([0.5, 0.9, 1.0]),
    smoothing=st.sampled_from([1, 3, 5]),
)
def test_the_needed_budget_equals_its_slow_twin(rights, share, smoothing):
    smooth = []
    for k in range(len(rights)):
        near = [
            rights[min(max(i, 0), len(rights) - 1)] for i in range(k - smoothing // 2, k + smoothing // 2 + 1)
        ]
        smooth.append(sum(near))  # whole numbers: ties are exact
    reached = [k + 1 for k, value in enumerate(smooth) if 10 * value >= round(10 * share) * max(smooth)]
    budgets, known = needed_budgets(
        np.array([rights]) / 20, 1, share=share, smoothing=smoothing, min_best=0.05
    )
    assert known[0] == (max(smooth) >= smoothing)
    assert budgets[0] == (reached[0] if known[0] else len(rights))


def test_smoothing_makes_two_halves_of_the_same_traces_agree_better(gsm8k_tables):
    from ps_train.curve_table import CurveTable

    right = np.rint(CurveTable.load(gsm8k_tables / "test", features=[]).curves * 100).astype(int)
    half = np.random.default_rng(0).hypergeometric(right, 100 - right, 50)
    differences = {}
    for smoothing in (1, 3):
        one, two = (needed_budgets(part / 50, 16, smoothing=smoothing)[0] for part in (half, right - half))
        differences[smoothing] = np.abs(one - two).mean()
    assert differences[3] < 0.9 * differences[1]


def test_the_command_writes_what_the_reader_reads(tmp_path, capsys):
    table = make_table(50)
    table.curves[:3] = 0
    table.save(tmp_path / "table")
    arguments = [f"--table={tmp_path / 'table'}", f"--output={tmp_path / 'budgets.jsonl'}"]
    assert main(["make-budgets", *arguments]) == 0
    assert "47 queries" in (printed := capsys.readouterr().out)
    assert "3 whose best accuracy is below 0.05: left out" in printed
    data = load_budgets(tmp_path / "budgets.jsonl")
    assert data.ids == table.ids[3:]
    assert data.queries == table.questions[3:]
    assert data.window == 16
    np.testing.assert_array_equal(data.budgets, needed_budgets(table.curves[3:], 16)[0])
    np.testing.assert_allclose(data.curves, table.curves[3:], atol=1e-6)
    assert main(["make-budgets", *arguments, "--unknown=largest"]) == 0
    assert "given 128 tokens" in capsys.readouterr().out
    assert (load_budgets(tmp_path / "budgets.jsonl").budgets[:3] == 128).all()


def test_difficulty_data_use_the_training_questions_thresholds(tmp_path, capsys):
    make_table(100, seed=1).save(tmp_path / "train")
    test = make_table(30, seed=2)
    test.save(tmp_path / "test")
    output = tmp_path / "difficulty.jsonl"
    tables = [f"--table={tmp_path / 'test'}", f"--train_table={tmp_path / 'train'}", f"--output={output}"]
    assert main(["make-difficulty", *tables]) == 0
    final = make_table(100, seed=1).curves[:, -1]
    hard, easy = np.percentile(final, [20, 80])
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["id"] for record in records] == test.ids
    for record, accuracy in zip(records, test.curves[:, -1], strict=True):
        expected = 0 if accuracy >= np.float32(easy) else 2 if accuracy <= np.float32(hard) else 1
        assert record["difficulty"] == expected
        assert (record["hard"], record["easy"]) == pytest.approx((hard, easy), rel=1e-6)
    counts = np.bincount([record["difficulty"] for record in records], minlength=3)
    assert f"{counts[0]} easy, {counts[1]} medium, {counts[2]} hard" in capsys.readouterr().out
    assert main(["make-difficulty", *tables, "--percentiles=[80,20]"]) == 2
    assert "percentiles must ascend within (0, 100), got 80.0 and 20.0" in capsys.readouterr().err


def test_bad_requests_are_refused(tmp_path, capsys):
    table = make_table(4)
    replace(table, curves=np.zeros_like(table.curves)).save(tmp_path)
    arguments = [f"--table={tmp_path}", f"--output={tmp_path / 'budgets.jsonl'}"]
    assert main(["make-budgets", *arguments]) == 2
    assert "must have a question whose best accuracy is 0.05 or more, got none" in capsys.readouterr().err
    assert not (tmp_path / "budgets.jsonl").exists()
    assert main(["make-budgets", *arguments, "--shar=1"]) == 2
    faults = (
        "share must be above 0 .* got 0; smoothing must be an odd number of windows, got 2; min_best .* got 2"
    )
    with pytest.raises(ValueError, match=faults):
        needed_budgets(table.curves, 16, share=0, smoothing=2, min_best=2)


def test_the_help_lists_the_commands_beside_lightning(capsys):
    assert main(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for expected in ("fit", "make-budgets write the budget", "sweep score a predictor"):
        assert expected in printed
    assert main(["make-budgets", "--help"]) == 0
    assert "--table" in capsys.readouterr().out
