"""Safety with wrong predictions: recalibrate them, and fall back to uniform where no gain was validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import check_curves, check_values, per_query
from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation
from ps_alloc.files import read_json, write_json

FloatArray = npt.NDArray[np.float64]

LOGIT_LIMIT = 12.0  # logits of 6e-6 and 1 - 6e-6: predictions of exactly 0 and 1 stay finite
# Strength of the pull towards "slope 1, shift 0", in traces: what keeps a window without outcomes unchanged.
PRIOR = 1.0
NEWTON_STEPS = 50


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
        predicted, measured = _pair(predictions, outcomes)
        traces = np.broadcast_to(
            per_query("n_traces", n_traces, len(predicted), low=1, high=2**31), len(predicted)
        )
        features = _logit(predicted)
        fits = [
            _fit_window(x, y, traces.astype(np.float64)) for x, y in zip(features.T, measured.T, strict=True)
        ]
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
            ValueError: If it is not such a file.
        """
        content = _fields(read_json(path), path, ("slopes", "shifts"))
        slopes, shifts = (_finite(content, path, name) for name in ("slopes", "shifts"))
        if slopes.ndim != 1 or slopes.shape != shifts.shape or slopes.size == 0:
            raise ValueError(f"{path}: slopes and shifts must be equally long lists of numbers")
        return cls(slopes, shifts)


