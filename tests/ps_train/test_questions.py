"""Question sets: what is written is read, GSM8K's form too, and a bad line is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
        ('{"question": "a", "answer": null}', r"line 1 must have a non-empty 'answer', got the fields"),
        ('{"question": "a", "answer": NaN}', r"line 1 must have a non-empty 'answer', got the fields"),
        (
            '{"question": "a"}',
            r"line 1 must have a non-empty 'answer', got the fields \['question'\]; where the column",
        ),
        ('{"question": "a", "answer": ["17"]}', r"line 1: answer must be text or a number, got a list"),
        ('{"question": "a", "answer": true}', r"line 1: answer must be text or a number, got a bool"),
        (
            '{"question": [{"role": "user"}], "answer": 1}',
            r"question must be text or a number, got a list, as chats",
        ),
        ('{"id": [1], "question": "a", "answer": "1"}', r"line 1: id must be text or a number, got a list"),
        (
            '{"question": "a \\ud83d b", "answer": "1"}',
            r"question must be text that UTF-8 can hold, got",
        ),
        ("[" * 100_000, r"line 1 must be a JSON object, but"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", r"line 1 must be a JSON object, but Exceeds"),
    ],
)
def test_a_bad_question_set_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "set.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_questions(tmp_path / "set.jsonl")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_unicode_is_read_however_it_is_encoded(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = [
        json.dumps({"question": f"Un café coûte {n} € ?", "answer": n}, ensure_ascii=False) for n in (5, 6)
    ]
    (tmp_path / "set.jsonl").write_bytes(newline.join([*lines, ""]).encode(encoding))
    asked = load_questions(tmp_path / "set.jsonl")
    assert [(q.id, q.question, q.answer) for q in asked] == [
        ("set-0", "Un café coûte 5 € ?", "5"),
        ("set-1", "Un café coûte 6 € ?", "6"),
    ]
    table = ["question,answer", '"Un café\ncoûte 5 €, oui ?",5', ""]
    (tmp_path / "set.csv").write_bytes(newline.join(table).encode(encoding))
    assert load_questions(tmp_path / "set.csv") == [Question("set-0", "Un café\ncoûte 5 €, oui ?", "5")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, encoding: str) -> None:
    text = "a\u2028b\u0085c ?"
    (tmp_path / "set.jsonl").write_text(
        json.dumps({"question": text, "answer": 1}, ensure_ascii=False), encoding=encoding
    )
    assert load_questions(tmp_path / "set.jsonl")[0].question == text


def test_a_cell_may_be_as_long_as_a_reasoning(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text(f"question,answer\n{'word ' * 50_000},5\n")
    assert len(load_questions(tmp_path / "set.csv")[0].question) == 250_000


@pytest.mark.parametrize("name", ["set.jsonl.gz", "set.csv"])
def test_a_compressed_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b'{"question": "a", "answer": 1}'))
    with pytest.raises(ValueError, match=f"{name} must be a text file, but it is compressed by gzip"):
        load_questions(tmp_path / name)


def test_other_encodings_are_refused_with_file_and_line(tmp_path: Path) -> None:
    good, bad = (
        b'{"question": "a", "answer": "1"}\n',
        '{"question": "caf\u00e9", "answer": "1"}'.encode("cp1252"),
    )
    (tmp_path / "set.jsonl").write_bytes(good + bad)
    with pytest.raises(ValueError, match=r"set.jsonl line 2 must be UTF-8, but byte 17 is 0xe9: save"):
        load_questions(tmp_path / "set.jsonl")
    (tmp_path / "set.csv").write_bytes("question,answer\ncaf\u00e9,1\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"set.csv must be UTF-8 or UTF-16, but .*: save it as UTF-8"):
        load_questions(tmp_path / "set.csv")
    (tmp_path / "cut.jsonl").write_bytes("a".encode("utf-16") + b"x")
    with pytest.raises(ValueError, match=r"cut.jsonl must be UTF-16 throughout, as it begins, but"):
        load_questions(tmp_path / "cut.jsonl")


def test_tables_are_read_and_columns_can_be_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {"uid": [3, 4], "problem": ["a ?", "b ?"], "solution": [r"\boxed{1}", None], "level": [1, 2]}
        ),
        tmp_path / "math.parquet",
    )
    path = tmp_path / "math.parquet"
    assert load_questions(path, limit=1) == [Question("math-0", "a ?", r"\boxed{1}")]
    read = load_questions(path, need_answers=False, id_field="uid", answer_field="level")
    assert read == [Question("3", "a ?", "1"), Question("4", "b ?", "2")]
    assert load_questions(path, need_answers=False)[1] == Question("math-1", "b ?", "")
    with pytest.raises(ValueError, match=r"math.parquet row 2 must have a non-empty 'solution'"):
        load_questions(path)
    with pytest.raises(ValueError, match=r"row 1 must have a non-empty 'ask', got the fields \['level'"):
        load_questions(path, question_field="ask")
    (tmp_path / "t.tsv").write_text("prompt\tanswer\nc ?\t5\n")
    assert load_questions(tmp_path / "t.tsv") == [Question("t-0", "c ?", "5")]


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\na,1,2\n")
    with pytest.raises(ValueError, match=r"a.csv row 1 must have 2 fields, as its first line has"):
        load_questions(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text('question,answer\n"a,1\n')
    with pytest.raises(ValueError, match=r"b.csv must be a CSV file, but line 1: unexpected end of data"):
        load_questions(tmp_path / "b.csv")
    (tmp_path / "d.csv").write_text("question,answer,question,,\na,1,b,,\n")
    with pytest.raises(ValueError, match=r"d.csv must have columns of different names, got 'question' twice"):
        load_questions(tmp_path / "d.csv")
    (tmp_path / "c.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"c.parquet must be a Parquet file, but"):
        load_questions(tmp_path / "c.parquet")


def test_a_missing_file_and_a_limit_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be an existing JSONL, CSV or Parquet file, got .*nowhere"):
        load_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_questions(tmp_path / "nowhere.jsonl", limit=0)
