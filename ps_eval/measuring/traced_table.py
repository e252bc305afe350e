"""From traces to the curve table: accuracy, and what the same traces say of every budget for free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_eval.measuring.trace_file import TracedQuestion
from ps_train.curve_table import AT_ZERO, CurveTable
from ps_train.questions import Question


def traced_table(
    questions: Sequence[Question], traced: Sequence[TracedQuestion], budgets: npt.NDArray[np.int64]
) -> CurveTable:
    """Means over each question's traces.

    Args:
        questions: N of them.
        traced: Their traces, in the same order, probed under the budgets.
        budgets: (W,) tokens, rising.

    Returns:
        A table with `use`, `finished` and `strict`, and the columns `mean_length` and `at_zero`.
    """

    def mean(values: Iterable[Any]) -> npt.NDArray[np.float32]:
        return np.array([np.mean(v, axis=0) for v in values], dtype=np.float32).reshape(len(traced), -1)

    lengths = [np.array(t.lengths)[:, None] for t in traced]
    # As `Reasoning.cut`: to end by itself a trace needs a token more than its reasoning, the end marker.
    ended = [
        np.array(t.finished)[:, None] & (length < budgets) for t, length in zip(traced, lengths, strict=True)
    ]
    extra: dict[str, npt.NDArray[Any]] = {"mean_length": np.array([np.mean(t.lengths) for t in traced])}
    if all(t.correct_at_zero is not None for t in traced):
        extra[AT_ZERO] = np.array([t.correct_at_zero for t in traced], np.float32)
    return CurveTable(
        ids=[q.id for q in questions],
        questions=[q.question for q in questions],
        answers=[q.answer for q in questions],
        curves=mean(t.correct for t in traced),
        n_traces=np.array([len(t.lengths) for t in traced], np.int32),
        budgets=budgets,
        use=mean(np.minimum(length, budgets) for length in lengths),
        finished=mean(ended),
        strict=mean(np.array(t.correct) * end for t, end in zip(traced, ended, strict=True)),
        extra=extra,
    )
