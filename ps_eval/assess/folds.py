"""Predictions of every question by fits that have not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light
from ps_train.light.inputs import Numbers
from ps_train.light.shape import CurveMap, possible_use, rising
from ps_train.question_hashes import hash_question

MANY = 20_000
"""From so many questions on, five folds instead of ten."""
MIN_QUESTIONS = 25

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Curves of accuracy and use, (N, W) each, of questions that were left out."""

    curves: Float
    use: Float


def make_folds(questions: Sequence[str], n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """(N,) the fold of each question; equal texts share one, so that none is predicted from itself."""
    # Questions known by a hash alone have no text, and differ.
    keys = [text if text.strip() else f"\0 {row}" for row, text in enumerate(questions)]
    texts = np.array([hash_question(key) for key in keys], dtype=np.uint64)
    _, group = np.unique(texts, return_inverse=True)
    place = np.random.default_rng(seed).permutation(group.max() + 1) % n_folds
    return place[group].astype(np.int64)


def cross_validate(
    table: CurveTable, folds: npt.NDArray[np.int64], *, numbers: Numbers | None = None
) -> Predicted:
    """The light predictor, fitted on the other folds; every choice it makes is made on them."""
    curves, use = np.empty(table.curves.shape), np.empty(table.curves.shape)
    columns = {name: np.asarray(values) for name, values in (numbers or {}).items()}
    for fold in np.unique(folds):
        inside = folds == fold
        fitted = fit_light(table.take(~inside), numbers={n: v[~inside] for n, v in columns.items()})
        texts = [text for text, mine in zip(table.questions, inside, strict=True) if mine]
        said = fitted.predict(texts, numbers={n: v[inside] for n, v in columns.items()})
        curves[inside] = said.curves
        use[inside] = np.tile(table.budgets, (len(texts), 1)) if said.use is None else said.use
    return _levelled(table, folds, curves, use)


def by_length(table: CurveTable, folds: npt.NDArray[np.int64]) -> Predicted:
    """What the length of a question's text alone tells, by the same functions."""
    length = np.log1p([[len(text)] for text in table.questions])
    truth = np.hstack([table.curves, table.expected_use / table.budgets]).astype(np.float64)
    outputs = np.empty_like(truth)
    for fold in np.unique(folds):
        inside = folds == fold
        outputs[inside] = CurveMap.fit(length[~inside], truth[~inside])(length[inside])
    width = len(table.budgets)
    return _levelled(table, folds, outputs[:, :width], outputs[:, width:] * table.budgets)


def _levelled(table: CurveTable, folds: npt.NDArray[np.int64], curves: Float, use: Float) -> Predicted:
    """Predictions of several fits as one fit's: each moved by what its questions' mean lacks of the whole's.

    A fit's mean is low just where the questions left out are high, and one price for all folds would choose
    among them by that. Nothing is told of one question: the mean is the same for all.
    """
    curves, use = curves.copy(), use.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        curves[inside] += table.curves.mean(axis=0) - table.curves[~inside].mean(axis=0)
        use[inside] += table.expected_use.mean(axis=0) - table.expected_use[~inside].mean(axis=0)
    if is_rising(table):
        curves = rising(curves)
    return Predicted(np.clip(curves, 0, 1), possible_use(use, table.budgets))


def is_rising(table: CurveTable) -> bool:
    """Whether a table's accuracy never falls: strict, and nothing for an unfinished answer."""
    return table.metadata.get("answer") == "strict" and float(table.metadata.get("guess", 0)) == 0
