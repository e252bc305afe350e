"""BudgetRegressor, the budget model: LoRA on a causal language model, trained on budgets queries need."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_alloc import Allocation
from ps_alloc.files import write_json
from ps_train.budget.data import BudgetDataModule
from ps_train.budget.metrics import BudgetQuality, underrun_rate
from ps_train.budget.net import LEVELS, BudgetNet
from ps_train.budget.targets import Loss, Space
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_predictor import TextPredictor
from ps_train.predictor import CurveSchema

BUDGETS_FILE = "budgets.json"


class BudgetRegressor(LoraModule):
    """Trains a `BudgetNet` on a `BudgetDataModule`, and calibrates it on the validation queries.

    Args:
        lora: What of the language model runs and is trained.
        hidden_sizes: Widths of the head's hidden layers: linear, LayerNorm, ReLU and dropout each.
        dropout: Share of hidden units dropped in training.
        loss: `huber`: one number, a mean that large errors pull less; `pinball`: quantiles at `levels`, which
            do not cross; `bins`: a distribution over at most `num_bins` bins, by cross-entropy.
        space: Errors are measured in `tokens`, or in their `log`: shares. Bins need neither.
        delta: Where the Huber loss turns linear: tokens, or logarithms.
        levels: Levels of the quantiles, also of those read off the bins.
        num_bins: Most bins.
        lr: AdamW's peak step size of the adapters.
        head_lr: Likewise of the head; `lr` where it is not given.
        weight_decay: Decoupled (AdamW).
        warmup_steps: Optimizer steps of linear warm-up.
        schedule: After the warm-up: `constant`, or `linear` or `cosine` to zero over the fit.
        underrun_rates: Shares of queries that may be given less than they need: `test` measures what each
            brings, `predict` writes the budgets.
        predictor: A predictor folder to start from: its weights and settings replace those given here.
        adapter: Adapters to start from: a predictor folder of another kind, on the same language model and
            with the same `lora`.
        frozen_cache: Folder in which to keep what the blocks below the first adapted one make of each text
            (`lora.layers`): they then run once for each text instead of in every epoch. Takes D numbers a
            token.
    """

    architecture = BudgetNet.architecture
    net: BudgetNet
    quality: BudgetQuality

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        hidden_sizes: list[int] = [1024, 256],  # noqa: B006  # jsonargparse shows the default; never mutated
        dropout: float = 0.1,
        loss: Loss = "huber",
        space: Space = "tokens",
        delta: float = 1000.0,
        levels: list[float] = LEVELS,
        num_bins: int = 16,
        lr: float = 2e-4,
        head_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup_steps: int = 500,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
        underrun_rates: list[float] = [0.1, 0.3, 0.5],  # noqa: B006
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(
            lora, lr, head_lr, weight_decay, warmup_steps, schedule, predictor, adapter, frozen_cache
        )
        self.net_settings: dict[str, Any] = {
            "hidden_sizes": hidden_sizes,
            "dropout": dropout,
            "loss": loss,
            "space": space,
            "delta": delta,
            "levels": levels,
            "num_bins": num_bins,
        }
        self.underrun_rates = underrun_rates

    @property
    def budget_data(self) -> BudgetDataModule:
        """The budgets this module is used on.

        Raises:
            ValueError: If the trainer has another kind of data module.
        """
        data = self.data
        if not isinstance(data, BudgetDataModule):
            raise ValueError(f"data must be a BudgetDataModule, got {type(data).__name__}")
        return data

    def build(self) -> BudgetNet:
        """A network that knows the training budgets' scales and, where there are any, curves."""
        data = self.budget_data
        train, val = (data.rows[name].targets for name in ("train", "val"))
        window, budgets, curves = data.window("train"), train["budgets"], train.get("curves")
        most = int(max(budgets.max(), val["budgets"].max())) // window
        num_windows = most if curves is None else curves.shape[1]
        schema = CurveSchema({}, num_windows, window, backbone=data.backbone)
        net = BudgetNet(
            schema,
            self.lora,
            data.format,
            **self.net_settings,
            num_calibration=len(data.rows["val"]),
            has_curves=curves is not None,
        )
        net.head.fit_target(torch.from_numpy(budgets))
        # Without curves: right from the needed budget on.
        steps = budgets[:, None] <= np.arange(1, num_windows + 1) * window
        net.mean_curve.copy_(torch.from_numpy((steps if curves is None else curves).mean(0)))
        if curves is not None:
            net.class_curves.copy_(torch.from_numpy(mean_curves(curves, budgets // window)))
        return net

    def adopt(self, net: TextPredictor) -> None:
        """Measure budgets."""
        assert isinstance(net, BudgetNet)
        super().adopt(net)
        self.quality = BudgetQuality(net.window, net.levels)

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """The target's loss."""
        return self.net.head.target.loss(outputs, batch["budgets"])

    def check_data(self, name: str) -> None:
        """Refuse budgets in other windows than those the predictor was trained on."""
        found = self.budget_data.window(name)
        if found != self.net.window:
            raise ValueError(
                f"the {name} budgets must have the predictor's window, {self.net.window} tokens, got {found}"
            )

    def scored(self, outputs: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Budgets and their quantiles (B, 1 + L), and needed budgets (B,)."""
        return self.net.tokens_of(outputs), batch["budgets"]

    def report(self, name: str) -> dict[str, Tensor]:
        """Log the figures; calibrate on the validation queries, and measure on others what that brings."""
        figures = super().report(name)
        predicted, needed = figures["predicted"], figures["needed"]
        if name == "val":
            size = len(self.budget_data.rows["val"])
            self.net.keep_calibration(figures["rows"], predicted, needed, size)
            return figures
        for rate in self.underrun_rates:
            given = self.net.budgets_at(predicted, rate).astype(np.float64)
            brought = {
                f"underrun_rate_at_{rate:g}": underrun_rate(given, needed.numpy()),
                f"mean_tokens_at_{rate:g}": float(given.mean()),
            }
            self.log_dict({f"{name}/{key}": value for key, value in brought.items()}, sync_dist=True)
        return figures

    def predictions(self, outputs: Tensor) -> Tensor:
        """Budgets and their quantiles (B, 1 + L), then accuracy curves (B, W)."""
        tokens = self.net.tokens_of(outputs)
        return torch.cat([tokens, self.net.curves_of(outputs).to(tokens)], dim=1)

    def write_predictions(self, folder: Path, predictions: Tensor) -> None:
        """Write `budgets.json`, `predictions.npy` and an allocation a rate (docs/formats.md)."""
        width = 1 + len(self.net.levels)
        tokens, curves = predictions[:, :width], predictions[:, width:]
        ids, window = self.data.rows["predict"].ids, self.net.window
        given = {f"{rate:g}": self.net.budgets_at(tokens, rate) for rate in self.underrun_rates}
        super().write_predictions(folder, curves)
        for rate, budgets in given.items():
            total = int(budgets.sum())
            method = f"underrun-{rate}"
            Allocation(budgets // window, window, total, total, method, ids=ids).save(
                folder / "allocations" / f"{method}.json"
            )
        write_json(
            folder / BUDGETS_FILE,
            {
                "window": window,
                "ids": ids,
                "budgets": tokens[:, 0].tolist(),
                "levels": list(self.net.levels),
                "quantiles": tokens[:, 1:].tolist(),
                "tokens": {rate: budgets.tolist() for rate, budgets in given.items()},
            },
        )


def mean_curves(curves: npt.NDArray[np.float32], windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean curve of the queries that need 1, 2, … W windows.

    Args:
        curves: (N, W).
        windows: (N,) windows each needs.

    Returns:
        (W, W); where no query needs so many windows, a step there to the mean best accuracy of all.
    """
    num_windows = curves.shape[1]
    steps = np.triu(np.full((num_windows, num_windows), curves.max(1).mean(dtype=np.float64)))
    for number in np.unique(windows):
        steps[number - 1] = curves[windows == number].mean(0)
    return steps
