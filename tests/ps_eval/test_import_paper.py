import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ps_eval.cli import main
from ps_eval.measuring.import_paper import import_paper
from ps_train.curve_table import CurveTable

QUESTIONS = ("Ann has 3 pens,\nand buys 2.  How many?", 'A "box" holds 4.', "How old is Bo’s dog?")
CURVES = ((0.0, 0.12000000000000002, 1.0), (0.5, 0.25, 0.75), (0.01, 0.0, 0.03))
STATES = ((0.5, -1.25), (2.0, 4.0), (-8.0, 0.0))


def write_part(folder: Path, kind: str, split: str, part: int, rows: Sequence[tuple[str, str, str]]) -> Path:
    column = {"X": "hidden_state", "Y": "early_stop_correct_proportions"}[kind]
    path = folder / f"gsm8k_{kind}_{split}_{part}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "question_id", "question_text", "split", column])
        for question_id, question, numbers in rows:
            text = f"<｜User｜>{question}<｜Assistant｜>"
            writer.writerow(["gsm8k", question_id, text, split, numbers])
    return path


def rows_of(
    split: str, indices: Sequence[int], values: Sequence[Sequence[float]]
) -> list[tuple[str, str, str]]:
    return [(f"{split}_{i}", QUESTIONS[i], str(list(values[i]))) for i in indices]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Three questions a split, in two parts, in the authors' format."""
    folder = tmp_path / "published"
    folder.mkdir()
    for split in ("train", "test"):
        for kind, values in (("Y", CURVES), ("X", STATES)):
            write_part(folder, kind, split, 10, rows_of(split, [2], values))
            write_part(folder, kind, split, 2, rows_of(split, [0, 1], values))
    return folder


def test_the_parts_become_one_curve_table_a_split(published: Path, tmp_path: Path) -> None:
    import_paper(str(published), output=str(tmp_path / "tables"), layer=28, n_traces=50, window=8)
    for split in ("train", "test"):
        table = CurveTable.load(tmp_path / "tables" / split)
        assert table.ids == [f"{split}_{i}" for i in range(3)]  # part 2 before part 10
        assert tuple(table.questions) == QUESTIONS
        assert table.answers == ["", "", ""]
        np.testing.assert_array_equal(table.curves, np.array(CURVES, dtype=np.float32))
        np.testing.assert_array_equal(table.features["layer_28"], np.array(STATES, dtype=np.float32))
        assert (table.window, table.n_traces.tolist()) == (8, [50, 50, 50])
        assert table.metadata["source"] == "brownkat6/reasoning-scheduling"


def test_states_are_joined_by_question_id_whatever_their_order(published: Path, tmp_path: Path) -> None:
    (published / "gsm8k_X_test_10.csv").unlink()
    write_part(published, "X", "test", 2, rows_of("test", [2, 0, 1], STATES))
    import_paper(str(published), output=str(tmp_path / "tables"))
    table = CurveTable.load(tmp_path / "tables" / "test")
    np.testing.assert_array_equal(table.features["layer_28"], np.array(STATES, dtype=np.float32))


def test_questions_without_a_partner_are_left_out_and_named(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published / "gsm8k_Y_train_10.csv").unlink()
    (published / "gsm8k_X_test_10.csv").unlink()
    import_paper(str(published), output=str(tmp_path / "tables"))
    printed = capsys.readouterr().out
    assert "train: left out train_2, without a curve" in printed
    assert "test: left out test_2, without hidden states" in printed
    assert CurveTable.load(tmp_path / "tables" / "train").ids == ["train_0", "train_1"]
    assert CurveTable.load(tmp_path / "tables" / "test").ids == ["test_0", "test_1"]


def test_without_hidden_states_the_table_has_no_features(published: Path, tmp_path: Path) -> None:
    for path in published.glob("gsm8k_X_*"):
        path.unlink()
    import_paper(str(published), output=str(tmp_path / "tables"))
    table = CurveTable.load(tmp_path / "tables" / "test")
    assert len(table) == 3
    assert table.features == {}


def test_one_split_alone_is_converted(published: Path, tmp_path: Path) -> None:
    for path in published.glob("*_train_*"):
        path.unlink()
    import_paper(str(published), output=str(tmp_path / "tables"))
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["test"]


