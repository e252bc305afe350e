"""The whole of an assessment: cross-validated predictions, policies at equal use, verdict; and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_eval.assess.folds import MANY, MIN_QUESTIONS, Refits, by_length, make_folds
from ps_eval.assess.points import (
    mixed_points,
    priced_points,
    resampled_oracle_points,
    split_oracle_points,
    uniform_points,
)
from ps_eval.assess.verdict import judge, mean_line, saved_share
from ps_eval.assess.widening import widened
from ps_eval.logs.sample import Sample
from ps_eval.reporting.frontier import EqualUse, Point, equal_use
from ps_train.curve_table import CurveTable
from ps_train.light.inputs import Numbers

ASSESSMENT_FILE = "assessment.json"
LEVELS = (0.125, 0.25, 0.375, 0.5, 0.75)
"""Shares of the tokens used without a limit: where the verdict looks, and the table if nobody says."""


@dataclass(frozen=True)
class Assessment:
    """What was found of one task, model and setting."""

    rows: list[EqualUse]
    """Policies at equal tokens really used."""
    saved: dict[float, float | None]
    """Level of use to the share of tokens that the prediction saves at uniform's accuracy there."""
    pays: bool
    verdict: str
    policy: str
    """The one judged: `predicted`, or `predicted_scout` where a scout is asked and is worth its price."""
    saved_tokens_share: float
    """At the middle level of those judged where it is known; 0 where the verdict is no."""
    n_questions: int
    n_samples: int
    mean_tokens: float
    """Used without a limit."""
    points: dict[str, list[Point]]

    def record(self) -> dict[str, Any]:
        """As JSON (docs/formats.md)."""
        rows = []
        for row in self.rows:
            gain = row.gains.get("uniform")
            rows.append(
                {
                    "policy": row.policy,
                    "mean_used": row.used,
                    "accuracy": row.accuracy,
                    "low": row.low,
                    "high": row.high,
                    "gain": None if gain is None else gain[0],
                    "gain_low": None if gain is None else gain[1],
                    "gain_high": None if gain is None else gain[2],
                    "saved_tokens_share": self.saved.get(row.used) if row.policy == self.policy else None,
                }
            )
        return {
            "rows": rows,
            "verdict": self.verdict,
            "pays": self.pays,
            "saved_tokens_share": self.saved_tokens_share,
            "n_questions": self.n_questions,
            "n_samples": self.n_samples,
            "mean_tokens": self.mean_tokens,
        }


