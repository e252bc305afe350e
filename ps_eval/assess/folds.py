"""Predictions of every question by fits that have not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_curves, is_rising
from ps_train.light.inputs import Numbers
from ps_train.light.shape import CurveMap, possible_use, rising
from ps_train.light.training_inputs import TrainingInputs
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


class Refits:
    """The light predictor, fitted without one or two of the folds; every choice is made on the others.

    Args:
        table: N questions.
        folds: (N,) the fold of each.
        numbers: Further columns that it reads.
    """

    def __init__(
        self, table: CurveTable, folds: npt.NDArray[np.int64], *, numbers: Numbers | None = None
    ) -> None:
        self.table, self.folds = table, folds
        self._read = TrainingInputs.of(table.questions, numbers)
        self._said: dict[tuple[int, int], Predicted] = {}

    def take(self, rows: npt.NDArray[np.bool_], n_folds: int) -> Refits:
        """Of some of the questions, as if there were no others, in so many folds at most."""
        some = copy(self)
        some.table, some.folds = self.table.take(rows), self.folds[rows] % n_folds
        some._read, some._said = self._read.take(rows), {}
        return some

    def without(self, gone: int | None) -> npt.NDArray[np.bool_]:
        """(N,) which questions are left without this fold."""
        return np.ones(len(self.folds), np.bool_) if gone is None else self.folds != gone

    def left_out(self, gone: int | None = None) -> Predicted:
        """Each question's curves by a fit on the other folds; where a fold is `gone`, of the rest alone, by
        fits that have not seen it.
        """
        kept = self.without(gone)
        table, folds = self.table.take(kept), self.folds[kept]
        curves, use = np.empty(table.curves.shape), np.empty(table.curves.shape)
        for fold in np.unique(folds).tolist():
            pair = (fold, fold) if gone is None else (min(fold, gone), max(fold, gone))
            if pair not in self._said:
                self._said[pair] = self._of_others(pair)
            mine = self.folds[np.isin(self.folds, pair)] == fold
            said = self._said[pair]
            curves[folds == fold], use[folds == fold] = said.curves[mine], said.use[mine]
        return _levelled(table, folds, curves, use)

    def _of_others(self, pair: tuple[int, int]) -> Predicted:
        """Curves of the questions of two folds (or one, twice) by a fit on the others."""
        out = np.isin(self.folds, pair)
        fitted, _ = fit_curves(self._read.take(~out), self.table.take(~out))
        columns = np.hstack([block[out] for block in self._read.columns])
        return Predicted(*fitted(self._read.hashed.take(out), columns)[:2])


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