def test_reference_answers_come_from_gsm8k_by_question_text(published: Path, tmp_path: Path) -> None:
    gsm8k = tmp_path / "gsm8k"
    gsm8k.mkdir()
    lines = [
        '{"question": "A \\"box\\" holds 4.", "answer": "#### 4"}',
        '{"question": "Ann has 3 pens,\\nand buys 2.  How many?", "answer": "3 + 2 #### 5"}',
        '{"question": "How old is Bo’s dog?", "answer": "#### 7"}',
    ]
    for split in ("train", "test"):
        (gsm8k / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import_paper(str(published), output=str(tmp_path / "tables"), gsm8k=str(gsm8k))
    assert CurveTable.load(tmp_path / "tables" / "train").answers == ["3 + 2 #### 5", "#### 4", "#### 7"]

    (gsm8k / "test.jsonl").write_text(lines[0], encoding="utf-8")
    message = r"test\.jsonl must hold every question's text, but lacks that of test_0, test_2"
    with pytest.raises(ValueError, match=message):
        import_paper(str(published), output=str(tmp_path / "other"), gsm8k=str(gsm8k))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[0.5, 0.25, 0.75]",
        "[0.5 0.25\n 0.75]",
        "[ 5.0e-01  2.5e-01 .75 ]",
        "tensor([0.5000, 0.2500, 0.7500])",
        "tensor([0.5, 0.25, 0.75], device='cuda:0', dtype=torch.float16)",
        "array([0.5, 0.25, 0.75], dtype=float32)",
    ],
)
def test_lists_printed_by_python_numpy_and_torch_are_read(published: Path, tmp_path: Path, text: str) -> None:
    write_part(published, "Y", "test", 10, [("test_2", QUESTIONS[2], text)])
    import_paper(str(published), output=str(tmp_path / "tables"))
    table = CurveTable.load(tmp_path / "tables" / "test")
    np.testing.assert_array_equal(table.curves[2], np.float32([0.5, 0.25, 0.75]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("test_2", "q", "0.5"), "early_stop_correct_proportions must be a list of numbers"),
        (("test_2", "q", "[[0.5], [0.5]]"), "must be a list of numbers"),
        (("test_2", "q", "[0.5, ..., 0.5]"), "must be a list of numbers"),
        (("test_2", "q", "[0.5, __import__('os'), 0.5]"), "must be a list of numbers"),
        (("test_2", "q", "[0.5, nan, 0.5]"), r"must lie in \[0, 1\], got nan"),
        (("test_2", "q", "[0.5, 1.5, 0.5]"), r"must lie in \[0, 1\], got 1.5"),
        (("test_2", "q", "[]"), "must have 3 numbers as before, got 0"),
        (("test_2", "q", "[0.5, 0.5]"), "must have 3 numbers as before, got 2"),
        (("test_1", "q", "[0.5, 0.5, 0.5]"), r"'test_1' is in .*gsm8k_Y_test_2\.csv line 4 too"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_line(
    published: Path, tmp_path: Path, row: tuple[str, str, str], message: str
) -> None:
    write_part(published, "Y", "test", 10, [row])
    with pytest.raises(ValueError, match=rf"1 bad rows: .*gsm8k_Y_test_10\.csv line 2: .*{message}"):
        import_paper(str(published), output=str(tmp_path / "tables"))
    assert not (tmp_path / "tables").exists()


def test_an_empty_first_list_is_refused(published: Path, tmp_path: Path) -> None:
    write_part(published, "Y", "test", 0, [("test_2", "q", "[]")])
    with pytest.raises(ValueError, match=r"Y_test_0\.csv line 2: .* must have at least one number"):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_many_bad_rows_are_reported_together(published: Path, tmp_path: Path) -> None:
    write_part(published, "Y", "test", 10, [(f"test_{i}", "q", "none") for i in range(10, 17)])
    with pytest.raises(ValueError, match=r"7 bad rows: .* line 2: .* line 6: .*; and 2 more"):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_states_that_float16_cannot_hold_are_refused(published: Path, tmp_path: Path) -> None:
    write_part(published, "X", "test", 10, [("test_2", "q", "[1e6, 0.0]")])
    with pytest.raises(
        ValueError, match=r"X_test_10\.csv line 2: hidden_state must be finite numbers that float16"
    ):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_a_file_of_another_split_or_without_a_column_is_refused(published: Path, tmp_path: Path) -> None:
    path = published / "gsm8k_Y_test_3.csv"
    shutil.copy(published / "gsm8k_Y_train_2.csv", path)
    with pytest.raises(ValueError, match="split must be 'test', got 'train'"):
        import_paper(str(published), output=str(tmp_path / "tables"))
    path.write_text("question_id,split\ntest_9,test\n")
    with pytest.raises(
        ValueError, match=r"Y_test_3\.csv must have the columns .*lacks \['question_text', 'early"
    ):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_a_row_cut_short_is_refused(published: Path, tmp_path: Path) -> None:
    path = published / "gsm8k_Y_test_10.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.rindex(",test,")], encoding="utf-8")
    with pytest.raises(ValueError, match=r"Y_test_10\.csv line 2 must have 5 fields like the header"):
        import_paper(str(published), output=str(tmp_path / "tables"))
    path.write_text(text[: text.rindex("]")], encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"Y_test_10\.csv must be a CSV file in UTF-8, but unexpected end of data"
    ):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_a_split_whose_curves_and_states_never_meet_is_refused(published: Path, tmp_path: Path) -> None:
    for path in published.glob("gsm8k_Y_test_*"):
        path.unlink()
    with pytest.raises(ValueError, match="no test question has both a curve and hidden states"):
        import_paper(str(published), output=str(tmp_path / "tables"))


def test_the_command_ends_2_with_one_sentence_where_there_are_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-paper", str(tmp_path), "--output", str(tmp_path / "tables")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} must hold gsm8k_Y_train_<part>.csv or")
    assert error.count("\n") == 1


def test_the_command_converts_and_says_what_it_wrote(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-paper", str(published), "--output", str(tmp_path / "tables"), "--layer", "16"]) == 0
    printed = capsys.readouterr().out
    assert "3 questions, 3 windows of 16 tokens, features: layer_16 (3, 2)" in printed
    assert "The answer column is empty" in printed
