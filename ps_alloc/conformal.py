"""Budgets that fall short of what a query needs as rarely as the user asks: split-conformal calibration.

A model predicts how many tokens a query needs; queries held out from its training say how far such
predictions fall short. That gives, for any underrun rate, budgets that keep it on further queries of the same
kind, whatever the model and its errors (Papadopoulos et al. 2002; Romano, Patterson, Candès 2019, one-sided).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import numbers, one_of, real, shown, vector, whole
from ps_alloc.files import read_json, write_json

FloatArray = npt.NDArray[np.float64]
Method = Literal["additive", "multiplicative", "scaled", "quantile"]

# Needed budgets are multiples of the window, and so is what is given. A float a hair below a multiple is it.
ROUNDING = 1e-9
LARGEST_BUDGET = 2**40
NUM_LEVELS = 100  # resolution of `probabilities`


def conformal_quantile(scores: npt.ArrayLike, rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest of n scores: a further exchangeable one exceeds it at most at
    `rate`.

    Without ties it exceeds it with at least `rate - 1 / (n + 1)`, too.

    Returns:
        The score, or infinity where n is too small for the rate: below 1 / (n + 1).

    Raises:
        ValueError: If `rate` is not between 0 and 1, or a score is NaN.
    """
    values = numbers("scores", scores).astype(np.float64).ravel()
    _check_rate("rate", rate)
    if np.isnan(values).any():
        raise ValueError(f"scores must be numbers, got NaN at {int(np.isnan(values).argmax())}")
    # The rounding keeps (n + 1)(1 - rate) = 9.000000000000002 from becoming 10.
    rank = max(1, math.ceil(round((values.size + 1) * (1 - rate), 9)))
    return float(np.partition(values, rank - 1)[rank - 1]) if rank <= values.size else math.inf


