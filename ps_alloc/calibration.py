"""Safety with wrong predictions, first half: recalibrate what is predicted, accuracy and use.

The second half is `ps_alloc.guard`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_curves, check_values, per_query
from ps_alloc.files import finite_field, read_object, write_json
from ps_alloc.predictions import check_budgets

LOGIT_LIMIT = 12.0  # logits of 6e-6 and 1 - 6e-6: predictions of exactly 0 and 1 stay finite
# Strength of the pull towards "slope 1, shift 0", in traces: what keeps a window without outcomes unchanged.
PRIOR = 1.0
NEWTON_STEPS = 100


@dataclass(frozen=True, eq=False)
class PlattCalibrator:
    """Platt scaling for each window: sigmoid(slope * logit(prediction) + shift), fitted on validation
    questions.

    Overconfident predictions are pulled to the window's mean accuracy, useless ones all the way. The slope is
    kept from turning negative, so the order of queries at a window stays or collapses, never flips.
    """

    slopes: FloatArray
    """(W,)."""
    shifts: FloatArray
    """(W,)."""

    @classmethod
    def fit(
        cls, predictions: npt.ArrayLike, outcomes: npt.ArrayLike, n_traces: npt.ArrayLike = 1
    ) -> PlattCalibrator:
        """Maximise the binomial likelihood of the outcomes, by Newton's method (logistic regression).

        Args:
            predictions: (N, W) predicted curves of validation questions, not seen in training the predictor.
            outcomes: (N, W) shares of traces answered correctly; 0 or 1 for a single trace.
            n_traces: Traces behind each question's outcomes, one number or (N,).

        Raises:
            ValueError: If an array is not (N, W) values in [0, 1], or shapes differ.
        """
        predicted, measured = check_pair(predictions, outcomes)
        traces = np.broadcast_to(
            per_query("n_traces", n_traces, len(predicted), low=1, high=2**31), len(predicted)
        )
        features = _logit(predicted)
        columns = zip(features.T, measured.T, strict=True)
        fits = [_fit_window(x, y, traces.astype(np.float64), k + 1) for k, (x, y) in enumerate(columns)]
        slopes, shifts = np.array(fits).T
        return cls(slopes, shifts)

    def apply(self, predictions: npt.ArrayLike) -> FloatArray:
        """Calibrated curves (N, W).

        Raises:
            ValueError: If `predictions` is not (N, W) values in [0, 1] with the fitted W.
        """
        predicted = check_curves(predictions, "predictions")
        check_values(predicted, "predictions")
        if predicted.shape[1] != self.slopes.size:
            raise ValueError(
                f"predictions must have the {self.slopes.size} fitted windows, got {predicted.shape[1]}"
            )
        return _sigmoid(_logit(predicted) * self.slopes + self.shifts)

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        write_json(path, {"slopes": self.slopes.tolist(), "shifts": self.shifts.tolist()})

    @classmethod
    def load(cls, path: str | Path) -> PlattCalibrator:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is not such a file: one of `UseCalibrator` is none.
        """
        content = read_object(path, ("slopes", "shifts"))
        if "budgets" in content:
            raise ValueError(f"{path} must hold a calibration of accuracy, but it is one of use")
        return cls(*_slopes_and_shifts(content, path))


