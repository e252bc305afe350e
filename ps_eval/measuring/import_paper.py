"""The paper authors' published measurements as curve tables: `ps-eval import-paper DIR --output OUT`.

The repository of *Predictive Scheduling* keeps its GSM8K measurements as CSV files, in parts: curves in
`gsm8k_Y_{train,test}_<part>.csv`, hidden states in `gsm8k_X_{train,test}_<part>.csv`. A list is stored as
printed text; it is read as numbers and never evaluated.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_train.curve_table import CurveTable
from ps_train.questions import load_questions
from ps_train.text_files import text_encoding

SPLITS = ("train", "test")
CURVE_COLUMN = "early_stop_correct_proportions"
STATE_COLUMN = "hidden_state"
MAX_FIELD = 2**24
"""Characters a CSV field may have: a printed hidden state of 1,536 numbers takes 30 thousand."""
SHOWN = 5
"""How many faults or left-out questions a message names before it only counts."""

_CHAT_TAG = re.compile(r"<｜[^｜]*｜>")
# One flat list, bare or inside tensor(...) or array(..., dtype=...).
_NUMPY_NUMBER = re.compile(r"np\.float\d+\(([^()]*)\)")  # as numpy 2 prints a number inside a list
_NUMBER_LIST = re.compile(r"(?:tensor|array)?\(?\[([^\[\]]*)\](?:,\s*\w+=[\w.'\":]+)*\)?")


@dataclass(frozen=True)
class _Row:
    """One parsed CSV row."""

    where: str
    """File and line, for messages."""
    question: str
    numbers: npt.NDArray[np.float32]


def import_paper(
    folder: str,
    *,
    output: str,
    gsm8k: str | None = None,
    layer: int = 28,
    window: int = 16,
    n_traces: int = 100,
    model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    source: str = "brownkat6/reasoning-scheduling",
) -> None:
    """Convert the paper's published CSV files into curve tables.

    Writes `OUTPUT/train` and `OUTPUT/test`, as far as there are files of them. Questions that have a curve
    but no hidden states, or the reverse, are left out and named; without any hidden-state file of a split its
    table has no features.

    Args:
        folder: Folder with gsm8k_Y_{train,test}_<part>.csv and, optionally, gsm8k_X_{train,test}_<part>.csv.
        output: Folder to write the two tables into.
        gsm8k: Folder with GSM8K's train.jsonl and test.jsonl, which hold the reference answers (the CSV files
            do not). Without it the answer column is empty, which suffices to train and to replay.
        layer: The block whose output the hidden states are: names the feature `layer_<n>`. The source does
            not say which; 28 is the model's last.
        window: Tokens between two probes.
        n_traces: Traces behind each measured curve.
        model: The model that was measured.
        source: Where the files come from, noted in the tables.

    Raises:
        ValueError: If files are missing or a row is bad: every message names file and line.
    """
    console = Console()
    metadata = {"model": model, "source": source}
    tables: dict[str, CurveTable] = {}
    # Both splits are read before either is written: bad input leaves nothing behind.
    for split in SPLITS:
        curves = _read_parts(folder, "Y", split, CURVE_COLUMN, _check_curve)
        states = _read_parts(folder, "X", split, STATE_COLUMN, _check_state)
        if not curves and not states:
            continue
        kept = [i for i in curves if i in states] if states else list(curves)
        for reason, left_out in (
            ("hidden states", [i for i in curves if i not in states] if states else []),
            ("a curve", [i for i in states if i not in curves]),
        ):
            if left_out:
                console.print(f"{split}: left out {_some(left_out)}, without {reason}", highlight=False)
        if not kept:
            raise ValueError(f"{folder}: no {split} question has both a curve and hidden states")
        questions = [curves[i].question for i in kept]
        tables[split] = CurveTable(
            ids=kept,
            questions=questions,
            answers=_find_answers(Path(gsm8k) / f"{split}.jsonl", kept, questions)
            if gsm8k
            else [""] * len(kept),
            curves=np.stack([curves[i].numbers for i in kept]),
            n_traces=np.full(len(kept), n_traces, dtype=np.int32),
            budgets=window * np.arange(1, len(curves[kept[0]].numbers) + 1),
            metadata=metadata,
            features={f"layer_{layer}": np.stack([states[i].numbers for i in kept])} if states else {},
        )
    if not tables:
        raise ValueError(
            f"{folder} must hold gsm8k_Y_train_<part>.csv or gsm8k_Y_test_<part>.csv, but has neither"
        )
    for split, table in tables.items():
        table.save(Path(output) / split)
        features = ", ".join(f"{name} {values.shape}" for name, values in table.features.items()) or "none"
        console.print(
            f"{Path(output) / split}: {len(table)} questions, {table.num_windows} windows of {window} tokens,"
            f" features: {features}",
            highlight=False,
            soft_wrap=True,
        )
    if gsm8k is None:
        console.print("The answer column is empty: --gsm8k FOLDER fills it.")


def _read_parts(
    folder: str, kind: str, split: str, column: str, check: Callable[[npt.NDArray[np.float32]], str | None]
) -> dict[str, _Row]:
    """All parts of one kind and split, question id → row, in the order of part and line."""
    name = re.compile(rf"gsm8k_{kind}_{split}_(\d+)\.csv")
    parts = {int(m[1]): path for path in Path(folder).glob("*.csv") if (m := name.fullmatch(path.name))}
    rows: dict[str, _Row] = {}
    faults: list[str] = []
    for _, path in sorted(parts.items()):
        for where, record in _read_csv(path, ("question_id", "question_text", "split", column)):
            numbers = _parse_numbers(record[column])
            question_id = record["question_id"]
            width = len(next(iter(rows.values())).numbers) if rows else None
            if record["split"] != split:
                fault: str | None = f"split must be {split!r}, got {record['split']!r}"
            elif question_id in rows:
                fault = f"question_id must be unique, but {question_id!r} is in {rows[question_id].where} too"
            elif numbers is None:
                fault = f"{column} must be a list of numbers"
            elif width not in (None, len(numbers)):
                fault = f"{column} must have {width} numbers as before, got {len(numbers)}"
            else:
                fault = check(numbers)
            if fault is not None or numbers is None:
                faults.append(f"{where}: {fault}")
            else:
                rows[question_id] = _Row(where, _CHAT_TAG.sub("", record["question_text"]).strip(), numbers)
    if faults:
        raise ValueError(f"{len(faults)} bad rows: {_some(faults, '; ')}")
    return rows


def _read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file and line, record) for each row; the line is the one where the row ends."""
    previous = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(newline="", encoding=text_encoding(path)) as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} must have the columns {columns}, but lacks {missing}")
            for record in reader:
                where = f"{path} line {reader.line_num}"
                if None in record or None in record.values():
                    raise ValueError(
                        f"{where} must have {len(reader.fieldnames or ())} fields like the header"
                    )
                yield where, record
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, but {error}") from error
    finally:
        csv.field_size_limit(previous)


