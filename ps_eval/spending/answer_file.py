"""Answered questions on disk: JSONL that grows as they end, and at the end stands in the order asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ps_alloc import Allocation
from ps_alloc.files import atomic_path, check_output
from ps_eval.run_folder import append_lines, locked, repair_last_line
from ps_eval.run_settings import RunSettings
from ps_train.questions import Question

STDOUT = "-"


@dataclass(frozen=True)
class Decided:
    """What was decided for a question before it was answered."""

    budget: int
    """Most reasoning tokens."""
    unlike: bool | None = None
    """Whether it is unlike those that the predictor learned from; None: not known."""


def decided_for(questions: Sequence[Question], allocation: Allocation) -> dict[str, Decided]:
    """Question id to what an allocation of the questions gives it."""
    known, unlike = allocation.unlike is not None, set()
    if allocation.unlike is not None:
        unlike = set(allocation.unlike.tolist())
    return {
        question.id: Decided(budget, row in unlike if known else None)
        for row, (question, budget) in enumerate(zip(questions, allocation.tokens.tolist(), strict=True))
    }


@dataclass(frozen=True)
class Answered:
    """One question answered within its budget."""

    id: str
    question: str
    text: str
    """What follows the reasoning."""
    reasoning: str | None
    """None where it was not asked for."""
    answer: str | None
    """As the grader extracts it; None where the text states none."""
    budget: int
    """Most reasoning tokens it was given."""
    reasoning_tokens: int
    """Tokens used of it."""
    answer_tokens: int
    """Tokens after the reasoning, in no budget."""
    forced: bool
    """The budget ended the reasoning; else the model did."""
    reference: str | None = None
    correct: bool | None = None
    """None where there is no reference."""
    unlike: bool | None = None
    """Whether the question is unlike those that the predictor learned from; None: not known."""
    probe_tokens: int | None = None
    """Decoded for a forecaster that asked for answers on the way, in no budget; None: none could ask."""

    def line(self) -> str:
        """As JSON; without a reference, without a grade."""
        record = asdict(self)
        for name in ("unlike", "probe_tokens"):
            if record[name] is None:
                del record[name]
        if self.reference is None:
            del record["reference"], record["correct"]
        return json.dumps(record, ensure_ascii=False)


class AnswerFile:
    """Where answers go: a JSONL file that can be continued, the standard output, or nowhere but memory."""

    def __init__(self, path: Path | None, stdout: bool = False) -> None:
        self.path, self._stdout = path, stdout
        self.answers: dict[str, Answered] = {}
        """By question id: those of an earlier run, and those since."""

    @classmethod
    @contextmanager
    def opened(cls, path: str | Path | None, settings: RunSettings) -> Iterator[AnswerFile]:
        """Open a file for this process, and read what an earlier run left in it.

        Args:
            path: The JSONL file; `-` is the standard output, None memory. Beside the file stands
                `<name>.settings.json`.
            settings: All that an answer depends on.

        Raises:
            ValueError: If it is no regular file, was begun with other settings, another process has it, or a
                line is no answer.
        """
        if path is None or str(path) == STDOUT:
            yield cls(None, stdout=path is not None)
            return
        check_output(path)
        file = cls(Path(path))
        settings_file = beside(path, "settings.json")
        settings_file.parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_file() and Path(path).stat().st_size and not settings_file.is_file():
            raise ValueError(f"output must be a new file or one that was begun by this command, got {path}")
        settings.guard(settings_file)
        with locked(settings_file):  # which is never replaced, as the answers are at the end
            file._read()
            yield file

    def _read(self) -> None:
        assert self.path is not None
        repair_last_line(self.path)
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                answer = _answered(line, f"{self.path} line {number}")
                self.answers[answer.id] = answer

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Those of `questions` that have no answer yet.

        Raises:
            ValueError: If an id has the answer of another question, or was graded by another reference.
        """
        for question in questions:
            known = self.answers.get(question.id)
            if known is None:
                continue
            if (known.question, known.reference or "") != (question.question, question.answer):
                raise ValueError(
                    f"{self.path} must hold answers to these questions, "
                    f"but {question.id!r} had another text or reference"
                )
        return [q for q in questions if q.id not in self.answers]

    def append(self, answers: Sequence[Answered]) -> None:
        """Add answers, each in one write."""
        self.answers |= {a.id: a for a in answers}
        if self._stdout:
            sys.stdout.writelines(f"{a.line()}\n" for a in answers)
            sys.stdout.flush()
        if self.path is not None:
            append_lines(self.path, (answer.line() for answer in answers))

    def put_in_order(self, ids: Sequence[str]) -> list[Answered]:
        """The answers to `ids`, as far as there are any; from now on the file begins with them."""
        ordered = [self.answers[name] for name in ids if name in self.answers]
        if self.path is not None:
            asked = set(ids)
            rest = [a for name, a in self.answers.items() if name not in asked]
            with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(f"{a.line()}\n" for a in ordered + rest)
        return ordered


def beside(path: str | Path, what: str) -> Path:
    """A file that belongs to an answer file: `out.jsonl.settings.json`."""
    return Path(path).with_name(f"{Path(path).name}.{what}")


def _answered(line: str, where: str) -> Answered:
    try:
        record: dict[str, Any] = json.loads(line)
        return Answered(**record)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} must be an answered question, but {error}") from error