@dataclass(frozen=True, eq=False)
class UseCalibrator:
    """The same for expected use: Platt scaling of the share of each budget that is really used.

    On the validation questions the calibrated mean use under each budget is the measured one (but for the
    prior's pull), so a batch's total comes out as expected. More budget never means less use.
    """

    budgets: IntArray
    """(W,) tokens."""
    shares: PlattCalibrator
    """Of use / budget."""

    @classmethod
    def fit(
        cls, use: npt.ArrayLike, measured: npt.ArrayLike, budgets: npt.ArrayLike, n_traces: npt.ArrayLike = 1
    ) -> UseCalibrator:
        """Fit on validation questions.

        Args:
            use: (N, W) predicted tokens under each budget, of questions not seen in training the predictor.
            measured: (N, W) tokens really used under each budget, means over traces.
            budgets: (W,) tokens, strictly rising.
            n_traces: Traces behind each question's means, one number or (N,).

        Raises:
            ValueError: If an array is not (N, W) tokens between 0 and the budget, or shapes differ.
        """
        grid = check_budgets(budgets)
        shares = PlattCalibrator.fit(_shares("use", use, grid), _shares("measured", measured, grid), n_traces)
        return cls(grid, shares)

    def apply(self, use: npt.ArrayLike) -> FloatArray:
        """Calibrated tokens (N, W), rising with the budget and never above it.

        Raises:
            ValueError: If `use` is not (N, W) tokens between 0 and the budget, with the fitted W.
        """
        tokens = self.shares.apply(_shares("use", use, self.budgets)) * self.budgets
        return np.maximum.accumulate(tokens, axis=1)

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        lists = {name: getattr(self.shares, name).tolist() for name in ("slopes", "shifts")}
        write_json(path, {"budgets": self.budgets.tolist(), **lists})

    @classmethod
    def load(cls, path: str | Path) -> UseCalibrator:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is not such a file.
        """
        content = read_object(path, ("budgets", "slopes", "shifts"))
        shares = PlattCalibrator(*_slopes_and_shifts(content, path))
        try:
            budgets = check_budgets(content["budgets"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if budgets.size != shares.slopes.size:
            raise ValueError(
                f"{path}: budgets must be as many as slopes ({shares.slopes.size}), got {budgets.size}"
            )
        return cls(budgets, shares)


def _slopes_and_shifts(content: dict[str, Any], path: str | Path) -> tuple[FloatArray, FloatArray]:
    slopes, shifts = (finite_field(content, path, name) for name in ("slopes", "shifts"))
    if slopes.ndim != 1 or slopes.shape != shifts.shape or slopes.size == 0:
        raise ValueError(f"{path}: slopes and shifts must be equally long lists of numbers")
    return slopes, shifts


def _shares(name: str, tokens: npt.ArrayLike, budgets: IntArray) -> FloatArray:
    values = check_curves(tokens, name)
    if values.shape[1] != budgets.size:
        raise ValueError(
            f"{name} must have a column for each of the {budgets.size} budgets, got {values.shape}"
        )
    shares = values / budgets
    # Means of float32 may stand a rounding above what they are means of.
    bad = np.argwhere(~((shares >= 0) & (shares <= 1 + 1e-6)))
    if bad.size:
        row, column = bad[0]
        raise ValueError(
            f"{name} must lie between 0 and the budget, {budgets[column]} tokens, "
            f"got {values[row, column]} at row {row}, column {column}"
        )
    return np.minimum(shares, 1.0)


def _fit_window(x: FloatArray, y: FloatArray, traces: FloatArray, window: int) -> tuple[float, float]:
    """Slope and shift of one window; ridge towards (1, 0). The slope is clamped at zero.

    Newton's method with a line search: the penalised likelihood is concave, so it ends at its maximum from
    anywhere, however steep that is.
    """

    def loss(at: FloatArray) -> float:
        z = at[0] * x + at[1]
        misfit = traces @ (np.logaddexp(0.0, z) - y * z)
        return float(misfit + PRIOR / 2 * ((at[0] - 1.0) ** 2 + at[1] ** 2))

    at, lowest = np.array([1.0, 0.0]), loss(np.array([1.0, 0.0]))
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(at[0] * x + at[1])
        residual = traces * (p - y)
        curvature = traces * p * (1 - p)
        gradient = np.array([residual @ x + PRIOR * (at[0] - 1.0), residual.sum() + PRIOR * at[1]])
        cross = curvature @ x
        hessian = np.array([[curvature @ (x * x) + PRIOR, cross], [cross, curvature.sum() + PRIOR]])
        move = np.linalg.solve(hessian, -gradient)
        slope_along = float(gradient @ move)  # of the loss, along the step; below 0
        share = 1.0
        # So near the minimum that rounding hides what the loss does, full steps are right.
        while (
            -slope_along > 1e-9 * max(1.0, lowest)
            and loss(at + share * move) > lowest + 1e-4 * share * slope_along
        ):
            share /= 2
        at = at + share * move
        lowest = loss(at)
        if np.abs(share * move).max() < 1e-10 * (1 + np.abs(at).max()):
            break
    else:
        warnings.warn(
            f"the calibration of window {window} has not converged in {NEWTON_STEPS} steps",
            RuntimeWarning,
            stacklevel=3,
        )
    if at[0] < 0.0:
        rate = (traces @ y + 0.5 * PRIOR) / (traces.sum() + PRIOR)
        return 0.0, float(np.log(rate / (1 - rate)))
    return float(at[0]), float(at[1])


def _logit(p: npt.NDArray[np.floating]) -> FloatArray:
    with np.errstate(divide="ignore"):
        q = p.astype(np.float64)
        return np.clip(np.log(q) - np.log1p(-q), -LOGIT_LIMIT, LOGIT_LIMIT)


def _sigmoid(z: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))


def check_pair(predictions: npt.ArrayLike, outcomes: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Predicted and measured curves of the same questions, both float64 (N, W).

    Raises:
        ValueError: If an array is not (N, W) values in [0, 1], or shapes differ.
    """
    predicted, measured = check_curves(predictions, "predictions"), check_curves(outcomes, "outcomes")
    check_values(predicted, "predictions")
    check_values(measured, "outcomes")
    if predicted.shape != measured.shape:
        raise ValueError(f"outcomes must have the predictions' shape {predicted.shape}, got {measured.shape}")
    return predicted.astype(np.float64), measured.astype(np.float64)
