"""What a log leaves out: question texts and references from a file, grades, and token counts of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ps_eval.grading.graders import load_grader
from ps_eval.logs.columns import NAMES, choose_columns
from ps_eval.logs.native import UNCOUNTED
from ps_eval.logs.sample import Sample, read_name, read_text, with_choices
from ps_train.questions import read_rows

NUMBERED = re.compile(r"^(.*?)[-_:#/.@ ]+(?:s|sample|run|n)?\d+$", re.DOTALL)
"""`question-3`: an id with the number of its sample."""


@dataclass(frozen=True)
class KnownQuestion:
    """A question as a file has it."""

    text: str
    reference: str = ""


def load_known_questions(path: str) -> dict[str, KnownQuestion]:
    """Questions by their ids (without ids: by their place, from 0), choices below their texts.

    Raises:
        ValueError: If the file is missing or damaged, lacks texts, or has two of one id.
    """
    if not Path(path).is_file():
        raise ValueError(f"questions must be an existing JSONL, CSV or Parquet file, got {path}")
    found: dict[str, KnownQuestion] = {}
    columns: dict[str, str] = {}
    for place, (where, _, row) in enumerate(read_rows(Path(path))):
        if not columns:
            columns = choose_columns([*row], {}, path, needed=())
            if "question" not in columns:
                raise ValueError(
                    f"{path} must have a column of questions, one of {NAMES['question']}, got {[*row]}"
                )
        text = with_choices(read_text(row.get(columns["question"])), row.get(columns.get("choices", "")))
        if not text.strip():
            raise ValueError(f"{where} must have a question")
        name = read_name(row.get(columns.get("question_id", ""))) or str(place)
        if name in found and found[name].text != text:
            raise ValueError(f"{where}: ids of different questions must differ, got {name!r} again")
        found[name] = KnownQuestion(text, read_name(row.get(columns.get("reference", ""))))
    if not found:
        raise ValueError(f"questions must hold at least one question, but {path} is empty")
    return found


def add_questions(samples: Sequence[Sample], known: Mapping[str, KnownQuestion]) -> int:
    """Give samples their texts and references by id; `id-3` is a sample of `id`.

    Returns:
        How many samples are of questions that the file does not have.
    """
    unknown = 0
    for sample in samples:
        name = sample.question_id
        numbered = NUMBERED.match(name)
        if name not in known and numbered and numbered.group(1) in known:
            name = sample.question_id = numbered.group(1)
        if name not in known:
            unknown += 1
            continue
        question = known[name]
        sample.question = question.text
        sample.reference = question.reference or sample.reference
    return unknown


def grade(samples: Sequence[Sample], name: str) -> int:
    """Grade the responses of samples that nobody has graded.

    Returns:
        How many were graded.

    Raises:
        ValueError: If there is no such grader.
    """
    grader = load_grader(name)
    graded = 0
    for sample in samples:
        if sample.correct is None and sample.response and sample.reference:
            sample.correct = float(grader(sample.response, sample.reference))
            graded += 1
    return graded


def count_tokens(samples: Sequence[Sample], tokenizer: str | None) -> int:
    """Count the tokens of responses whose log does not say them.

    Returns:
        How many were counted.

    Raises:
        ValueError: If there are such and no tokenizer is given, or it cannot be loaded.
    """
    uncounted = [sample for sample in samples if sample.tokens == UNCOUNTED]
    if not uncounted:
        return 0
    if tokenizer is None:
        raise ValueError(
            f"the log of {len(uncounted)} samples does not say how many tokens they took: "
            "--tokenizer MODEL counts them in their texts (hidden reasoning is in no text)"
        )
    from ps_train.common.loading import load_tokenizer

    encode = load_tokenizer(tokenizer)
    for sample in uncounted:
        sample.tokens = len(encode(sample.response, add_special_tokens=False)["input_ids"])
    return len(uncounted)