def _parse_numbers(text: str) -> npt.NDArray[np.float32] | None:
    """The numbers of a printed Python list, numpy array or torch tensor; None where the text is neither."""
    match = _NUMBER_LIST.fullmatch(_NUMPY_NUMBER.sub(r"\1", text.strip()))
    if match is None:
        return None
    try:
        return np.array([float(word) for word in match[1].replace(",", " ").split()], np.float32)
    except ValueError:
        return None


def _check_curve(numbers: npt.NDArray[np.float32]) -> str | None:
    outside = ~((numbers >= 0) & (numbers <= 1))  # True for NaN as well
    if outside.any():
        return f"{CURVE_COLUMN} must lie in [0, 1], got {numbers[outside][0]}"
    return None if len(numbers) else f"{CURVE_COLUMN} must have at least one number"


def _check_state(numbers: npt.NDArray[np.float32]) -> str | None:
    # float16 is what a curve table stores.
    fits = len(numbers) > 0 and (np.abs(numbers) <= np.finfo(np.float16).max).all()
    return None if fits else f"{STATE_COLUMN} must be finite numbers that float16 can hold"


def _find_answers(path: Path, ids: list[str], questions: list[str]) -> list[str]:
    """Reference answers by question text, which unlike the position in the file cannot go wrong silently."""
    answers = {question.question.strip(): question.answer for question in load_questions(path)}
    unknown = [i for i, question in zip(ids, questions, strict=True) if question not in answers]
    if unknown:
        raise ValueError(f"{path} must hold every question's text, but lacks that of {_some(unknown)}")
    return [answers[question] for question in questions]


def _some(names: list[str], separator: str = ", ") -> str:
    rest = len(names) - SHOWN
    return separator.join(names[:SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")
