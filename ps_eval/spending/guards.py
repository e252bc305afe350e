"""Against self-deception: a predictor on questions it learned from, or before another model or grader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ps_alloc.files import read_json
from ps_train.question_hashes import seen_in_training
from ps_train.shipped import resolve_embedded

UNKNOWN = ("", "unknown", "None", None)


def check_predictor(
    folder: str | Path,
    *,
    questions: Sequence[str] = (),
    served_model: str | None = None,
    grader: str | None = None,
    allow_training_questions: bool = False,
    allow_other_model: bool = False,
    allow_other_grader: bool = False,
) -> list[str]:
    """Compare what a predictor's folder says of its training with what it is used on now.

    What a folder does not say, or what is not here to compare, is not checked. A predictor on a hub is not
    looked into.

    Args:
        folder: The predictor's.
        questions: Texts it is used on.
        served_model: The model that answers now, a path or a name: the last parts are compared.
        grader: Name and version of what grades now.
        allow_training_questions: Go on where it learned from any of the questions.
        allow_other_model: Go on where it learned from another model's answers.
        allow_other_grader: Go on where another grader graded what it learned from.

    Returns:
        What was found and allowed, for the title of a table: empty where all is as it should be.

    Raises:
        ValueError: If anything was found and is not allowed.
    """
    folder = resolve_embedded(folder)
    path = Path(folder) / "config.json"
    if not path.is_file():
        return []
    config = read_json(path)
    config = config if isinstance(config, dict) else {}
    training: dict[str, Any] = config.get("training") or {}
    remarks = []

    number = seen_in_training(folder, questions) if questions else 0
    if number:
        remarks.append(f"{number} of {len(questions)} questions are ones the predictor learned from")
        _allow(
            allow_training_questions,
            remarks[-1],
            "allow_training_questions",
            "what it says of them is no test",
        )
    learned = training.get("served_model") or (config.get("schema") or {}).get("served_model")
    if served_model and learned not in UNKNOWN and _last_part(learned) != _last_part(served_model):
        remarks.append(f"the predictor learned from {learned}, but {served_model} answers")
        _allow(allow_other_model, remarks[-1], "allow_other_model", "its curves are not this model's")
    graded_by = training.get("grader")
    if grader and graded_by not in UNKNOWN and graded_by != grader:
        remarks.append(f"the predictor learned from grades of {graded_by}, but {grader} grades")
        _allow(allow_other_grader, remarks[-1], "allow_other_grader", "right is not the same to both")
    return remarks


def _allow(allowed: bool, found: str, name: str, why: str) -> None:
    if not allowed:
        flag = f"--{name.replace('_', '-')}"
        raise ValueError(f"{found}: {why}; {name} ({flag}) goes on all the same")


def _last_part(model: object) -> str:
    return str(model).removeprefix("embedded:").rstrip("/").rsplit("/", 1)[-1]