@dataclass(frozen=True, eq=False)
class Guard:
    """Allocate by prediction only at budgets where validation showed a clear gain over uniform.

    At each of a grid of budgets, the paired gain in measured accuracy over uniform is known with its standard
    error. A budget counts as safe when gain > z * error at the grid's budgets on both sides of it (beyond the
    grid's ends: at the nearest one).
    """

    budgets: FloatArray
    """(B,) mean tokens per query, rising."""
    gains: FloatArray
    """(B,) mean gain in accuracy over uniform on the validation questions."""
    errors: FloatArray
    """(B,) its standard error."""
    z: float
    """Standard errors by which a gain must exceed zero."""

    @classmethod
    def fit(
        cls,
        predictions: npt.ArrayLike,
        outcomes: npt.ArrayLike,
        budgets: Sequence[float],
        *,
        window: int = 16,
        min_windows: int = 1,
        z: float = 1.0,
        method: str = "hull",
    ) -> Guard:
        """Try the allocator on validation questions.

        Args:
            predictions: (N, W) predicted curves, calibrated as they will be in use. Use other questions than
                the calibrator saw, or cross-fitted predictions: in-sample gains flatter.
            outcomes: (N, W) measured curves.
            budgets: Mean tokens per query to try.
            window: Tokens a window.
            min_windows: Fewest windows a query gets.
            z: Standard errors by which a gain must exceed zero.
            method: The allocator's method.

        Raises:
            ValueError: If shapes differ, budgets are empty or do not rise, or as `allocate`.
        """
        predicted, measured = _pair(predictions, outcomes)
        grid = np.asarray(budgets, dtype=np.float64)
        if grid.ndim != 1 or grid.size == 0 or (np.diff(grid) <= 0).any():
            raise ValueError(f"budgets must be a rising list of mean tokens per query, got {budgets}")
        if not 0 <= z < np.inf:
            raise ValueError(f"z must be a number of standard errors, not negative, got {z}")
        n = len(predicted)
        if n < 2:
            raise ValueError(f"a guard must have at least 2 validation questions, got {n}")
        with_zero = np.concatenate((np.zeros((n, 1)), measured), axis=1)
        gains, errors = [], []
        for budget in grid:
            total = int(budget * n)
            ours, even = (
                allocate(predicted, total, window=window, min_windows=min_windows, method=name).windows  # type: ignore[arg-type]
                for name in (method, "uniform")
            )
            difference = with_zero[np.arange(n), ours] - with_zero[np.arange(n), even]
            gains.append(difference.mean())
            errors.append(difference.std(ddof=1) / np.sqrt(n))
        return cls(grid, np.array(gains), np.array(errors), float(z))

    def allows(self, budget: float) -> bool:
        """Whether the predictions may be used at `budget` mean tokens per query."""
        clear = self.gains > self.z * self.errors
        right = int(np.searchsorted(self.budgets, budget))
        neighbours = {min(right, clear.size - 1)}
        if right == clear.size or self.budgets[right] != budget:
            neighbours.add(max(right - 1, 0))
        return all(clear[i] for i in neighbours)

    def allocate(self, curves: npt.ArrayLike, total_tokens: int, **settings: Any) -> Allocation:
        """`ps_alloc.allocate`, or its uniform method where this guard does not allow the budget.

        Args:
            curves: (N, W) predicted curves, calibrated as for `fit`.
            total_tokens: Reasoning tokens for the whole batch.
            **settings: Keyword arguments of `allocate`.
        """
        n_queries = max(1, len(np.asarray(curves)))
        if not self.allows(total_tokens / n_queries):
            settings["method"] = "uniform"
        return allocate(curves, total_tokens, **settings)

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        lists = {name: getattr(self, name).tolist() for name in ("budgets", "gains", "errors")}
        write_json(path, {**lists, "z": self.z})

    @classmethod
    def load(cls, path: str | Path) -> Guard:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is not such a file.
        """
        content = _fields(read_json(path), path, ("budgets", "gains", "errors", "z"))
        arrays = [_finite(content, path, name) for name in ("budgets", "gains", "errors")]
        if arrays[0].ndim != 1 or arrays[0].size == 0 or len({array.shape for array in arrays}) != 1:
            raise ValueError(f"{path}: budgets, gains and errors must be equally long lists of numbers")
        return cls(arrays[0], arrays[1], arrays[2], float(_finite(content, path, "z").item()))


def _fit_window(x: FloatArray, y: FloatArray, traces: FloatArray) -> tuple[float, float]:
    """Slope and shift of one window; ridge towards (1, 0). The slope is clamped at zero."""
    slope, shift = 1.0, 0.0
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(slope * x + shift)
        residual = traces * (y - p)
        curvature = traces * p * (1 - p)
        gradient = np.array([residual @ x - PRIOR * (slope - 1.0), residual.sum() - PRIOR * shift])
        cross = curvature @ x
        hessian = np.array([[curvature @ (x * x) + PRIOR, cross], [cross, curvature.sum() + PRIOR]])
        move = np.linalg.solve(hessian, gradient)
        move /= max(1.0, float(np.abs(move).max()))  # far from the optimum full Newton steps overshoot
        slope, shift = slope + move[0], shift + move[1]
        if np.abs(move).max() < 1e-10:
            break
    if slope < 0.0:
        rate = (traces @ y + 0.5 * PRIOR) / (traces.sum() + PRIOR)
        slope, shift = 0.0, float(np.log(rate / (1 - rate)))
    return float(slope), float(shift)


def _logit(p: npt.NDArray[np.floating]) -> FloatArray:
    with np.errstate(divide="ignore"):
        q = p.astype(np.float64)
        return np.clip(np.log(q) - np.log1p(-q), -LOGIT_LIMIT, LOGIT_LIMIT)


def _sigmoid(z: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))


def _pair(predictions: npt.ArrayLike, outcomes: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    predicted, measured = check_curves(predictions, "predictions"), check_curves(outcomes, "outcomes")
    check_values(predicted, "predictions")
    check_values(measured, "outcomes")
    if predicted.shape != measured.shape:
        raise ValueError(f"outcomes must have the predictions' shape {predicted.shape}, got {measured.shape}")
    return predicted.astype(np.float64), measured.astype(np.float64)


def _fields(content: Any, path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict) or any(name not in content for name in names):
        raise ValueError(f"{path} must be a JSON object with the fields {names}")
    return content


def _finite(content: dict[str, Any], path: str | Path, name: str) -> FloatArray:
    try:
        values = np.array(content[name], dtype=np.float64)
    except (ValueError, TypeError):
        values = np.array(np.nan)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} must be finite numbers, got {content[name]!r:.60}")
    return values
