"""Grids of token budgets, as words on a command line: `--grid 256,512,1024` or `geometric:256:32768:15`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ps_alloc.predictions import check_budgets

PRESETS = {"paper": "linear:16:256:16", "8k": "geometric:128:8192:13", "32k": "geometric:256:32768:15"}
"""`paper`: its 16 windows of 16. `8k` and `32k`: two points a doubling (docs/long_reasoning.md)."""

MOST_BUDGETS = 4096

SPACINGS: dict[str, Callable[[int, int, int], npt.NDArray[np.float64]]] = {
    "linear": np.linspace,
    "geometric": np.geomspace,
}


def parse_grid(text: str) -> npt.NDArray[np.int64]:
    """The (W,) budgets, strictly rising tokens, that a text stands for.

    Args:
        text: Numbers with commas between; `linear:FIRST:LAST:NUMBER` or `geometric:FIRST:LAST:NUMBER`, both
            ends included and rounded to whole tokens; or one of `PRESETS`.

    Raises:
        ValueError: If it is none of these, or the budgets do not rise.
    """
    spacing, *parts = PRESETS.get(text, text).split(":")
    try:
        numbers = [int(part) for part in (parts or spacing.split(","))]
    except ValueError:
        numbers = []
    if not numbers or (parts and (spacing not in SPACINGS or len(numbers) != 3)):
        raise ValueError(
            "grid must be tokens such as 256,512,1024, or {linear|geometric}:FIRST:LAST:NUMBER, "
            f"or one of {sorted(PRESETS)}, got {text!r}"
        )
    try:
        if not parts:
            return check_budgets(numbers)
        first, last, number = numbers
        if not 1 <= number <= MOST_BUDGETS:
            raise ValueError(f"NUMBER must lie in [1, {MOST_BUDGETS}], got {number}")
        return check_budgets(np.round(SPACINGS[spacing](first, last, number)).astype(np.int64))
    except ValueError as error:
        raise ValueError(f"grid {text!r}: {error}") from error
