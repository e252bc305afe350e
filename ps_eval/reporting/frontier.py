"""Policies compared at equal tokens *really used*: interpolated frontiers, paired bootstrap over questions.

A policy run under several budgets is a line: mean accuracy against the mean tokens it really used. Between
two budgets the line is straight: flip a coin for each batch, and that is what is got. At a level of use every
line is read off, and the differences to a reference are taken question by question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_eval.reporting.screen import print_grid
from ps_eval.reporting.statistics import resampled_means

FloatArray = npt.NDArray[np.float64]

REFERENCES = ("uniform", "length", "myopic", "hull")
"""What others are compared with, where it was run: the even spread, the strongest rule without a predictor,
the paper's greedy, granted tokens."""
SIMPLE = ("mix", "length", "myopic", "paper")
"""Policies that anyone could choose instead; the strongest is named beside the finding."""


class Point(NamedTuple):
    """One policy under one budget, N questions."""

    scores: FloatArray
    """(N,) in [0, 1]: 0 or 1 of graded answers, a probability of measured curves."""
    used: FloatArray
    """(N,) reasoning tokens really used."""


@dataclass(frozen=True)
class EqualUse:
    """One policy where it really uses so many tokens a question. Accuracies and gains are shares."""

    mode: str
    """`live` or `replay`."""
    policy: str
    used: float
    """Mean reasoning tokens really used per query."""
    accuracy: float
    low: float
    """Lower end of the 95% bootstrap interval over questions."""
    high: float
    gains: dict[str, list[float]] = field(default_factory=dict)
    """Reference policy to the gain over it at the same use: [gain, low, high]; paired, 95%."""


