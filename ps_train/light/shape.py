"""Scores to curves of accuracy and use, and the shapes that such curves have.

The scores say how long and how likely; which curves go with them is learned from scores of questions that the
scores were not fitted on, so that what is uncertain about a score flattens the curve as it should.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
CHUNK_CELLS = 1 << 18
"""Questions × budgets² shaped at once."""


def summaries(curves: Float, use: Float | None, budgets: npt.NDArray[np.int64]) -> Float:
    """The two scores to be predicted of each question, (N, 2): how long it takes, and how accurate it ends.

    Length is the mean logarithm of the tokens used, as far as the grid shows it: the share that runs on,
    summed over the logarithms of the budgets. Where use is not known, the mean accuracy stands for it.
    """
    if use is None:
        return np.stack([curves.mean(axis=1), curves[:, -1]], axis=1)
    running = np.diff(use, axis=1) / np.diff(budgets)
    length = use[:, 0] / budgets[0] + running @ np.diff(np.log(budgets))
    return np.stack([length, curves[:, -1]], axis=1)


@dataclass(frozen=True)
class CurveMap:
    """A function of R scores to T outputs, linear or with squares and products."""

    centre: Float
    """(R,)."""
    scale: Float
    """(R,)."""
    low: Float
    """(R,). Standardised scores are held within what was seen."""
    high: Float
    coefficients: Float
    """(F, T). F tells the degree."""

    @classmethod
    def fit(cls, scores: Float, targets: Float) -> CurveMap:
        """Ridge; degree and penalty chosen by leaving questions out in turn.

        Args:
            scores: (N, R), by fits that have not seen the question.
            targets: (N, T).
        """
        centre, spread = scores.mean(axis=0), scores.std(axis=0)
        scale = np.where(spread > 1e-9, spread, np.inf)
        z = (scores - centre) / scale
        low, high = np.quantile(z, [0.005, 0.995], axis=0)
        z = np.clip(z, low, high)
        linear_errors, linear = _ridge(_basis(z, squares=False), targets)
        errors, coefficients = _ridge(_basis(z, squares=True), targets)
        # Squares must earn their place: their errors are smaller by more than chance gives.
        better = linear_errors - errors
        if better.mean() < 2 * better.std() / np.sqrt(len(better)):
            coefficients = linear
        return cls(centre, scale, low, high, coefficients)

    def __call__(self, scores: Float) -> Float:
        """(N, T)."""
        z = np.minimum(np.maximum((scores - self.centre) / self.scale, self.low), self.high)
        return _basis(z, squares=len(self.coefficients) > 1 + z.shape[1]) @ self.coefficients


def _basis(z: Float, *, squares: bool) -> Float:
    n_scores = z.shape[1]
    pairs = [(i, j) for i in range(n_scores) for j in range(i, n_scores)] if squares else []
    basis = np.ones((len(z), 1 + n_scores + len(pairs)))
    basis[:, 1 : 1 + n_scores] = z
    for place, (i, j) in enumerate(pairs, start=1 + n_scores):
        np.multiply(z[:, i], z[:, j], out=basis[:, place])
    return basis


def _ridge(basis: Float, targets: Float) -> tuple[Float, Float]:
    """(N,) mean square errors of left-out questions and (F, T) coefficients, by the best penalty."""
    fits = []
    for penalty in PENALTIES:
        shrink = np.eye(basis.shape[1]) * penalty
        shrink[0, 0] = 0.0
        inverse = np.linalg.pinv(basis.T @ basis + shrink)
        coefficients = inverse @ (basis.T @ targets)
        leverage = np.einsum("ij,jk,ik->i", basis, inverse, basis)
        residuals = (targets - basis @ coefficients) / np.maximum(1 - leverage, 1e-6)[:, None]
        fits.append(((residuals**2).mean(axis=1), coefficients))
    return min(fits, key=lambda fit: float(fit[0].mean()))


def rising(curves: Float) -> Float:
    """The nearest rising curves (least squares), row by row."""
    return -falling(-curves, np.ones(curves.shape[1]))


def possible_use(use: Float, budgets: npt.NDArray[np.int64]) -> Float:
    """The nearest use that can be: of each further token the share still running is used, which only falls.

    So use rises, is concave, and stays at or below the budget.
    """
    steps = budgets.astype(np.float64)
    steps[1:] -= budgets[:-1]
    used = use.copy()
    used[:, 1:] -= use[:, :-1]
    running = falling(used / steps, steps)
    return np.cumsum(np.minimum(np.maximum(running, 0.0), 1.0) * steps, axis=1)


def falling(values: Float, weights: Float) -> Float:
    """Isotonic regression of each row (N, W), falling, with weights (W,).

    At k: the smallest over i <= k of the largest over j >= k of the weighted mean from i to j.
    """
    if (values[:, 1:] <= values[:, :-1]).all():
        return values
    upper, lower = _triangles(values.shape[1])
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    span = np.where(upper, mass[None, 1:] - mass[:-1, None], 1.0)
    found = np.empty_like(values)
    chunk = max(1, CHUNK_CELLS // values.shape[1] ** 2)
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk]
        sums = np.zeros((len(part), part.shape[1] + 1))
        np.cumsum(part * weights, axis=1, out=sums[:, 1:])
        # (N, i, j): the mean from i to j.
        means = np.where(upper, (sums[:, None, 1:] - sums[:, :-1, None]) / span, -np.inf)
        largest = np.maximum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
        found[start : start + chunk] = np.where(lower, np.inf, largest).min(axis=1)
    return found


@lru_cache
def _triangles(width: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(W, W) where j >= i, and where j < i."""
    upper = np.triu(np.ones((width, width), np.bool_))
    return upper, ~upper
