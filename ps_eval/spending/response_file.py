"""Responses on disk: a line a question, written as it ends, so that a kill loses only what is under way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ps_eval.engines.base import Reasoning
from ps_eval.run_folder import append_lines, repair_last_line
from ps_train.questions import Question

RESPONSES_FILE = "responses.jsonl"


@dataclass(frozen=True)
class Thought:
    """The longest reasoning there is about a question."""

    limit: int
    """Most tokens it was given."""
    token_ids: list[int]
    finished: bool
    text: str
    end_ids: list[int] = field(default_factory=list)
    """How its end marker was written, where that is several tokens."""

    def within(self, budget: int) -> Reasoning | None:
        """The reasoning under `budget`, or None where it was not given as much."""
        if budget > self.limit and not self.finished:
            return None
        return self.reasoning.cut(budget)

    @property
    def reasoning(self) -> Reasoning:
        """The whole of it."""
        return Reasoning(tuple(self.token_ids), self.finished, tuple(self.end_ids))


@dataclass(frozen=True)
class Response:
    """A question's answer within a budget."""

    budget: int
    """Most reasoning tokens it was given."""
    reasoning_tokens: int
    answer_tokens: int
    """Tokens after the reasoning, forced prefix included; not part of the budget."""
    forced: bool
    """The budget ended the reasoning, not the model."""
    text: str
    """What follows the reasoning, forced prefix included."""
    reasoning: str | None = None
    """The reasoning as text, where it is not the beginning of the question's `Thought`."""


@dataclass(frozen=True)
class Responded:
    """What was just learnt of one question: a line of `responses.jsonl`."""

    id: str
    thought: Thought | None
    """None where it is known already, or the engine reasons and answers in one pass."""
    responses: list[Response]


@dataclass(frozen=True)
class Job:
    """What is still to be done for one question."""

    question: Question
    budgets: tuple[int, ...]
    """Tokens, rising; those without a response."""
    thought: Thought | None
    """An earlier reasoning that is long enough for them."""


class ResponseFile:
    """All responses of a folder, appended to as they come; ids mean the folder's questions."""

    def __init__(self, folder: str | Path) -> None:
        """Read what is there; a last line that a kill cut off is taken away.

        Raises:
            ValueError: If a line is damaged.
        """
        self.path = Path(folder) / RESPONSES_FILE
        self._thoughts: dict[str, Thought] = {}
        self._responses: dict[tuple[str, int], Response] = {}
        repair_last_line(self.path)
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    self._remember(_from_json(json.loads(line)))
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(
                        f"{self.path} line {number} must be a response, but {error!r}"
                    ) from error

    def get(self, question_id: str, budget: int) -> Response | None:
        """A question's response within a budget, or None."""
        return self._responses.get((question_id, budget))

    def job(self, question: Question, budgets: Sequence[int]) -> Job | None:
        """What is missing of a question under each of `budgets`; None where nothing is."""
        missing = tuple(b for b in sorted(set(budgets)) if (question.id, b) not in self._responses)
        if not missing:
            return None
        thought = self._thoughts.get(question.id)
        enough = thought is not None and thought.within(missing[-1]) is not None
        return Job(question, missing, thought if enough else None)

    def append(self, responded: Sequence[Responded]) -> None:
        """Add what ended, a line each in one write."""
        for entry in responded:
            self._remember(entry)
        append_lines(self.path, (json.dumps(asdict(entry), ensure_ascii=False) for entry in responded))

    def _remember(self, entry: Responded) -> None:
        if entry.thought is not None:
            self._thoughts[entry.id] = entry.thought
        self._responses |= {(entry.id, r.budget): r for r in entry.responses}


def _from_json(record: dict[str, Any]) -> Responded:
    thought = record["thought"]
    return Responded(
        record["id"],
        None if thought is None else Thought(**thought),
        [Response(**r) for r in record["responses"]],
    )
