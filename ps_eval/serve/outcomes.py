"""What became of decisions: what predictors are judged by, at a reload and while they serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_eval.logs.spent import spent
from ps_eval.serve.exchange import Exchange
from ps_eval.serve.usage import completion_tokens

Float = npt.NDArray[np.float64]
NO_LIMIT = 2**40


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered request of one question and one answer."""

    question: str
    """In memory alone, and only of the last ones."""
    cap: int
    """Budget that was in force, the gateway's or the client's own; `NO_LIMIT` where none was."""
    tokens: int
    """Reasoning tokens used."""
    finished: bool
    """Ended by itself."""
    row: Float | None = None
    """(W,) accuracy, or (2, W) accuracy and use, as predicted before."""


def outcome_of(exchange: Exchange, row: Float | None) -> Outcome | None:
    """What an exchange brought; None where it was not answered, or tells nothing of one answer."""
    grant = exchange.grant
    if exchange.outcome != "ok" or grant is None or not grant.thinking:
        return None
    if grant.sequences != 1 or len(grant.questions) != 1:
        return None
    found = spent(
        exchange.cap,
        used=exchange.used,
        made=completion_tokens(exchange.observed.usage),
        thought_share=exchange.observed.thought_share,
        finish_reason=exchange.observed.finish_reason or "",
    )
    if found is None:
        return None
    # Cut below its budget, by the client's max_tokens: that was the cap.
    cap = NO_LIMIT if exchange.cap is None else exchange.cap
    cap = cap if found.finished else min(cap, found.tokens)
    return Outcome(grant.questions[0], cap, found.tokens, found.finished, row)


def use_of(rows: npt.ArrayLike, budgets: npt.NDArray[np.int64]) -> Float:
    """(N, W) predicted use of rows (N, 2, W); of rows without it (N, W), what their accuracy lets expect.

    Where accuracy rises with the budget because more answers are finished, the share of its largest value
    that is reached is the share that has ended.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim == 3:
        return rows[:, 1]
    reached = np.maximum.accumulate(rows, axis=1)
    ended = reached / np.maximum(reached[:, -1:], 1e-9)
    before = np.hstack([np.zeros((len(rows), 1)), ended[:, :-1]])
    return np.cumsum((1 - (before + ended) / 2) * np.diff(budgets, prepend=0), axis=1)


def expected_at(use: Float, budgets: npt.NDArray[np.int64], cap: int) -> tuple[float, float]:
    """Tokens that use (W,) expects to be used under a budget, and the probability of ending within it."""
    grid, values = np.concatenate([[0.0], budgets]), np.concatenate([[0.0], use])
    running = np.clip(np.diff(values) / np.diff(grid), 0.0, 1.0)
    # The share still running at a budget lies between the means of the segments on its two sides.
    middle = (grid[1:] + grid[:-1]) / 2
    return float(np.interp(cap, grid, values)), float(1 - np.interp(cap, middle, running))


def loss(use: Float, budgets: npt.NDArray[np.int64], outcome: Outcome) -> float | None:
    """How far predicted use (W,) was from what was seen, in [0, 1]; None where nothing was seen.

    Of each segment of the grid up to the cap it is seen what part of it was used: 1, nothing, or a part. The
    mean over these tokens of the square of predicted minus seen (an integrated Brier score). Segments beyond
    the cap count for no answer, ended or not, so that it is a fair score whatever the budgets.
    """
    grid = np.concatenate([[0.0], budgets])
    inside = grid[1:] <= outcome.cap
    if not inside.any():
        return None
    widths = np.diff(grid)
    seen = np.clip(outcome.tokens - grid[:-1], 0, widths) / widths
    said = np.clip(np.diff(np.concatenate([[0.0], use])) / widths, 0, 1)
    return float((widths * (said - seen) ** 2)[inside].sum() / widths[inside].sum())


def losses(
    forecaster: Any, outcomes: Sequence[Outcome], budgets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(N,) what a forecaster would have lost on these questions, on a grid; NaN where nothing was seen."""
    use = use_of(forecaster([outcome.question for outcome in outcomes]), forecaster.budgets)
    own = np.concatenate([[0.0], forecaster.budgets])
    found = np.full(len(outcomes), np.nan)
    for place, (row, outcome) in enumerate(zip(use, outcomes, strict=True)):
        on_grid = np.interp(budgets, own, np.concatenate([[0.0], row]))
        if (value := loss(on_grid, budgets, outcome)) is not None:
            found[place] = value
    return found
