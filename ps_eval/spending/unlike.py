"""Questions unlike those a predictor learned from: they are counted, and have the mean curve if so chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ps_alloc import Predictions
from ps_train.common.novelty import NOVELTY_FILE, how_many_unlike

Choice = Literal["keep", "mean"]
KEEP: Final = "keep"
MEAN: Final = "mean"
CANNOT_TELL = (
    f"unlike {MEAN!r} needs a predictor that tells unlike questions, but its folder has no {NOVELTY_FILE}: "
    "ps-train novelty adds one"
)
LOUD_SHARE = 0.05
"""From this share on it stands in the title of a table, not below."""


def check_unlike(choice: str) -> str:
    """What to do with them: `keep` what was predicted, or take the `mean` of the training questions.

    Raises:
        ValueError: If it is neither.
    """
    if choice not in (KEEP, MEAN):
        raise ValueError(f"unlike must be {KEEP} or {MEAN}, got {choice!r}")
    return choice


def fall_back(said: Predictions, means: Mapping[str, Any], choice: str) -> Predictions:
    """Predictions in which unlike questions have the training questions' mean curve and use, if so chosen.

    Args:
        said: What was predicted.
        means: `mean_curve` (W,), and `mean_use` (W,) where use was predicted.
        choice: `keep` or `mean`.

    Raises:
        ValueError: If means are asked for but not there, or it is not known who is unlike.
    """
    if check_unlike(choice) == KEEP:
        return said
    if said.unlike is None:
        raise ValueError(CANNOT_TELL)
    if "mean_curve" not in means:
        raise ValueError(f"unlike {MEAN!r} needs a predictor or a table of training questions, got neither")
    rows = said.unlike[:, None]
    use = said.use
    if use is not None:
        use = np.where(rows, means.get("mean_use", said.budgets), use).astype(use.dtype)
    curves = np.where(rows, means["mean_curve"], said.curves).astype(said.curves.dtype)
    return replace(said, curves=curves, use=use)


def say_unlike(unlike: npt.NDArray[np.bool_] | None, choice: str) -> tuple[list[str], list[str]]:
    """Sentences for a table's title, where many are unlike, and for below it.

    Args:
        unlike: (N,) who is; None: not known.
        choice: What was done about it.
    """
    said = how_many_unlike(unlike)
    if unlike is not None and unlike.any():
        said += (
            " They have its mean curve." if choice == MEAN else f" --unlike {MEAN} gives them its mean curve."
        )
    if unlike is not None and unlike.mean() > LOUD_SHARE:
        return [said.removesuffix(".")], []
    return [], [said]
