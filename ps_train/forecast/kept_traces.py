"""Traces whose tokens were kept (`ps-eval trace --keep-tokens`), as arrays beside their curve table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import AT_ZERO, CurveTable
from ps_train.feature_file import feature_names
from ps_train.forecast.trace_features import TokenTrace

TRACES_FILE = "traces.jsonl"


@dataclass(frozen=True)
class KeptTraces:
    """R traces of N questions, probed under W budgets."""

    table: CurveTable
    """The N questions, with the prompts' features where there are any."""
    question: npt.NDArray[np.int64]
    """(R,) row of the table each trace belongs to."""
    tokens: list[TokenTrace]
    """R of them."""
    lengths: npt.NDArray[np.int64]
    """(R,) reasoning tokens."""
    finished: npt.NDArray[np.bool_]
    """(R,) whether the model ended the reasoning itself."""
    correct: npt.NDArray[np.bool_]
    """(R, W + 1): whether its answer is right at once, and under each budget."""
    answers: npt.NDArray[np.int64]
    """(R, W): answers as numbers, equal where the texts are; 0 where there is none."""
    confidences: npt.NDArray[np.float32]
    """(R, W): how sure the model was of each forced answer; 1 where it ended by itself."""

    @property
    def budgets(self) -> npt.NDArray[np.int64]:
        """(W,) tokens."""
        return self.table.budgets

    @property
    def running(self) -> npt.NDArray[np.bool_]:
        """(R, W + 1): whether a trace still thinks at 0 tokens and at each budget.

        One that ends by itself needs room for its end marker, too: `Reasoning.cut`.
        """
        ends = np.where(self.finished, self.lengths + 1, np.iinfo(np.int64).max)
        return np.column_stack([np.ones(len(ends), bool), ends[:, None] > self.budgets])

    def take(self, questions: npt.NDArray[np.integer]) -> KeptTraces:
        """The traces of some questions, by their rows of the table; the table stays whole."""
        rows = np.flatnonzero(np.isin(self.question, questions))
        return KeptTraces(
            self.table,
            self.question[rows],
            [self.tokens[r] for r in rows],
            self.lengths[rows],
            self.finished[rows],
            self.correct[rows],
            self.answers[rows],
            self.confidences[rows],
        )


def load_kept_traces(folder: str | Path, features: Sequence[str] | None = None) -> KeptTraces:
    """Read the traces of a curve table's folder.

    Args:
        folder: What `ps-eval trace --keep-tokens` wrote.
        features: Names of the prompts' features to read; by default all that the folder holds.

    Raises:
        ValueError: If it is no curve table, its traces' tokens were not kept, or a feature is not there.
    """
    names = feature_names(folder) if features is None else list(features)
    table = CurveTable.load(folder, features=names)
    rows = {name: row for row, name in enumerate(table.ids)}
    path = Path(folder) / TRACES_FILE
    if not path.is_file():
        raise ValueError(f"{folder} must hold the traces of its table, but {path} is not there")
    found: list[tuple[int, dict[str, Any]]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            traced = json.loads(line)
            if "pieces" not in traced:
                raise ValueError(
                    f"{path} line {number} must hold each trace's tokens, as ps-eval trace --keep-tokens does"
                )
            if traced["id"] in rows:
                found.append((rows[traced["id"]], traced))
    known: dict[str | None, int] = {None: 0}
    at_zero = table.extra.get(AT_ZERO, np.zeros(len(table)))
    each = [(row, traced, t) for row, traced in found for t in range(len(traced["lengths"]))]
    return KeptTraces(
        table=table,
        question=np.array([row for row, _, _ in each], np.int64),
        tokens=[
            TokenTrace(
                traced["pieces"][t],
                np.array(traced["logprobs"][t], np.float32),
                np.array(traced["entropies"][t], np.float32),
            )
            for _, traced, t in each
        ],
        lengths=np.array([traced["lengths"][t] for _, traced, t in each], np.int64),
        finished=np.array([traced["finished"][t] for _, traced, t in each], bool),
        correct=np.array([[at_zero[row], *traced["correct"][t]] for row, traced, t in each]) > 0,
        answers=np.array(
            [[known.setdefault(a, len(known)) for a in traced["answers"][t]] for _, traced, t in each]
        ),
        confidences=np.array(
            [[1.0 if c is None else c for c in traced["confidences"][t]] for _, traced, t in each], np.float32
        ),
    )