def assess(
    table: CurveTable,
    samples: Sequence[Sample] | None = None,
    *,
    used: Sequence[float] = (),
    guess: float = 0.0,
    numbers: Numbers | None = None,
    scout: npt.NDArray[np.float64] | None = None,
    scout_price: float = 0.1,
    cap: int | None = None,
    n_folds: int = 10,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Assessment:
    """Cross-validate the light predictor by question, and compare policies at equal tokens really used.

    Args:
        table: N questions with texts, accuracy and use.
        samples: What the table was made of: the oracle then decides on one half and is scored on the other.
            Without them it decides on a resample of the curves.
        used: Mean tokens used at which to compare; by default five shares of the unlimited use.
        guess: Accuracy of a question that is given nothing.
        numbers: Further columns the prediction may read, at no cost.
        scout: (N,) tokens that a cheaper model took; NaN where not known. A policy of its own reads it.
        scout_price: What a scout's token costs, where the model's own costs 1.
        cap: The budget that is in force.
        n_folds: Folds; five where there are many questions.
        n_resamples: Of the bootstrap over questions.
        seed: Of folds and bootstrap.

    Raises:
        ValueError: If there are too few questions or no texts, or a number does not fit.
    """
    _check(table, used, guess, scout_price, cap, n_folds, numbers, scout)
    folds = make_folds(table.questions, n_folds if len(table) < MANY else min(n_folds, 5), seed)
    fits: dict[str, tuple[Refits, npt.NDArray[np.float64] | float]] = {
        "predicted": (Refits(table, folds, numbers=numbers), 0.0)
    }
    if scout is not None:
        read = Refits(table, folds, numbers={**(numbers or {}), "scout_tokens": scout})
        fits["predicted_scout"] = (read, scout_price * np.nan_to_num(scout))
    points = {
        "uniform": uniform_points(table),
        "mix": mixed_points(table, guess),
        "length": priced_points(table, by_length(table, folds), guess),
        **{
            name: priced_points(table, fit.left_out(), guess, charged=charged)
            for name, (fit, charged) in fits.items()
        },
    }
    if samples is None:
        points["oracle"] = resampled_oracle_points(table, guess, seed)
    elif len(samples) >= 1.9 * len(table):
        points["oracle"] = split_oracle_points(table, samples, guess)
    uniform = [float(point.used.mean()) for point in points["uniform"]]
    judged = _levels(uniform)
    policy = _better(points, list(fits), judged)
    levels = sorted(set(used)) if used else judged
    compared = equal_use(
        points,
        sorted({*levels, *judged}),
        mode="replay",
        references=("uniform", "mix"),
        n_resamples=n_resamples,
        seed=seed,
    )
    everywhere = []
    for name in points:
        mine = [row for row in compared if row.policy == name]
        everywhere += widened(mine, *fits[name], guess, seed=seed) if name in fits else mine
    saved = {level: saved_share(points, policy, level) for level in sorted({*levels, *judged})}
    known = [share for level in judged if (share := saved[level]) is not None]
    shares = np.ones(len(table.budgets)) if table.finished is None else table.finished.mean(axis=0)
    in_force = len(shares) - 1 if cap is None else int(np.searchsorted(table.budgets[:-1], cap))
    pays, verdict = judge(
        [row for row in everywhere if row.used in judged],
        policy=policy,
        uniform=points["uniform"],
        cap=cap,
        finished=float(shares[in_force]),
        ended=float(shares[-1]),
        saved=saved,
    )
    return Assessment(
        rows=[row for row in everywhere if row.used in levels],
        saved=saved,
        pays=pays,
        verdict=verdict,
        policy=policy,
        saved_tokens_share=known[len(known) // 2] if known and pays else 0.0,
        n_questions=len(table),
        n_samples=int(table.n_traces.sum()),
        mean_tokens=uniform[-1],
        points=points,
    )


def _levels(uniform: Sequence[float]) -> list[float]:
    """Shares of the unlimited use, in two digits, no lower than the even spread was run."""
    digits = [float(f"{share * uniform[-1]:.2g}") for share in LEVELS]
    inside = sorted({level for level in digits if uniform[0] <= level <= uniform[-1]})
    return inside or [float(uniform[0])]


def _better(points: Mapping[str, Sequence[Point]], policies: Sequence[str], levels: Sequence[float]) -> str:
    """The policy that is more accurate over the levels."""

    def accuracy(policy: str) -> float:
        return float(np.interp(levels, *mean_line(points[policy])).mean())

    return max(policies, key=accuracy)


def _check(
    table: CurveTable,
    used: Sequence[float],
    guess: float,
    scout_price: float,
    cap: int | None,
    n_folds: int,
    numbers: Numbers | None,
    scout: npt.NDArray[np.float64] | None,
) -> None:
    if len(table) < MIN_QUESTIONS:
        raise ValueError(f"an assessment needs at least {MIN_QUESTIONS} questions, got {len(table)}")
    if not any(text.strip() for text in table.questions) and not numbers and scout is None:
        raise ValueError("the samples must have their questions' texts: give them with --questions FILE")
    texts = {text if text.strip() else f"\0 {row}" for row, text in enumerate(table.questions)}
    if len(texts) < MIN_QUESTIONS:
        raise ValueError(
            f"an assessment needs at least {MIN_QUESTIONS} questions of different texts, got {len(texts)}"
        )
    if not table.expected_use[:, -1].any():
        raise ValueError("the samples must have used tokens, but all of them took 0")
    for level in used:
        if not level > 0:
            raise ValueError(f"used must be positive mean tokens, got {level}")
    if not 0 <= guess <= 1:
        raise ValueError(f"guess must be an accuracy in [0, 1], got {guess}")
    if not scout_price >= 0:
        raise ValueError(f"scout_price must be at least 0, got {scout_price}")
    if cap is not None and cap < 1:
        raise ValueError(f"budget must be at least 1 token, got {cap}")
    if not 3 <= n_folds <= len(table):
        raise ValueError(f"folds must be from 3 to the number of questions, got {n_folds}")
