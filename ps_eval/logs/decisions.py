"""The gateway's log of decisions: traffic under budgets of its own, without grades but for feedback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ps_eval.logs.sample import (
    Sample,
    as_mapping,
    as_number,
    read_correct,
    read_name,
    read_text,
    read_tokens,
    shown,
)
from ps_eval.logs.spent import spent
from ps_train.light.censored import NO_CAP

COUNTS = ("characters", "words", "digits")


def is_decision(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of such a log: a decision, or feedback on one."""
    return "request_id" in row and ("granted" in row or {"format", "correct"} <= row.keys())


@dataclass
class Decisions:
    """Decisions of one or several files, and the feedback, which may stand in another file."""

    found: list[tuple[Sample, Mapping[str, Any]]] = field(default_factory=list)
    """Each decision's sample and row."""
    _feedback: dict[str, float] = field(default_factory=dict)

    def read(self, row: Mapping[str, Any]) -> None:
        """Take a row in.

        Raises:
            ValueError: If it is neither decision nor feedback, or tells nothing of one answer.
        """
        if not is_decision(row):
            raise ValueError("a row must be a decision or feedback on one")
        if "granted" in row:
            self.found.append((_sample(row), row))
        elif (correct := read_correct(row["correct"])) is not None:
            self._feedback[read_name(row["request_id"])] = correct

    def feedback(self) -> list[float | None]:
        """On each decision; of several with one request id (clients may bring their own) on the last."""
        last = {read_name(row["request_id"]): place for place, (_, row) in enumerate(self.found)}
        said: list[float | None] = [None] * len(self.found)
        for name, correct in self._feedback.items():
            if name in last:
                said[last[name]] = correct
        return said

    def grade(self) -> None:
        """Give finished answers their feedback: on a cut one it says nothing of what it would have become."""
        for (sample, _), correct in zip(self.found, self.feedback(), strict=True):
            if sample.finished:
                sample.correct = correct


def cap_of(row: Mapping[str, Any]) -> int | None:
    """The budget that the server was told: the gateway's, or else the client's own; None where neither."""
    granted, own = read_tokens(row["granted"]), row.get("own_budget")
    if row.get("enforced") is not False:
        return granted
    return None if own is None else read_tokens(own)


def _sample(row: Mapping[str, Any]) -> Sample:
    """An answer that used all that it was granted was cut, and so was one that ended by length."""
    if row.get("outcome", "ok") != "ok":
        raise ValueError(
            f"a decision must be of an answered request, got the outcome {shown(row['outcome'])}"
        )
    cap, used, made = cap_of(row), row.get("used"), row.get("completion_tokens")
    one = spent(
        cap,
        used=None if used is None else read_tokens(used),
        made=None if made is None else read_tokens(made),
        thought_share=as_number(row.get("thought_share")),
        finish_reason=read_name(row.get("finish_reason")),
    )
    if one is None:
        raise ValueError("a decision must say how many tokens were used")
    questions = row.get("questions")
    if not isinstance(questions, list) or len(questions) != 1 or row.get("sequences", 1) != 1:
        raise ValueError("a decision must be of one question and one answer, as its tokens are one number")
    question = as_mapping(questions[0])
    text = read_text(question.get("text"))
    name = read_name(question.get("hash")) or text
    if not name:
        raise ValueError("a decision must have its question's text or hash")
    counts = {key: as_number(question.get(key)) for key in COUNTS} | _predicted(row)
    model = read_name(row.get("model"))
    allowed = int(NO_CAP) if cap is None else cap
    return Sample(
        question_id=name,
        tokens=one.tokens,
        finished=one.finished,
        cap=allowed if one.finished else one.tokens,  # the client's max_tokens may cut below the budget
        question=text,
        group=(("model", model),) if model else (),
        numbers={key: number for key, number in counts.items() if number is not None},
    )


def _predicted(row: Mapping[str, Any]) -> dict[str, float | None]:
    """What the gateway had predicted, as two numbers.

    The budget followed it, and it may know more than the text tells: of two questions that look alike, the
    one that was given more is the longer one. Estimates of cut answers must know it too.
    """
    curve = row.get("curve")
    numbers = [as_number(value) for value in curve] if isinstance(curve, list) else []
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return {}
    return {"predicted_mean": sum(known) / len(known), "predicted_last": known[-1]}
