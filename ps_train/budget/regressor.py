"""BudgetRegressor, the budget model: LoRA on a causal language model, trained on budgets queries need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_alloc import Allocation
from ps_alloc.files import write_json
from ps_train.budget.metrics import BudgetQuality, underrun_rate
from ps_train.budget.net import LEVELS, BudgetNet
from ps_train.budget.targets import Loss, Space
from ps_train.common.heads import HeadSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.optimization import LoraOptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.predictions import write_curves
from ps_train.schema import CurveSchema

BUDGETS_FILE = "budgets.json"


class BudgetRegressor(LoraModule):
    """Trains a `BudgetNet`, and calibrates it on the validation queries.

    Batches hold `input_ids` and `attention_mask` (B, L), `budgets` (B,) and `rows` (B,).

    Args:
        lora: What of the language model runs and is trained.
        head: The network on top: linear, LayerNorm, ReLU and dropout for each hidden layer.
        loss: `huber`: one number, a mean that large errors pull less; `pinball`: quantiles at `levels`, which
            do not cross; `bins`: a distribution over at most `num_bins` bins, by cross-entropy.
        space: Errors are measured in `tokens`, or in their `log`: shares. Bins need neither.
        delta: Where the Huber loss turns linear: tokens, or logarithms.
        levels: Levels of the quantiles, also of those read off the bins.
        num_bins: Most bins.
        optimizer: Step sizes and weight decay.
        schedule: How the step sizes change.
        underrun_rates: Shares of queries that may be given less than they need: `test` measures what each
            brings, `predict` writes the budgets.
        predictor: See `LoraModule`.
        adapter: See `LoraModule`.
        frozen_cache: See `LoraModule`.
    """

    architecture = BudgetNet.architecture
    learns = ("budgets",)
    net: BudgetNet
    quality: BudgetQuality

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        head: HeadSettings = HeadSettings([1024, 256], 0.1),  # noqa: B008
        loss: Loss = "huber",
        space: Space = "tokens",
        delta: float = 1000.0,
        levels: list[float] = LEVELS,
        num_bins: int = 16,
        optimizer: LoraOptimizerSettings = LoraOptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings("linear"),  # noqa: B008
        underrun_rates: list[float] = [0.1, 0.3, 0.5],  # noqa: B006  # jsonargparse shows the default
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(lora, head, optimizer, schedule, predictor, adapter, frozen_cache)
        if not all(0 < rate < 1 for rate in underrun_rates):
            raise ValueError(f"underrun_rates must lie between 0 and 1, got {underrun_rates}")
        self.target_settings: dict[str, Any] = {
            "loss": loss,
            "space": space,
            "delta": delta,
            "levels": levels,
            "num_bins": num_bins,
        }
        self.underrun_rates = underrun_rates

    def build(self, rows: Rows) -> BudgetNet:
        """A network that knows the training budgets' scales and, where there are any, curves.

        The largest budget there is may stand among the validation queries alone.
        """
        held_out = self.rows.get("val")
        budgets, curves = rows.targets["budgets"], rows.targets.get("curves")
        window = int(rows.source.get("window", "1"))
        most = int(budgets.max())
        if held_out is not None:
            most = max(most, int(held_out.targets["budgets"].max()))
        num_windows = most // window if curves is None else curves.shape[1]
        known = rows.schema or CurveSchema({}, 0, window)
        schema = CurveSchema(
            {}, num_windows, window, backbone=known.backbone, identities=dict(known.identities)
        )
        net = BudgetNet(
            **{**self.net_arguments(rows), "schema": schema},
            **self.target_settings,
            num_calibration=0 if held_out is None else len(held_out),
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
        super().adopt(net)
        assert isinstance(net, BudgetNet)
        self.quality = BudgetQuality(net.window, net.levels)

    def check_rows(self, name: str) -> None:
        """Refuse budgets in other windows than those the predictor was trained on."""
        super().check_rows(name)
        found = self.rows[name].source.get("window") if name in self.rows else None
        if found is not None and int(found) != self.net.window:
            raise ValueError(
                f"the {name} budgets must have the predictor's window, {self.net.window} tokens, got {found}"
            )

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """The target's loss."""
        return self.net.head.target.loss(outputs, batch["budgets"])

    def scored(self, outputs: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Budgets and their quantiles (B, 1 + L), and needed budgets (B,)."""
        return self.net.tokens_of(outputs), batch["budgets"]

    def report(self, name: str) -> dict[str, Tensor]:
        """Log the figures; of queries that were not calibrated on, also what the calibration brings."""
        figures = super().report(name)
        _, predicted, needed = self.quality.seen
        for rate in self.underrun_rates if name != "val" else ():
            given = self.net.budgets_at(torch.from_numpy(predicted), rate).astype(np.float64)
            brought = {
                f"underrun_rate_at_{rate:g}": underrun_rate(given, needed),
                f"mean_tokens_at_{rate:g}": float(given.mean()),
            }
            self.log_dict({f"{name}/{key}": value for key, value in brought.items()})
        return figures

    def keep_held_out(self) -> None:
        """Calibrate on the validation queries."""
        super().keep_held_out()
        rows, predicted, needed = (self.held_out[name] for name in ("rows", "predicted", "measured"))
        size = len(self.rows["val"]) if "val" in self.rows else int(rows.max()) + 1
        self.net.keep_calibration(rows, predicted, needed, size)

    def forget_held_out(self) -> None:
        """The calibration with it."""
        super().forget_held_out()
        self.net.calibration_predicted.fill_(torch.nan)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Budgets and their quantiles (B, 1 + L), then accuracy curves (B, W)."""
        tokens = self.net.tokens_of(outputs)
        return torch.cat([tokens, self.net.curves_of(outputs).to(tokens)], dim=1)

    def write_predictions(self, folder: Path, predictions: Tensor, ids: list[str] | None) -> list[Path]:
        """Write `budgets.json`, predicted curves and an allocation a rate (docs/formats.md)."""
        width = 1 + len(self.net.levels)
        tokens, curves = predictions[:, :width], predictions[:, width:]
        window = self.net.window
        given = {f"{rate:g}": self.net.budgets_at(tokens, rate) for rate in self.underrun_rates}
        said = curves.numpy().astype(np.float32)
        written = write_curves(folder, said, self.net.schema, ids, self.unlike)
        for rate, budgets in given.items():
            total = int(budgets.sum())
            method = f"underrun-{rate}"
            written.append(folder / "allocations" / f"{method}.json")
            Allocation(budgets // window, window, total, total, method, ids=ids).save(written[-1])
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
        return [folder / BUDGETS_FILE, *written]


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
