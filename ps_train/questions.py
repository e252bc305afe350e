"""Question sets: JSONL, CSV or Parquet files with a question a row, GSM8K's and MATH's own among them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ps_alloc.files import atomic_path
from ps_train.text_files import is_text, read_records, text_encoding

QUESTION_NAMES = ("question", "problem", "query", "prompt")
ANSWER_NAMES = ("answer", "reference", "solution", "target")
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Question:
    """One question, with its reference answer where it has one."""

    id: str
    """Unique within its set."""
    question: str
    """The text the model is asked, without chat tags."""
    answer: str = ""
    r"""The reference: a bare value, a solution ending in `#### value` as in GSM8K, or one with its value in
    `\boxed{…}` as in MATH. Empty where there is none."""


def load_questions(
    path: str | Path,
    limit: int | None = None,
    *,
    need_answers: bool = True,
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str = "id",
) -> list[Question]:
    """Read a question set.

    Args:
        path: A JSONL file, or CSV, TSV or Parquet by its ending. A row without id gets `<file stem>-<row>`.
        limit: Read only the first `limit` questions.
        need_answers: Whether every question must have a reference answer.
        question_field: Column of the questions' texts; by default the first of `QUESTION_NAMES` in a row.
        answer_field: Column of the reference answers; by default the first of `ANSWER_NAMES` in a row.
        id_field: Column of the ids.

    Raises:
        ValueError: If `limit` is below 1, the file is missing, empty or of another kind, or a row lacks a
            question or a needed answer, holds one that is neither text nor a number, or repeats an id. The
            message names the file and the line or row (from 1).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"questions must be an existing JSONL, CSV or Parquet file, got {path}")
    rows = read_rows(path)
    questions = list(
        questions_from_rows(
            rows,
            path.stem,
            limit,
            need_answers=need_answers,
            question_field=question_field,
            answer_field=answer_field,
            id_field=id_field,
        )
    )
    if not questions:
        raise ValueError(f"questions must hold at least one question, but {path} is empty")
    return questions


def read_rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """The rows of a JSONL, CSV, TSV or Parquet file: where each stands, its number (from 1), its fields.

    Raises:
        ValueError: If the file cannot be read as what its name says; the message names it, and the line.
    """
    if path.suffix.lower() in _TABLES:
        yield from _read_csv(path, _TABLES[path.suffix.lower()])
    elif path.suffix.lower() in (".parquet", ".pq"):
        yield from _read_parquet(path)
    else:
        yield from read_records(path)


def save_questions(path: str | Path, questions: list[Question]) -> None:
    """Write a question set as JSONL, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(question.__dict__, ensure_ascii=False) + "\n")


def questions_from_rows(
    rows: Iterable[tuple[str, int, Mapping[str, Any]]],
    stem: str,
    limit: int | None = None,
    *,
    need_answers: bool = True,
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str = "id",
) -> Iterator[Question]:
    """Questions one by one, as their rows come.

    Args:
        rows: Where each stands, its number (from 1), its fields.
        stem: Begins the ids of rows without one.
        limit: As in `load_questions`, like the further ones.
        need_answers: See there.
        question_field: See there.
        answer_field: See there.
        id_field: See there.

    Raises:
        ValueError: As `load_questions`, of a row.
    """
    seen: set[str] = set()
    for where, number, row in rows:
        if limit is not None and len(seen) >= limit:
            return
        text = _text(row, (question_field,) if question_field else QUESTION_NAMES, where, needed=True)
        answer = _text(row, (answer_field,) if answer_field else ANSWER_NAMES, where, needed=need_answers)
        name = _text(row, (id_field,), where, needed=False) or f"{stem}-{number - 1}"
        if name in seen:
            raise ValueError(f"{where}: {id_field} must be unique, got {name!r} again")
        seen.add(name)
        yield Question(name, text, answer)


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str, needed: bool) -> str:
    """The row's first field of these names, as text; empty where it has none and none is needed."""
    there = [name for name in names if name in row]
    name = next((name for name in there if row[name] is not None), [*there, *names][0])
    value = row.get(name)
    if value is None or _is_nan(value) or (isinstance(value, str) and not value.strip()):
        if not needed:
            return ""
        hint = "" if there else "; where the column has another name, say which (--answer-field and the like)"
        raise ValueError(
            f"{where} must have a non-empty {name!r}, got the fields {sorted(map(str, row))}{hint}"
        )
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "a list, as chats are" if isinstance(value, list) else f"a {type(value).__name__}"
        raise ValueError(f"{where}: {name} must be text or a number, got {kind}")
    if not is_text(str(value)):
        raise ValueError(f"{where}: {name} must be text that UTF-8 can hold, got half of a surrogate pair")
    return str(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    try:
        with path.open(encoding=text_encoding(path), newline="") as file:
            head = file.readline()
            file.seek(0)
            if delimiter not in head and ";" in head:  # as spreadsheets write where the comma marks decimals
                delimiter = ";"
            csv.field_size_limit(2**31 - 1)  # a reasoning is longer than the usual 128 KiB
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = list(reader.fieldnames or ())
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise ValueError(f"{path} must have columns of different names, got {twice[0]!r} twice")
            for number, row in enumerate(reader, start=1):
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path} row {number} must have {len(names)} fields, as its first line has"
                    )
                yield f"{path} row {number}", number, row
    except UnicodeError as error:
        raise ValueError(f"{path} must be UTF-8 or UTF-16, but {error}: save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path} must be a CSV file, but line {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", number, row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} must be a Parquet file, but {str(error).splitlines()[0]}") from error
