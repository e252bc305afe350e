"""Samples to a curve table: a token grid from the data, accuracy under a strict cap, and use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ps_eval.logs.sample import Sample
from ps_train.curve_table import CurveTable
from ps_train.light.censored import NO_CAP, WORST, Completed, complete
from ps_train.light.training_inputs import TrainingInputs

POINTS = 20
"""Most budgets of a grid with two an octave (ratio about √2); a longer range has one an octave."""
FEW = 8
"""With fewer budgets than this, a grid has four an octave."""
TAIL = 0.02
"""Share of samples that may be shorter than the first budget."""
CUT_SHARE = 0.005
"""With more samples cut than this, the grid ends where they were cut: beyond, nothing was seen."""
MIN_SEEN = 20
"""Under budgets of their own, the grid ends where fewer answers than this (or 1 in 100) were let go on."""
TRUSTED = 0.05
"""An estimate that may be off by more is warned of."""
MAX_CELLS = 1 << 24


def choose_grid(tokens: npt.NDArray[np.int64], finished: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(W,) budgets 2^k and, but for long ranges, 3 · 2^k that span the samples: about 16.

    Args:
        tokens: (M,) tokens of the samples.
        finished: (M,) whether each ended by itself.
    """
    largest = max(int(tokens.max()), 2)
    smallest = max(int(np.quantile(tokens, TAIL)), 1)
    if (~finished).mean() > CUT_SHARE:
        largest = max(int(np.median(tokens[~finished])), 2)
        smallest = min(smallest, largest)
    octaves = 2 ** np.arange(41, dtype=np.int64)
    grids = []
    for multiples in ((1,), (2, 3), (4, 5, 6, 7)):
        steps = np.unique(np.outer(multiples, octaves))
        first = max(int(np.searchsorted(steps, smallest, side="right")) - 1, 0)
        grids.append(steps[first : int(np.searchsorted(steps, largest)) + 1])
    whole, half, quarter = grids
    grid = quarter if len(half) < FEW else half if len(half) <= POINTS else whole
    if (~finished).mean() > CUT_SHARE and grid[-1] > largest:
        # The last budget is the cap itself.
        grid = np.append(grid[:-1], largest)
    return grid if len(grid) > 1 else np.array([max(grid[0] // 2, 1), max(grid[0], 2)])


def grid_of(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    """(W,) the grid that suits samples: `choose_grid`, up to the largest budget that some were given."""
    tokens = np.array([sample.tokens for sample in samples], np.int64)
    finished = np.array([sample.finished for sample in samples], np.bool_)
    if all(sample.cap is None for sample in samples):
        return choose_grid(tokens, finished)
    # Beyond it, too few were let go on for anything to be seen.
    caps = np.sort([int(NO_CAP) if sample.cap is None else sample.cap for sample in samples])
    largest = int(caps[-min(len(caps), max(MIN_SEEN, len(caps) // 100))])
    grid = choose_grid(tokens, np.ones(len(tokens), np.bool_))
    return grid if largest >= grid[-1] else np.append(grid[grid < largest], largest)


def to_table(
    samples: Sequence[Sample],
    *,
    budgets: npt.NDArray[np.int64] | None = None,
    guess: float = 0.0,
    metadata: dict[str, str] | None = None,
) -> CurveTable:
    """The curve table of graded samples of one task, model and setting.

    Accuracy is that of a strict cap: an answer counts where it ended by itself within the budget and is
    right; one that did not is worth `guess`.

    Args:
        samples: M, each with `correct`.
        budgets: (W,) the grid; by default `choose_grid`.
        guess: Accuracy of an unfinished answer, such as 0.25 where one of four choices is picked blindly.
        metadata: Kept with the table.
    """
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(sample.question_id, len(places)) for sample in samples])
    tokens = np.array([sample.tokens for sample in samples], np.int64)
    correct = np.array([sample.correct for sample in samples], np.float64)
    finished = np.array([sample.finished for sample in samples], np.bool_)
    grid = grid_of(samples) if budgets is None else budgets
    n_traces = np.bincount(rows, minlength=len(places))
    sums = np.zeros((3, len(places), len(grid)))
    completed = _completed(samples, rows, tokens, finished, grid)
    chunk = max(1, MAX_CELLS // len(grid))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        if completed is None:
            within = ((tokens[part, None] <= grid) & finished[part, None]).astype(np.float64)
            used = np.minimum(tokens[part, None], grid).astype(np.float64)
        else:
            within, used = completed.finished[part], completed.use[part]
        np.add.at(sums[0], rows[part], within * correct[part, None] + (1 - within) * guess)
        np.add.at(sums[1], rows[part], used)
        np.add.at(sums[2], rows[part], within)
    curves, use, ended = (sums / n_traces[:, None]).astype(np.float32)
    estimated = 0.0 if completed is None else float((~completed.seen).mean())
    off = 0.0 if completed is None else WORST * float(completed.doubt.max())
    first = {sample.question_id: sample for sample in reversed(samples)}
    chosen = [first[name] for name in places]
    names = sorted({name for sample in samples for name in sample.numbers})
    group = dict(samples[0].group)
    return CurveTable(
        ids=list(places),
        questions=[sample.question for sample in chosen],
        answers=[sample.reference for sample in chosen],
        curves=np.clip(curves, 0, 1),
        n_traces=n_traces.astype(np.int32),
        budgets=grid,
        metadata={
            "model": group.get("model", "unknown"),
            **{role: text for role, text in group.items() if role != "model"},
            "answer": "strict",
            "guess": f"{guess:g}",
            **({"estimated": f"{estimated:.3f}", "off": f"{off:.3f}"} if estimated else {}),
            **(metadata or {}),
        },
        extra={name: _means(samples, rows, len(places), name) for name in names},
        use=np.minimum(use, grid.astype(np.float32)),
        finished=np.clip(ended, 0, 1),
    )


def estimates(table: CurveTable) -> list[str]:
    """What is to be said of a table of answers that were cut: how much is estimated, and how well."""
    said = []
    if "estimated" in table.metadata:
        said.append(
            f"{float(table.metadata['estimated']):.0%} of what stands behind these figures is estimated, not "
            "seen: the answer was cut before; others like it say how it would have gone on"
        )
    if (off := float(table.metadata.get("off", 0))) > TRUSTED:
        said.append(
            f"too few long answers were let go on: the share that ends within a budget may be off by "
            f"{100 * off:.0f} points; log more requests, with larger budgets for some (--explore)"
        )
    return said


def _completed(
    samples: Sequence[Sample],
    rows: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    finished: npt.NDArray[np.bool_],
    grid: npt.NDArray[np.int64],
) -> Completed | None:
    """Answers under budgets of their own, completed by what others show; None where all had the same."""
    if all(sample.cap is None for sample in samples):
        return None
    caps = np.array([NO_CAP if sample.cap is None else sample.cap for sample in samples], np.int64)
    first = np.unique(rows, return_index=True)[1]
    names = sorted({name for sample in samples for name in sample.numbers})
    numbers = {name: [samples[i].numbers.get(name, np.nan) for i in first] for name in names}
    read = TrainingInputs.of([samples[i].question for i in first], numbers)
    return complete(read, rows, tokens, finished, caps, grid)


def _means(
    samples: Sequence[Sample], rows: npt.NDArray[np.int64], n_questions: int, name: str
) -> npt.NDArray[np.float64]:
    """(N,) mean of a number over each question's samples; NaN where none has it."""
    values = np.array([sample.numbers.get(name, np.nan) for sample in samples])
    known = ~np.isnan(values)
    counts = np.bincount(rows[known], minlength=n_questions)
    sums = np.bincount(rows[known], values[known], minlength=n_questions)
    return np.divide(sums, counts, out=np.full(n_questions, np.nan), where=counts > 0)
