"""Learning from answers that were cut: what they would have used, as far as others like them show it.

Of an answer cut at its budget only that it needs more is known. To take the budget for its length, or to
leave it out, makes long answers look short. Here hazards of ending in each segment of the grid are learned
from all that were still running and allowed to go on through the segment (discrete-time survival analysis,
Singer and Willett 1993): first with one score a question, linear in its text, by ridge; then as a smooth
function of that score, as questions left out have it; last, each cut answer is completed by what is expected
of it.
Right where budgets depend on nothing but what the text tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import expit

from ps_train.light.training_inputs import TrainingInputs

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_CAP = np.int64(2**40)
CROSS_FOLDS = 5
"""Folds in which scores are made."""
HAZARD_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
DENSE_WEIGHTS = (0.1, 1.0, 10.0)
"""Variances of the counts' and numbers' part, where the text's is 1."""
SCORE_BINS = 60
RIDGE = 0.3
"""Strength that keeps the hazards of segments smooth where few rows are seen."""
NEWTON_STEPS = 60
WORST = 3
"""Largest error of the finished share over budgets, in largest `doubt`s: `benchmarks/censored.py`."""


@dataclass(frozen=True)
class Completed:
    """M answers under each of W budgets, as expected given what was seen of them."""

    finished: Float
    """(M, W). Probability of having ended by itself."""
    use: Float
    """(M, W). Expected tokens used."""
    seen: Bools
    """(M, W). Whether it is an observation, not an estimate."""
    doubt: Float
    """(W,). Standard error of the mean of `finished`, by how few were let go on (Greenwood 1926), as if the
    hazards had the right form. In simulations the error was up to `WORST` times as much."""


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
    score = _length_scores(read, question, tokens, finished, caps, budgets, seed)[question]
    survival = hazard_survival(score, tokens, finished, caps, budgets)
    finishing, use, seen = expected(survival, tokens, finished, budgets)
    running, ended = _at_risk(tokens, finished, caps, budgets)
    at_risk, events = running.sum(axis=0) + 1.0, ended.sum(axis=0) + 0.5
    known = np.concatenate([[0.0], np.cumsum(events / at_risk / (at_risk - events))])
    # Hazards are everybody's, so the errors of all that were cut go one way.
    start = np.searchsorted(budgets, tokens, side="right")
    spread = np.sqrt(np.maximum(known[1:] - known[start][:, None], 0.0))
    doubt = np.where(seen, 0.0, (1 - finishing) * spread).mean(axis=0)
    return Completed(finishing, use, seen, doubt)


def _length_scores(
    read: TrainingInputs, question: Ints, tokens: Ints, finished: Bools, caps: Ints, budgets: Ints, seed: int
) -> Float:
    """(N,) how long a question's answers run, by fits that have not seen it: minus the log odds of ending.

    Hazards with one score a question, linear in its text, counts and numbers: a ridge in the likelihood of
    what was seen, convex, so that it matters not how budgets were given.
    """
    n_questions = read.text.shape[0]
    running, ended = _at_risk(tokens, finished, caps, budgets)
    at_risk, events = np.zeros((2, n_questions, len(budgets)))
    np.add.at(at_risk, question, running)
    np.add.at(events, question, ended)
    used = np.unique(read.text.indices)
    text = csr_array(read.text[:, used])
    folds = np.random.default_rng(seed).permutation(n_questions) % CROSS_FOLDS

    def inputs(weight: float) -> csr_array:
        return csr_array(hstack([text, csr_array(np.hstack(read.blocks) * np.sqrt(weight))]))

    def fitted(columns: csr_array, rows: Bools, strength: float) -> tuple[Float, Float]:
        return _fit_hazards(columns[rows], at_risk[rows], events[rows], strength)

    held = folds == 0
    best, best_loss = (1.0, 1.0), np.inf
    for weight in DENSE_WEIGHTS:
        columns = inputs(weight)
        for strength in HAZARD_STRENGTHS:
            slopes, levels = fitted(columns, ~held, strength)
            loss = _hazard_loss(columns[held] @ slopes, levels, at_risk[held], events[held])
            if loss < best_loss:
                best, best_loss = (weight, strength), loss
    columns, scores = inputs(best[0]), np.empty(n_questions)
    for fold in range(CROSS_FOLDS):
        inside = folds == fold
        slopes, _ = fitted(columns, ~inside, best[1])
        scores[inside] = -(columns[inside] @ slopes)
    return scores


def _at_risk(tokens: Ints, finished: Bools, caps: Ints, budgets: Ints) -> tuple[Bools, Bools]:
    """(M, W) whether a row counts in a segment, and whether it ended there.

    It counts where it was still running at the segment's start and its cap lies at its end or beyond; with a
    cap inside, whether it ended there by itself would depend on the cap.
    """
    starts = np.concatenate([[0], budgets[:-1]])
    running = (tokens[:, None] > starts) & (caps[:, None] >= budgets)
    return running, running & finished[:, None] & (tokens[:, None] <= budgets)


def _hazard_loss(scores: Float, levels: Float, at_risk: Float, events: Float) -> float:
    """Minus the log likelihood of hazards with these log odds."""
    odds = scores[:, None] + levels
    return float((at_risk * np.logaddexp(0, odds) - events * odds).sum())


def _fit_hazards(columns: csr_array, at_risk: Float, events: Float, strength: float) -> tuple[Float, Float]:
    """Slopes (C,) and a level a segment (W,)."""
    width = at_risk.shape[1]
    seen, happened = at_risk.sum(axis=0), events.sum(axis=0)
    base = np.log((happened + 0.5) / (seen - happened + 0.5))
    across = columns.T.tocsr()

    def loss(values: Float) -> tuple[float, Float]:
        slopes, levels = values[:-width], values[-width:]
        odds = (columns @ slopes)[:, None] + levels
        rest = at_risk * expit(odds) - events
        # Where a segment was seen by none, its level stays at the base.
        off = levels - base
        value = (at_risk * np.logaddexp(0, odds) - events * odds).sum()
        value += strength / 2 * slopes @ slopes + 5e-3 * off @ off
        return float(value), np.concatenate(
            [across @ rest.sum(axis=1) + strength * slopes, rest.sum(axis=0) + 1e-2 * off]
        )

    start = np.concatenate([np.zeros(columns.shape[1]), base])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-7}).x
    return found[:-width], found[-width:]


def hazard_survival(score: Float, tokens: Ints, finished: Bools, caps: Ints, budgets: Ints) -> Float:
    """(M, W) probability of running on after each budget, given the score: logistic hazards of the segments.

    `_at_risk` says which rows count in which.
    """
    z = (score - score.mean()) / (score.std() + 1e-9)
    z = np.clip(z, -4, 4)
    running, ended = _at_risk(tokens, finished, caps, budgets)
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


def expected(survival: Float, tokens: Ints, finished: Bools, budgets: Ints) -> tuple[Float, Float, Bools]:
    """(M, W) each, as in `Completed`: what was seen of each answer, and where it was cut, what `survival`
    (M, W) lets expect: the probability of having ended, the use, and whether it was seen.
    """
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
    within = np.where(seen, ended, 1 - at_end[:, 1:])
    return within, np.minimum(np.where(seen, use, later), budgets), seen