def equal_use(
    points: Mapping[str, Sequence[Point]],
    levels: Iterable[float],
    *,
    mode: str,
    references: Sequence[str] = REFERENCES,
    share_of: str | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[EqualUse]:
    """Compare policies at equal tokens really used.

    Args:
        points: Policy to its points, one a budget, all of the same N questions.
        levels: Mean tokens used at which to compare. A policy has no row at a level that lies outside the
            use it was run at, and no gain over a reference that was not run there.
        mode: Of the rows: `live` or `replay`.
        references: Policies to compare with, as far as they are there.
        share_of: Levels are shares of this policy's largest mean use, whatever that is each time questions
            are drawn: where it varies with them, a fixed level would be another place on the lines.
        n_resamples: How many times the questions are drawn anew; every line is then drawn anew as well, and
            read at the same level (a line that ends below it is read at its end).
        confidence: Share of the resampled values inside an interval.
        seed: Of the resampling.

    Returns:
        Rows by policy, then by level.
    """
    counts = {name: len(mine) for name, mine in points.items()}
    stacked = np.array([[*p.scores, *p.used] for mine in points.values() for p in mine])
    n_questions = stacked.shape[1] // 2
    scores, used = stacked[:, :n_questions], stacked[:, n_questions:]
    both = resampled_means(np.concatenate([scores, used]), n_resamples, np.random.default_rng(seed))
    chosen = sorted(levels)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    means = np.column_stack([used.mean(1), both[len(scores) :]])
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    if share_of is None:
        top = np.ones(means.shape[1])
    else:
        top = means[starts[share_of] : starts[share_of] + counts[share_of]].max(axis=0)
    places = np.multiply.outer(chosen, top)

    read: dict[str, FloatArray] = {}  # policy → (levels, 1 + resamples); NaN where it was not run
    for name, count in counts.items():
        rows = slice(starts[name], starts[name] + count)
        accuracy = np.column_stack([scores[rows].mean(1), both[: len(scores)][rows]])
        read[name] = _read_lines(means[rows], accuracy, places)
    found = []
    for name, values in read.items():
        for mine, level in enumerate(places[:, 0]):
            line = values[mine]
            if np.isnan(line[0]):
                continue
            gains = {
                reference: [float(gain[0]), *map(float, np.quantile(gain[1:], tails))]
                for reference in references
                if reference in read and reference != name
                if not np.isnan((gain := line - read[reference][mine])[0])
            }
            low, high = np.quantile(line[1:], tails)
            found.append(EqualUse(mode, name, float(level), float(line[0]), float(low), float(high), gains))
    return found


def _read_lines(use: FloatArray, accuracy: FloatArray, levels: FloatArray) -> FloatArray:
    """(P, B) points of B lines to their accuracy at (L, B) levels; NaN outside the first line."""
    order = np.lexsort((accuracy, use), axis=0)
    use, accuracy = np.take_along_axis(use, order, 0), np.take_along_axis(accuracy, order, 0)
    read = np.array(
        [np.interp(levels[:, b], use[:, b], accuracy[:, b]) for b in range(use.shape[1])], dtype=np.float64
    ).T
    # The slack forgives a level that was itself read off a mean.
    outside = (levels[:, 0] < use[0, 0] - 1e-6) | (levels[:, 0] > use[-1, 0] + 1e-6)
    read[outside] = np.nan
    return read


def levels_of(points: Mapping[str, Sequence[Point]], reference: str = "uniform") -> list[float]:
    """Where to compare if nobody says: the tokens that the reference really uses under its budgets."""
    return sorted({float(p.used.mean()) for p in points.get(reference, ())})


def print_equal_use(rows: Sequence[EqualUse], console: Console) -> None:
    """Print policies × tokens used: accuracy in %, and below it the gain over each reference in points."""
    for mode in dict.fromkeys(row.mode for row in rows):
        mine = [row for row in rows if row.mode == mode]
        levels = sorted({row.used for row in mine})
        shown = [name for name in REFERENCES if any(name in row.gains for row in mine)]
        console.print(
            f"{mode}, at equal reasoning tokens really used: accuracy in %, below it gains in points "
            "(* clear of 0)"
        )
        cells = {(row.policy, row.used): row for row in mine}
        table = []
        for policy in dict.fromkeys(row.policy for row in mine):
            others = [name for name in shown if name != policy]
            name = "\n".join([policy, *(f" over {other}" for other in others)])
            table.append([name, *(_cell(cells.get((policy, level)), others) for level in levels)])
        print_grid(console, ["tokens used", *(f"{level:.0f}" for level in levels)], table)


def _cell(row: EqualUse | None, references: Sequence[str]) -> str:
    """A line of accuracy and one for each reference; a dash where it was not run."""
    if row is None:
        return "– "
    lines = [f"{100 * row.accuracy:.1f} "]
    for reference in references:
        if reference in row.gains:
            gain, low, high = row.gains[reference]
            lines.append(f"{100 * gain:+.1f}{'*' if low > 0 or high < 0 else ' '}")
        else:
            lines.append("– ")
    return "\n".join(lines)


def equal_use_headline(rows: Sequence[EqualUse], label: Callable[[str], str]) -> str:
    """The clearest gain over uniform at equal use in one sentence, beside the strongest simple policy there.

    Args:
        rows: Of one run; live ones are preferred.
        label: A policy's name for people.

    Returns:
        Empty where nothing was compared with uniform.
    """
    for mode in ("live", "replay"):
        able = [r for r in rows if r.mode == mode and "uniform" in r.gains and "oracle" not in r.policy]
        if not able:
            continue
        best = max(able, key=lambda row: row.gains["uniform"][1])
        gain, low, high = (100 * value for value in best.gains["uniform"])
        line = [r for r in able if r.policy == best.policy]
        gains = [100 * r.gains["uniform"][0] for r in line]
        simple = [r for r in able if r.policy in SIMPLE and r.used == best.used and r.policy != best.policy]
        strongest = max(simple, key=lambda row: row.accuracy, default=None)
        beside = f" and {label(strongest.policy)} on {100 * strongest.accuracy:.1f}%" if strongest else ""
        text = (
            f"At {best.used:.0f} tokens really used a question ({mode}): {label(best.policy)} is right on "
            f"{100 * best.accuracy:.1f}%, uniform on {100 * best.accuracy - gain:.1f}%{beside}; "
            f"{gain:+.1f} points over uniform [{low:+.1f}, {high:+.1f}]"
        )
        if len(line) > 1:
            first, last = min(r.used for r in line), max(r.used for r in line)
            text += f"; {min(gains):+.1f} to {max(gains):+.1f} from {first:.0f} to {last:.0f} tokens"
        return (
            f"{text}."
            if low > 0
            else f"No policy's gain is clear of 0. The best: {text[0].lower()}{text[1:]}."
        )
    return ""
