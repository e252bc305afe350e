"""What of a language model runs and is trained, by low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch


@dataclass(frozen=True)
class LoraSettings:
    """Which parts of the language model run, and which are trained."""

    r: int = 16
    """Rank of the adapters; 0 for none: the frozen model, or one with its adapters merged."""
    alpha: int = 32
    """An adapter's output is scaled by alpha / r."""
    dropout: float = 0.05
    """Share of an adapter's inputs dropped in training."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Names of the linear layers that get an adapter, in each adapted block."""
    layers: list[int] | None = None
    """Numbers (from 1) of the adapted blocks; all that run where it is not given. The backward pass stops
    at the first."""
    num_layers: int | None = None
    """Blocks that run, from the first; all where it is not given. The state is then `layer_<num_layers>` of
    `ps_train.common.features`: block output, or after the final norm where all blocks run."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen weights. Adapters are float32 whatever it is."""

    def __post_init__(self) -> None:
        faults = []
        if self.r < 0:
            faults.append(f"lora.r must be at least 0, got {self.r}")
        if self.alpha <= 0:
            faults.append(f"lora.alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            faults.append(f"lora.dropout must lie in [0, 1), got {self.dropout}")
        if not self.target_modules:
            faults.append("lora.target_modules must name at least one linear layer, got none")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch knows it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype
