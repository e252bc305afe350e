"""Learning from answers that were cut: what they would have used, as far as others like them show it.

Of an answer cut at its budget only that it needs more is known. To take the budget for its length, or to
leave it out, makes long answers look short. Here, first, a score of each question's length (ridge, by
expectation maximisation of a censored log-normal: Tobit); then hazards of ending in each segment of the grid,
given the score, from all that were still running and allowed to go on through the segment (discrete-time
survival analysis, Singer and Willett 1993); last, each cut answer is completed by what is expected of it.
Right where budgets depend on nothing but what the text tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from ps_train.light.ridge import EXACT_ROWS, Choice, Kernel, decompose, fit_ridge, solve
from ps_train.light.training_inputs import TrainingInputs

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_CAP = np.int64(2**40)
ROUNDS = 3
"""Of expectation maximisation."""
CROSS_FOLDS = 3
"""Folds in which scores are made where rows are too many to be left out one by one."""
SCORE_BINS = 60
RIDGE = 0.3
"""Strength that keeps the hazards of segments smooth where few rows are seen."""
NEWTON_STEPS = 60


@dataclass(frozen=True)
class Completed:
    """M answers under each of W budgets, as expected given what was seen of them."""

    finished: Float
    """(M, W). Probability of having ended by itself."""
    use: Float
    """(M, W). Expected tokens used."""
    seen: Bools
    """(M, W). Whether it is an observation, not an estimate."""


def complete(
    read: TrainingInputs,
    question: Ints,
    tokens: Ints,
    finished: Bools,
    caps: Ints,
    budgets: Ints,
    *,
    seed: int = 0,
) -> Completed:
    """Complete answers that were cut.

    Args:
        read: N questions.
        question: (M,) the question that each answer is of.
        tokens: (M,) tokens used.
        finished: (M,) whether it ended by itself.
        caps: (M,) budget it was given; `NO_CAP` where none.
        budgets: (W,) the grid; beyond the largest cap there is nothing to learn from.
        seed: Of the folds.
    """
    score = _length_scores(read, question, tokens, finished, seed)[question]
    survival = hazard_survival(score, tokens, finished, caps, budgets)
    return expected(survival, tokens, finished, budgets)


def _length_scores(read: TrainingInputs, question: Ints, tokens: Ints, finished: Bools, seed: int) -> Float:
    """(N,) expected logarithm of a question's lengths, by fits that have not seen it."""
    seen = np.log1p(tokens.astype(np.float64))
    counts = np.bincount(question, minlength=read.text.shape[0])
    target, spread = seen.copy(), float(seen.std()) + 1e-6
    scores = np.zeros(len(counts))
    kernels = decompose(read.text, read.blocks) if len(counts) <= EXACT_ROWS else None
    chosen: dict[int, list[Choice]] = {}
    for _ in range(ROUNDS):
        means = np.bincount(question, target, len(counts)) / np.maximum(counts, 1)
        scores = _left_out(read, kernels, means, seed, chosen)
        distance = (seen - scores[question]) / spread
        # The mean of a normal beyond `distance`, and what its variance lacks.
        ratio = np.exp(-0.5 * distance**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(-distance))
        beyond = scores[question] + spread * ratio
        rest = spread**2 * np.clip(1 + distance * ratio - ratio**2, 0, 1)
        target = np.where(finished, seen, np.maximum(beyond, seen))
        missing = np.where(finished, 0, rest)
        spread = float(np.sqrt(np.mean((target - scores[question]) ** 2 + missing))) + 1e-6
    return scores


def _left_out(
    read: TrainingInputs,
    kernels: Sequence[Kernel] | None,
    target: Float,
    seed: int,
    chosen: dict[int, list[Choice]],
) -> Float:
    """(N,) the target as it is predicted of each question by the others.

    Folds choose their settings in the first round, into `chosen`, and keep them.
    """
    text, blocks = read.text, read.blocks
    if kernels is not None:
        _, _, scores, _ = fit_ridge(text, blocks, target[:, None], seed=seed, kernels=kernels)
        return scores[:, 0]
    folds = np.random.default_rng(seed).permutation(len(target)) % CROSS_FOLDS
    mean, dense = np.empty(len(target)), np.hstack(blocks)
    for fold in range(CROSS_FOLDS):
        inside = folds == fold
        others, columns = text[~inside], [block[~inside] for block in blocks]
        if fold in chosen:
            ridge = solve(others, columns, target[~inside, None], chosen[fold])
        else:
            ridge, _, _, chosen[fold] = fit_ridge(others, columns, target[~inside, None], seed=seed)
        mean[inside] = ridge.scores(text[inside], dense[inside])[:, 0]
    return mean


