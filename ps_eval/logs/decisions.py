"""The gateway's log of decisions: traffic under budgets of its own, without grades but for feedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ps_eval.logs.sample import (
    Sample,
    as_mapping,
    as_number,
    read_correct,
    read_name,
    read_text,
    read_tokens,
)
from ps_eval.logs.spent import Spent, spent
from ps_train.light.censored import NO_CAP

COUNTS = ("characters", "words", "digits")
OVERSHOOT = 0.02
"""Where more answers than this use clearly more than they were granted, budgets were not enforced (in logs
that do not say it)."""


def is_decision(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of such a log: a decision, or feedback on one."""
    return "request_id" in row and ("granted" in row or "correct" in row)


def decision_samples(
    rows: Iterable[tuple[str, Any]],
) -> tuple[list[Sample], list[tuple[str, str]], bool]:
    """Samples, rows that cannot be read with their reasons, and whether budgets were enforced.

    An answer that used all that it was granted was cut, and so was one that ended by length. Where the
    gateway only watched (`--observe`), answers go beyond what would have been granted, and nothing was cut
    by it, but where the client brought a budget of its own.
    """
    faults: list[tuple[str, str]] = []
    found: dict[str, tuple[Sample, Mapping[str, Any]]] = {}
    feedback: dict[str, float] = {}
    for where, row in rows:
        try:
            if not isinstance(row, Mapping) or not is_decision(row):
                raise ValueError("a row must be a decision or feedback on one")
            name = read_name(row["request_id"])
            if "granted" not in row:
                correct = read_correct(row["correct"])
                if correct is not None:
                    feedback[name] = correct
                continue
            found[name or f"row {len(found)}"] = _sample(row), row
        except ValueError as error:
            faults.append((where, str(error)))
    unsaid = [one for one in found.values() if not isinstance(one[1].get("enforced"), bool)]
    beyond = sum(sample.tokens > read_tokens(row["granted"]) * 1.02 + 8 for sample, row in unsaid)
    assumed = beyond <= OVERSHOOT * max(len(unsaid), 1)
    bounds = []
    for name, (sample, row) in found.items():
        cap = _cap(row, assumed)
        bounds.append(cap is not None)
        one = _spent(row, cap)
        assert one is not None
        sample.tokens, sample.finished = one
        sample.cap = int(NO_CAP) if cap is None else cap
        if not sample.finished:
            sample.cap = sample.tokens
        if sample.finished and name in feedback:
            sample.correct = feedback[name]
    return [sample for sample, _ in found.values()], faults, any(bounds)


def _cap(row: Mapping[str, Any], assumed: bool) -> int | None:
    """The budget that the server was told: the gateway's, or else the client's own; None where neither."""
    told, own = row.get("enforced"), row.get("own_budget")
    granted = read_tokens(row["granted"])
    if told if isinstance(told, bool) else assumed:
        return granted
    return None if own is None else read_tokens(own)


def _spent(row: Mapping[str, Any], cap: int | None) -> Spent | None:
    used, made = row.get("used"), row.get("completion_tokens")
    return spent(
        cap,
        used=None if used is None else read_tokens(used),
        made=None if made is None else read_tokens(made),
        thought_share=as_number(row.get("thought_share")),
        finish_reason=read_name(row.get("finish_reason")),
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    _cap(row, False)  # a row whose budgets cannot be read is refused here
    whole = _spent(row, None)
    if whole is None:
        raise ValueError(
            "a decision must say how many tokens were used: the request failed or was not followed"
        )
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
    return Sample(
        question_id=name,
        tokens=whole.tokens,
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
