"""Optimizer and learning-rate schedule: settings written once, made by torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Adam where nothing decays)."""

    lr: float = 1e-3
    """Peak step size."""
    weight_decay: float = 0.0
    """Decoupled: the share of each weight that a step of size 1 takes away."""

    def __post_init__(self) -> None:
        faults = [
            f"optimizer.{name} must be at least 0, got {value}"
            for name, value in vars(self).items()
            if name.endswith("lr") and value is not None and not value >= 0
        ]
        if not self.weight_decay >= 0:
            faults.append(f"optimizer.weight_decay must be at least 0, got {self.weight_decay}")
        if faults:
            raise ValueError("; ".join(faults))


@dataclass(frozen=True)
class LoraOptimizerSettings(OptimizerSettings):
    """AdamW with a step size for the adapters and one for the head on top."""

    lr: float = 2e-4
    """Peak step size of the adapters."""
    weight_decay: float = 0.01
    """Decoupled: the share of each weight that a step of size 1 takes away."""
    head_lr: float | None = None
    """Peak step size of the head; `lr` where it is not given."""


@dataclass(frozen=True)
class ScheduleSettings:
    """How the step size changes over a fit, by the optimizer step."""

    shape: Shape = "constant"
    """After the warm-up: `constant`, or `linear` or `cosine` to zero at the end of the fit."""
    warmup_steps: int = 0
    """Optimizer steps over which the step size rises linearly from 1/`warmup_steps` of its peak."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps must be at least 0, got {self.warmup_steps}")


def make_optimizer(
    groups: Iterable[dict[str, Any]],
    optimizer: OptimizerSettings,
    schedule: ScheduleSettings,
    total_steps: float,
) -> Any:
    """What `configure_optimizers` returns.

    Args:
        groups: Parameter groups as torch takes them; empty ones are left out.
        optimizer: Step size and weight decay of groups that have none of their own.
        schedule: How the step sizes change.
        total_steps: Optimizer steps of the fit; infinite where nothing ends it but time.

    Raises:
        ValueError: If the fit is shorter than the warm-up, or its length unknown to a schedule that needs it.
    """
    adamw = AdamW(
        [group for group in groups if group["params"]], lr=optimizer.lr, weight_decay=optimizer.weight_decay
    )
    if schedule.shape == "constant" and not schedule.warmup_steps:
        return adamw
    return {
        "optimizer": adamw,
        "lr_scheduler": {"scheduler": make_scheduler(adamw, schedule, total_steps), "interval": "step"},
    }


def make_scheduler(optimizer: Optimizer, schedule: ScheduleSettings, total_steps: float) -> LRScheduler:
    """A warm-up, then the schedule's shape to the end of `total_steps`; see `make_optimizer`."""
    if math.isinf(total_steps):
        if schedule.shape != "constant":
            raise ValueError(
                f"schedule.shape {schedule.shape} needs a fit of known length: give trainer.max_epochs or "
                "trainer.max_steps, or take constant"
            )
        total_steps = schedule.warmup_steps + 1
    warmup, total = schedule.warmup_steps, int(total_steps)
    if warmup and warmup >= total:
        raise ValueError(
            f"schedule.warmup_steps must be below the fit's {total} optimizer steps, got {warmup}"
        )
    rest: LRScheduler
    if schedule.shape == "cosine":
        rest = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1))
    else:
        end = 0.0 if schedule.shape == "linear" else 1.0
        rest = LinearLR(optimizer, start_factor=1.0, end_factor=end, total_iters=max(total - warmup, 1))
    if not warmup:
        return rest
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(warmup - 1, 1))
    return SequentialLR(optimizer, [rise, rest], milestones=[warmup])