def hazard_survival(score: Float, tokens: Ints, finished: Bools, caps: Ints, budgets: Ints) -> Float:
    """(M, W) probability of running on after each budget, given the score: logistic hazards of the segments.

    A row counts in a segment where it was still running at its start and its cap lies at its end or beyond;
    with a cap inside, whether it ended there by itself would depend on the cap.
    """
    z = (score - score.mean()) / (score.std() + 1e-9)
    z = np.clip(z, -4, 4)
    starts = np.concatenate([[0], budgets[:-1]])
    running = (tokens[:, None] > starts) & (caps[:, None] >= budgets)
    ended = running & finished[:, None] & (tokens[:, None] <= budgets)
    edges = np.unique(np.quantile(z, np.linspace(0, 1, SCORE_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, z)
    n_bins = len(edges) + 1
    at_risk, events = np.zeros((n_bins, len(budgets))), np.zeros((n_bins, len(budgets)))
    np.add.at(at_risk, bins, running)
    np.add.at(events, bins, ended)
    centres = np.bincount(bins, z, n_bins) / np.maximum(np.bincount(bins, minlength=n_bins), 1)
    weights = _logistic(_design(centres, budgets), at_risk.ravel(), events.ravel(), 6)
    fine = np.linspace(z.min(), z.max() + 1e-9, 200)
    hazards = 1 / (1 + np.exp(-(_design(fine, budgets) @ weights).reshape(len(fine), -1)))
    survival = np.cumprod(1 - hazards, axis=1)
    return np.stack([np.interp(z, fine, column) for column in survival.T], axis=1)


def _design(z: Float, budgets: Ints) -> Float:
    """(len(z) · W, 6 + W): level, slope over log budget, score, its square, products; a term a segment."""
    t = np.log(budgets) - np.log(budgets).mean()
    t /= np.abs(t).max() + 1e-9
    zz, tt = np.repeat(z, len(t)), np.tile(t, len(z))
    smooth = [np.ones_like(zz), tt, zz, zz**2, zz * tt, zz * tt**2]
    return np.hstack([np.column_stack(smooth), np.tile(np.eye(len(t)), (len(z), 1))])


def _logistic(design: Float, at_risk: Float, events: Float, free: int) -> Float:
    """Logistic regression of events among those at risk, by Newton's method; the first `free` weights hardly
    penalised.
    """
    penalty = np.full(design.shape[1], RIDGE)
    penalty[:free] = 1e-3
    weights = np.zeros(design.shape[1])
    total = max(at_risk.sum(), 1.0)
    weights[0] = np.log((events.sum() + 0.5) / (total - events.sum() + 0.5))
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (events - at_risk * chance) - penalty * weights
        bend = (design * (at_risk * chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(bend, slope)
        weights += step / max(1.0, float(np.abs(step).max()) / 2)  # a far step is cut short
        if np.abs(step).max() < 1e-8:
            break
    return weights


def expected(survival: Float, tokens: Ints, finished: Bools, budgets: Ints) -> Completed:
    """What was seen of each answer, and where it was cut, what `survival` (M, W) lets expect."""
    grid = np.concatenate([[0.0], budgets])
    alive = np.column_stack([np.ones(len(tokens)), survival])
    now = tokens.astype(np.float64)
    place = np.clip(np.searchsorted(grid, now, side="right") - 1, 0, len(grid) - 2)
    rows = np.arange(len(now))
    low, high = grid[place], grid[place + 1]
    share = np.clip((now - low) / (high - low), 0, 1)
    still = alive[rows, place] * (1 - share) + alive[rows, place + 1] * share
    still = np.maximum(still, 1e-9)
    ahead = np.clip(alive / still[:, None], 0, 1)
    # From where it was cut: of each further token the share that runs on is used; within a segment, the mean
    # of its ends.
    ends = np.maximum(grid, now[:, None])
    at_end = np.where(grid > now[:, None], ahead, 1.0)
    pieces = np.diff(ends, axis=1) * (at_end[:, 1:] + at_end[:, :-1]) / 2
    seen = finished[:, None] | (budgets <= now[:, None])
    ended = np.where(finished[:, None], now[:, None] <= budgets, 0.0)
    use = np.minimum(now[:, None], budgets.astype(np.float64))
    later = np.where(budgets > now[:, None], now[:, None] + np.cumsum(pieces, axis=1), use)
    return Completed(
        finished=np.where(seen, ended, 1 - at_end[:, 1:]),
        use=np.minimum(np.where(seen, use, later), budgets),
        seen=seen,
    )
