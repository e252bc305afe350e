"""Question sets: what is written is read, GSM8K's form too, and a bad line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ps_train.questions import Question, load_questions, save_questions


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    asked = [Question("a", "How many ?", "2"), Question("b", "Wie viele „Eier“ ?", "#### 3")]
    save_questions(tmp_path / "set.jsonl", asked)
    assert load_questions(tmp_path / "set.jsonl") == asked
    assert load_questions(tmp_path / "set.jsonl", limit=1) == asked[:1]


def test_lines_without_an_id_are_named_after_file_and_line(tmp_path: Path) -> None:
    line = json.dumps({"question": "How many ?", "answer": "2 + 1 = 3\n#### 3", "level": 1})
    (tmp_path / "train.jsonl").write_text(f"{line}\n\n{line}\n")
    assert [q.id for q in load_questions(tmp_path / "train.jsonl")] == ["train-0", "train-2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"questions must hold at least one question, but .*set.jsonl is empty"),
        ("{", r"set.jsonl line 1 must be a JSON object, but"),
        ("[1]", r"set.jsonl line 1 must be a JSON object, got list"),
        ('{"question": " ", "answer": "1"}', r"line 1 must have a non-empty 'question', got the fields"),
        ('{"id": 7, "question": "a", "answer": "1"}\n' * 2, r"line 2: id must be unique, got '7' again"),
    ],
)
def test_a_bad_question_set_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "set.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_questions(tmp_path / "set.jsonl")


def test_a_missing_file_and_a_limit_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"questions must be an existing JSONL file, got .*nowhere"):
        load_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_questions(tmp_path / "nowhere.jsonl", limit=0)
