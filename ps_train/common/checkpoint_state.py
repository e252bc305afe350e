"""What makes a fit that was killed go on exactly, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where torch's streams of random numbers are, in a process that trains on `device`."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on where `random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def refuse_other_settings(kept: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare a checkpoint's settings with those a fit is to go on with.

    Raises:
        ValueError: Naming the first that differs.
    """
    for name, value in kept.items():
        if name != "num_calibration" and own.get(name, value) != value:
            raise ValueError(
                f"a fit that goes on keeps its settings: {name} must be {value} as in the checkpoint, "
                f"got {own[name]}"
            )


@contextmanager
def born_on_cpu() -> Iterator[None]:
    """Make tensors on the CPU in float32, whatever device and type Lightning builds modules in.

    What a predictor learns from its training rows (scales, edges, curves) is computed there and then; the
    strategy moves the module to its device afterwards.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