@dataclass(frozen=True, eq=False)
class BudgetCalibrator:
    """Predicted budgets, and what was needed, of n calibration queries: budgets at any underrun rate.

    An underrun is a query that is given fewer tokens than it needs. `method` says what is added to a
    prediction, the same score for all queries:

    - `additive`: tokens; `multiplicative`: the prediction is stretched; `scaled`: tokens for each token of
      the query's own `spread`.
    - `quantile`: the prediction is several quantiles of the needed budget (pinball heads, or a distribution
      over bins). Tokens are added to the quantile that the rate asks for: conformalized quantile regression.

    Needed budgets are multiples of `window`, and so are the budgets given. The score takes the rounding into
    account: it is what must be added to *reach the window* of the needed budget, `(needed - window -
    prediction) / scale`. With continuous predictions, scores have no ties and the rate is met to
    `1 / (n + 1)` for all that the budgets are discrete, as long as no budget comes to an end of its range.
    Underruns are rarer than asked, never more frequent, where budgets would fall below one window, which is
    the least that is given, and where predictions themselves repeat (a constant, the middle of a bin), so
    that scores tie.
    """

    predicted: FloatArray
    """(n,), or (n, L) quantiles, in tokens."""
    needed: FloatArray
    """(n,) tokens, multiples of `window`."""
    method: Method = "additive"
    window: int = 1
    """Tokens a window."""
    levels: FloatArray | None = None
    """(L,) ascending: `predicted[:, l]` is the quantile at `levels[l]`. For `quantile` only."""
    spread: FloatArray | None = None
    """(n,) positive. For `scaled` only."""

    @classmethod
    def fit(
        cls,
        predicted: npt.ArrayLike,
        needed: npt.ArrayLike,
        *,
        method: Method = "additive",
        window: int = 1,
        levels: npt.ArrayLike | None = None,
        spread: npt.ArrayLike | None = None,
    ) -> BudgetCalibrator:
        """Keep a calibration set. The queries must be new to the model, and like those to come.

        Args:
            predicted: (n,) predicted budgets in tokens; (n, L) quantiles for `quantile`.
            needed: (n,) needed budgets in tokens.
            method: What a prediction is corrected by; see the class.
            window: Tokens a window. 1 where budgets are any whole number.
            levels: (L,) the quantiles' levels, ascending in (0, 1).
            spread: (n,) how uncertain each prediction is, in tokens.

        Raises:
            ValueError: If a shape or value does not fit.
        """
        one_of("method", method, get_args(Method))
        window = whole("window", window, at_least=1)
        tokens = vector("needed", needed, low=0.0, high=float(LARGEST_BUDGET))
        bad = np.flatnonzero(~((tokens > 0) & (tokens % window == 0)))
        if bad.size:
            raise ValueError(
                f"needed must be positive multiples of the window, {window} tokens, "
                f"got {tokens[bad[0]]:g} in row {bad[0]}"
            )
        if method == "quantile":
            grid = numbers("levels", [] if levels is None else levels).astype(np.float64)
            if grid.ndim != 1 or not grid.size or not (np.diff(grid, prepend=0.0, append=1.0) > 0).all():
                raise ValueError(f"levels must ascend between 0 and 1, got {shown(levels)}")
        elif levels is not None:
            raise ValueError(f"levels are for the method 'quantile', got them with {method!r}")
        else:
            grid = None
        calibrator = cls(np.empty(0), tokens, method, window, grid)
        location, scale = calibrator._check(predicted, spread)
        if len(location) != tokens.size:
            raise ValueError(
                f"predicted must have one row a needed budget ({tokens.size}), got {len(location)}"
            )
        return cls(location, tokens, method, window, grid, scale)

    def budgets(
        self,
        predicted: npt.ArrayLike,
        underrun_rate: float,
        *,
        spread: npt.ArrayLike | None = None,
        max_tokens: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Budgets of which at most `underrun_rate` fall short, over queries like those of the calibration.

        Args:
            predicted: (N,), or (N, L) quantiles, as for `fit`.
            underrun_rate: Share of queries that may be given less than they need.
            spread: (N,), for `scaled`.
            max_tokens: The largest budget there is, a multiple of the window.

        Returns:
            (N,) tokens, multiples of the window, at least one window.

        Raises:
            ValueError: If a shape or value does not fit, or the calibration queries are too few for the rate
                and there is no `max_tokens`.
        """
        if max_tokens is not None:
            max_tokens = whole("max_tokens", max_tokens, at_most=LARGEST_BUDGET)
            if max_tokens < self.window or max_tokens % self.window:
                raise ValueError(
                    f"max_tokens must be a positive multiple of the window, {self.window} tokens, "
                    f"got {max_tokens}"
                )
        _check_rate("underrun_rate", underrun_rate)
        tokens = self._tokens(*self._check(predicted, spread), 1 - underrun_rate)
        if max_tokens is not None:
            tokens = np.minimum(tokens, max_tokens)
        elif np.isinf(tokens).any():
            raise ValueError(
                f"underrun_rate must be at least 1 / (n + 1) = {1 / (self.needed.size + 1):.3g} with "
                f"n = {self.needed.size} calibration queries, or max_tokens be given, got {underrun_rate}"
            )
        above = np.flatnonzero(tokens > LARGEST_BUDGET)
        if above.size:
            raise ValueError(
                f"budgets must be at most {LARGEST_BUDGET} tokens, or max_tokens be given, "
                f"got {tokens[above[0]]:g} for query {above[0]}"
            )
        return tokens.astype(np.int64)

    def probabilities(
        self, predicted: npt.ArrayLike, num_windows: int, *, spread: npt.ArrayLike | None = None
    ) -> FloatArray:
        """How likely each query needs exactly 1, 2, … W windows, by its budgets at 100 underrun rates.

        The share of rates whose budget is k windows: a conformal predictive distribution, read at a
        resolution of 1%. What lies beyond the last window is counted to it.

        Args:
            predicted: (N,), or (N, L) quantiles, as for `fit`.
            num_windows: W, at least 1.
            spread: (N,), for `scaled`.

        Returns:
            (N, W), rows summing to 1: what `ps_alloc.difficulty` takes, with a class a window.
        """
        num_windows = whole("num_windows", num_windows, at_least=1)
        checked = self._check(predicted, spread)
        counts = np.zeros((len(checked[0]), num_windows))
        rows = np.arange(len(counts))
        for level in (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS:
            windows = np.minimum(self._tokens(*checked, level) / self.window, num_windows)
            counts[rows, windows.astype(np.int64) - 1] += 1
        return counts / NUM_LEVELS

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        lists = {name: _listed(getattr(self, name)) for name in ("predicted", "needed", "levels", "spread")}
        write_json(path, {"method": self.method, "window": self.window, **lists})

    @classmethod
    def load(cls, path: str | Path) -> BudgetCalibrator:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is not such a file.
        """
        content: Any = read_json(path)
        try:
            return cls.fit(content.pop("predicted"), content.pop("needed"), **content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} must hold a budget calibration, but {error!r}") from error

    def _tokens(self, predicted: FloatArray, spread: FloatArray | None, level: float) -> FloatArray:
        """(N,) budgets that suffice with probability `level`; infinite where too few queries say so."""
        scores = (self.needed - self.window - self._location(self.predicted, level)) / self._scale(
            self.predicted, self.spread
        )
        score = conformal_quantile(scores, 1 - level)
        reached = self._location(predicted, level) + score * self._scale(predicted, spread)
        windows = np.floor(reached / self.window + ROUNDING) + 1
        return np.maximum(windows, 1) * self.window

    def _location(self, predicted: FloatArray, level: float) -> FloatArray:
        """What the score is added to."""
        if self.method == "multiplicative":
            return np.zeros(len(predicted))
        if self.levels is None:
            return predicted
        # Between two levels in proportion; beyond the outermost, that one.
        right = int(np.clip(np.searchsorted(self.levels, level), 1, max(self.levels.size - 1, 1)))
        if self.levels.size == 1:
            return predicted[:, 0]
        low, high = self.levels[right - 1], self.levels[right]
        share = float(np.clip((level - low) / (high - low), 0, 1))
        return predicted[:, right - 1] * (1 - share) + predicted[:, right] * share

    def _scale(self, predicted: FloatArray, spread: FloatArray | None) -> FloatArray:
        """Tokens that one unit of score adds."""
        if self.method == "multiplicative":
            return predicted
        return np.ones(len(predicted)) if spread is None else spread

    def _check(
        self, predicted: npt.ArrayLike, spread: npt.ArrayLike | None
    ) -> tuple[FloatArray, FloatArray | None]:
        values = numbers("predicted", predicted).astype(np.float64)
        wanted = "(N,)" if self.levels is None else f"(N, {self.levels.size})"
        fits = values.ndim == 1 if self.levels is None else values.shape[1:] == self.levels.shape
        if not fits:
            raise ValueError(f"predicted must be an array of shape {wanted}, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("predicted must be finite numbers of tokens, got NaN or infinity")
        if self.method == "multiplicative" and (values <= 0).any():
            raise ValueError(
                f"predicted must be positive for the method 'multiplicative', got {values.min():g}"
            )
        if (spread is not None) != (self.method == "scaled"):
            given = "none" if spread is None else "one"
            raise ValueError(
                f"spread must be given for the method 'scaled', and for it alone, "
                f"got {given} for {self.method!r}"
            )
        if spread is None:
            return values, None
        scale = numbers("spread", spread).astype(np.float64)
        if scale.shape != values.shape or not ((scale > 0) & np.isfinite(scale)).all():
            raise ValueError(f"spread must be {values.shape} positive numbers, got {shown(scale)}")
        return values, scale


def _check_rate(name: str, rate: float) -> None:
    if not 0 < real(name, rate) < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {rate}")


def _listed(values: FloatArray | None) -> list[Any] | None:
    return None if values is None else values.tolist()
