"""The budget model's network: the query's text → the reasoning tokens it needs, calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_alloc.conformal import BudgetCalibrator
from ps_alloc.difficulty import difficulty_curves
from ps_train.budget.head import BudgetHead
from ps_train.budget.targets import BudgetTarget, Loss, PointTarget, Space, make_target
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat
from ps_train.common.text_predictor import TextPredictor
from ps_train.schema import CurveSchema

LEVELS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class BudgetNet(TextPredictor):
    """State of the last real token → the budget head's outputs → tokens.

    The calibration queries' predictions and needs are part of the weights: a loaded predictor gives budgets
    at any underrun rate.

    Args:
        schema: What it predicts (`num_windows · window` is the largest budget there is), and the language
            model that reads the queries.
        lora: What of it runs and is trained.
        text: What it reads.
        hidden_sizes: Widths of the head's hidden layers.
        dropout: Share of hidden units dropped in training.
        loss: What is predicted, and how it is learnt: see `ps_train.budget.targets`.
        space: Where errors are measured: in tokens or their logarithm.
        delta: Of the Huber loss.
        levels: Levels of the quantiles; for `huber` there are none.
        num_bins: Most bins, for `bins`.
        num_calibration: Queries in the calibration set.
        has_curves: Whether the training queries had measured curves.
    """

    architecture = "budget_lora"
    head: BudgetHead
    calibration_predicted: Tensor
    """(num_calibration, max(L, 1)) quantiles, or budgets, predicted of them; NaN where not yet."""
    calibration_needed: Tensor
    """(num_calibration,) tokens."""
    class_curves: Tensor
    """(W, W): mean curve of the training queries that need 1, 2, … W windows; (0, W) where unmeasured."""

    def __init__(
        self,
        schema: CurveSchema,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        text: TextFormat | Mapping[str, Any] | None = None,
        hidden_sizes: Sequence[int] = (1024, 256),
        dropout: float = 0.1,
        loss: Loss = "huber",
        space: Space = "tokens",
        delta: float = 1000.0,
        levels: Sequence[float] = LEVELS,
        num_bins: int = 16,
        num_calibration: int = 0,
        has_curves: bool = False,
    ) -> None:
        super().__init__(schema, lora, text)
        self._settings = {
            "hidden_sizes": list(hidden_sizes),
            "dropout": dropout,
            "loss": loss,
            "space": space,
            "delta": delta,
            "levels": list(levels),
            "num_bins": num_bins,
            "has_curves": has_curves,
        }
        target = make_target(loss, space=space, delta=delta, levels=levels, num_bins=num_bins)
        self.head = BudgetHead(self.backbone.hidden_size, target, hidden_sizes, dropout)
        self._make_calibration(num_calibration)
        num_windows = schema.num_windows
        self.register_buffer("class_curves", torch.zeros(num_windows if has_curves else 0, num_windows))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        return {
            **super().settings,
            **self._settings,
            "num_calibration": len(self.calibration_needed),
        }

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the predicted quantiles; none for a point prediction."""
        return self.head.target.levels

    @property
    def max_tokens(self) -> int:
        """The largest budget there is."""
        return self.schema.num_windows * self.window

    # --- calibration ----------------------------------------------------------------------------------------

    def _make_calibration(self, n: int) -> None:
        device = self.mean_curve.device
        shape = n, max(len(self.levels), 1)
        self.register_buffer("calibration_predicted", torch.full(shape, torch.nan, device=device))
        self.register_buffer("calibration_needed", torch.zeros(n, device=device))

    def keep_calibration(self, rows: Tensor, predicted: Tensor, needed: Tensor, size: int) -> None:
        """Replace the calibration set.

        Args:
            rows: (n,) which of the calibration queries; the others are left out.
            predicted: (n, 1 + L): budgets and their quantiles, as `tokens_of` gives them.
            needed: (n,) needed budgets.
            size: Calibration queries in all.
        """
        if size != len(self.calibration_needed):
            self._make_calibration(size)
        self.calibration_predicted.fill_(torch.nan)
        self.calibration_predicted[rows] = (predicted[:, 1:] if self.levels else predicted).to(
            self.calibration_predicted
        )
        self.calibration_needed[rows] = needed.to(self.calibration_needed)

    def calibrate(self, queries: Sequence[str], needed: npt.ArrayLike, *, batch_size: int = 64) -> None:
        """Take other calibration queries: those that look like what is to come.

        Args:
            queries: n queries that the predictor was not trained on.
            needed: (n,) tokens they need, multiples of the window.
            batch_size: Queries in one pass.

        Raises:
            ValueError: If the numbers differ, or as `BudgetCalibrator.fit`.
        """
        tokens = np.asarray(needed, np.float32)
        if tokens.shape != (len(queries),):
            raise ValueError(f"needed must be one budget a query ({len(queries)}), got shape {tokens.shape}")
        predicted = self.tokens_of(self.predict_outputs(queries, batch_size=batch_size))
        rows = torch.arange(len(queries))
        self.keep_calibration(rows, predicted, torch.from_numpy(tokens), len(queries))
        self.calibrator()  # refuses needed budgets that are no multiples of the window

    def calibrator(self) -> BudgetCalibrator:
        """The calibration set, as `make_calibrator` takes it.

        Raises:
            ValueError: If there is no calibration set.
        """
        known = torch.isfinite(self.calibration_predicted).all(1)
        if not known.any():
            raise ValueError(
                "the predictor is not calibrated: fit it with validation queries, or calibrate it"
            )
        predicted = self.calibration_predicted[known].double().cpu().numpy()
        needed = self.calibration_needed[known].double().cpu().numpy()
        return make_calibrator(self.head.target, predicted, needed, self.window)

    # --- predictions ----------------------------------------------------------------------------------------

    def tokens_of(self, outputs: Tensor) -> Tensor:
        """The head's outputs (N, K) to budgets and their quantiles, (N, 1 + L) tokens."""
        target = self.head.target
        return torch.cat([target.budget(outputs)[:, None], target.quantiles(outputs)], dim=1)

    def _for_calibrator(self, tokens: Tensor) -> npt.NDArray[np.float64]:
        """What the calibrator takes of `tokens_of`."""
        values = tokens.double().cpu().numpy()
        return values[:, 1:] if self.levels else values[:, 0]

    def budgets_at(self, tokens: Tensor, underrun_rate: float) -> npt.NDArray[np.int64]:
        """(N,) budgets of which at most `underrun_rate` fall short, from what `tokens_of` gives."""
        return self.calibrator().budgets(
            self._for_calibrator(tokens), underrun_rate, max_tokens=self.max_tokens
        )

    def predict_budgets(
        self, queries: Sequence[str], *, underrun_rate: float | None = None, batch_size: int = 64
    ) -> npt.NDArray[np.float64]:
        """Tokens each query needs.

        Args:
            queries: N texts.
            underrun_rate: Share of queries that may be given less than they need: whole windows, at most
                the largest training budget. Without it the prediction itself, a median, is returned.
            batch_size: Queries in one pass.

        Returns:
            (N,) tokens.

        Raises:
            ValueError: If `queries` is not a list of texts, or the predictor is not calibrated.
        """
        outputs = self.predict_outputs(queries, batch_size=batch_size)
        if not len(queries):
            return np.empty(0)
        tokens = self.tokens_of(outputs)
        if underrun_rate is None:
            return tokens[:, 0].double().cpu().numpy()
        return self.budgets_at(tokens, underrun_rate).astype(np.float64)

    def curves_of(self, outputs: Tensor) -> Tensor:
        """Accuracy curves (N, W): how likely each budget is needed, times the curve of queries that need it.

        With measured curves that is the mean curve of the training queries that need 1, 2, … W windows.
        Without, such a query counts as right from its budget on and as wrong before.
        """
        shares = self.calibrator().probabilities(
            self._for_calibrator(self.tokens_of(outputs)), self.schema.num_windows
        )
        if not len(self.class_curves):
            return torch.from_numpy(shares.cumsum(1).clip(0, 1))
        return torch.from_numpy(difficulty_curves(self.class_curves.cpu().numpy(), probabilities=shares))


def make_calibrator(
    target: BudgetTarget, predicted: npt.NDArray[np.float64], needed: npt.NDArray[np.float64], window: int
) -> BudgetCalibrator:
    """Calibrate what a target predicts: quantiles as such; a point by tokens added, or, learnt in log space,
    by a factor.

    Args:
        target: What was learnt.
        predicted: (n, L) quantiles, or (n, 1) points.
        needed: (n,) tokens.
        window: Tokens a window.
    """
    if target.levels:
        return BudgetCalibrator.fit(predicted, needed, method="quantile", levels=target.levels, window=window)
    is_log = isinstance(target, PointTarget) and target.space == "log"
    return BudgetCalibrator.fit(
        predicted[:, 0], needed, method="multiplicative" if is_log else "additive", window=window
    )
