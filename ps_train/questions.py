"""Question sets: JSONL files of `{"id", "question", "answer"}`; GSM8K's own files are read as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ps_alloc.files import atomic_path


@dataclass(frozen=True)
class Question:
    """One question with its reference answer."""

    id: str
    """Unique within its set."""
    question: str
    """The text the model is asked, without chat tags."""
    answer: str
    """The reference answer: a bare value, or a worked solution ending in `#### value` as in GSM8K."""


def load_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Read a question set.

    Args:
        path: A JSONL file. A line without `id` gets `<file stem>-<line index>`.
        limit: Read only the first `limit` questions.

    Raises:
        ValueError: If `limit` is below 1, the file is missing or empty, or a line is not JSON, lacks a
            question or an answer, or repeats an id. The message names the file and the line (from 1).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"questions must be an existing JSONL file, got {path}")
    questions: list[Question] = []
    seen: set[str] = set()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(questions) >= limit:
                break
            if not line.strip():
                continue
            question = _parse_line(line, f"{path} line {number}", f"{path.stem}-{number - 1}")
            if question.id in seen:
                raise ValueError(f"{path} line {number}: id must be unique, got {question.id!r} again")
            seen.add(question.id)
            questions.append(question)
    if not questions:
        raise ValueError(f"questions must hold at least one question, but {path} is empty")
    return questions


def save_questions(path: str | Path, questions: list[Question]) -> None:
    """Write a question set as JSONL, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(question.__dict__, ensure_ascii=False) + "\n")


def _parse_line(line: str, where: str, default_id: str) -> Question:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} must be a JSON object, but {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(record).__name__}")
    for field in ("question", "answer"):
        if not str(record.get(field, "")).strip():
            raise ValueError(f"{where} must have a non-empty {field!r}, got the fields {sorted(record)}")
    return Question(str(record.get("id", default_id)), str(record["question"]), str(record["answer"]))
