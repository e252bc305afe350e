"""Plain rows, one a sample: which column is which, by what the user says or by the usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ps_eval.logs.sample import (
    Sample,
    as_number,
    read_correct,
    read_finished,
    read_name,
    read_text,
    read_tokens,
    with_choices,
)

NAMES: dict[str, tuple[str, ...]] = {
    "question_id": (
        "question_id",
        "qid",
        "problem_id",
        "doc_id",
        "item_id",
        "example_id",
        "custom_id",
        "task_id",
        "unique_id",
        "id",
        "uid",
        "index",
    ),
    "question": ("question", "problem", "prompt", "query", "input", "text", "instruction", "messages"),
    "choices": ("choices", "options"),
    "sample": (
        "sample",
        "sample_id",
        "sample_index",
        "epoch",
        "attempt",
        "run",
        "trial",
        "repeat",
        "rollout",
    ),
    "tokens": (
        "tokens",
        "completion_tokens",
        "output_tokens",
        "generated_tokens",
        "n_tokens",
        "num_tokens",
        "tokens_used",
        "used",
        "output_len",
        "num_generated_tokens",
        "token_count",
        "length",
        "reasoning_tokens",
        "thinking_tokens",
    ),
    "reasoning": ("reasoning_tokens", "thinking_tokens"),
    "correct": (
        "correct",
        "is_correct",
        "accuracy",
        "acc",
        "exact_match",
        "score",
        "passed",
        "pass",
        "success",
        "grade",
        "reward",
    ),
    "finished": ("finished", "completed", "finish_reason", "stop_reason", "is_finished"),
    "truncated": ("truncated", "hit_limit", "cut"),
    # Beside one of the others, `answer` is the model's.
    "reference": ("reference", "target", "gold", "expected", "answer", "solution"),
    "response": ("response", "completion", "output", "generation", "generated_text", "model_output"),
    "task": ("task", "dataset", "benchmark", "task_name"),
    "model": ("model", "model_name", "model_id"),
    "setting": ("setting", "settings", "reasoning_effort", "config"),
}
"""What a sample has, and the columns it may stand in, the likeliest first."""
GROUP = ("task", "model", "setting")


def choose_columns(
    names: Iterable[str],
    given: Mapping[str, str],
    source: str = "the samples",
    needed: Sequence[str] = ("tokens", "question_id"),
) -> dict[str, str]:
    """Which column holds what: as given, else by name (case and `-`, `_`, ` ` make no difference).

    Raises:
        ValueError: If a given column is not there, tokens are not found, or nothing tells questions apart.
    """
    names = list(names)
    unknown = [role for role in given if role not in NAMES]
    if unknown:
        raise ValueError(f"columns must be given for {list(NAMES)}, got {unknown[0]!r}")
    plain = {_plain(name): name for name in reversed(names)}
    found = {}
    for role, usual in NAMES.items():
        if role in given:
            if given[role] not in names:
                raise ValueError(f"column {given[role]!r} for {role} must be one of {names} of {source}")
            found[role] = given[role]
            continue
        if role == "reasoning" and "tokens" in given:  # who names one column means it
            continue
        taken = set(found.values())
        name = next((plain[_plain(usual_name)] for usual_name in usual if _plain(usual_name) in plain), None)
        if name is not None and name not in taken:
            found[role] = name
    if "tokens" in needed and "tokens" not in found:
        raise ValueError(
            f"{source} must have a column of tokens, got {names}: name it with --columns tokens=NAME"
        )
    if "question_id" in needed and not {"question_id", "question"} & found.keys():
        raise ValueError(
            f"{source} must have a column of question ids or texts, got {names}: "
            "name it with --columns question_id=NAME"
        )
    return found


def to_sample(row: Mapping[str, Any], columns: Mapping[str, str], numbers: Sequence[str] = ()) -> Sample:
    """Read one row.

    Raises:
        ValueError: If a value is missing or of a wrong kind; the message says which.
    """

    def value(role: str) -> Any:
        return at(row, columns[role]) if role in columns else None

    question = with_choices(read_text(value("question")), value("choices"))
    name = read_name(value("question_id")) or question
    if not name:
        raise ValueError("question_id must be a name or a number, or question a text, got neither")
    counts = [count for count in (value("tokens"), value("reasoning")) if count is not None]
    if not counts:
        raise ValueError("tokens must be there, got none")
    finished = read_finished(value("finished")) and read_finished(value("truncated"), inverted=True)
    place = as_number(value("sample"))
    correct = read_correct(value("correct"))
    measured = {name: as_number(at(row, name)) for name in numbers}
    return Sample(
        question_id=name,
        tokens=max(map(read_tokens, counts)),  # reasoning may be counted within, or apart
        correct=correct,
        finished=finished,
        sample=int(place) if place is not None and abs(place) < 2**53 else 0,
        question=question,
        reference=read_name(value("reference")),
        response=read_text(value("response")) if correct is None else "",
        group=tuple((role, read_name(value(role))) for role in GROUP if read_name(value(role))),
        numbers={name: number for name, number in measured.items() if number is not None},
    )


def at(row: Mapping[str, Any], column: str) -> Any:
    """A column's value; `usage.completion_tokens` is a field of the object in `usage`."""
    value: Any = row
    if column in row:
        return row[column]
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def all_columns(row: Mapping[str, Any]) -> list[str]:
    """A row's columns, and those within its objects by dotted names."""
    found = []
    for name, value in row.items():
        found.append(name)
        if isinstance(value, Mapping):
            found += [f"{name}.{inner}" for inner in all_columns(value)]
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in str(name).lower() if letter not in "-_ .")
