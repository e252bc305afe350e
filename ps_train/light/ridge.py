"""Ridge regression of a few scores on text, counts and numbers, its strength chosen by leaving rows out.

The one part of the light predictor that needs scipy; inference does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, lsqr

Float = npt.NDArray[np.float64]

EXACT_ROWS = 1000
"""Up to so many rows the kernel is decomposed; beyond, LSQR solves and a sample of so many rows chooses."""
STRENGTHS = np.geomspace(0.003, 300, 16)
COUNT_WEIGHTS = (0.03, 0.1, 0.3, 1.0)
"""Variances of the counts' part, where the text's is 1."""
NUMBER_WEIGHTS = (0.3, 1.0, 3.0, 10.0)
HELD_OUT = 0.2
"""Share of rows that tells, beyond `EXACT_ROWS`, what the scores of unseen questions look like."""


@dataclass(frozen=True)
class Ridge:
    """Scores of N questions are text @ `text` + dense @ `dense` + `intercept`; R scores."""

    text: npt.NDArray[np.float32]
    """(D, R)."""
    dense: Float
    """(C, R)."""
    intercept: Float
    """(R,)."""

    def scores(self, text: csr_array, dense: Float) -> Float:
        """(N, R)."""
        return np.asarray(text @ self.text, dtype=np.float64) + dense @ self.dense + self.intercept


@dataclass(frozen=True)
class Choice:
    """The best of the settings of one score."""

    strength: float
    weights: tuple[float, ...]
    """Variance of each dense block."""
    error: float
    """Mean square error of the left-out rows, as a share of the score's variance."""


@dataclass(frozen=True)
class _Kernel:
    """N rows' centred kernel under one weight of each dense block."""

    weights: tuple[float, ...]
    values: Float
    """(N,). Eigenvalues."""
    vectors: Float
    """(N, N)."""


@dataclass(frozen=True)
class _Trial:
    """One score under one setting, in the kernel's terms."""

    choice: Choice
    dual: Float
    """(N,). They sum to 0, as the kernel is centred."""
    left_out: Float
    """(N,). Predictions of each row by all others."""


def fit_ridge(
    text: csr_array,
    blocks: Sequence[Float],
    targets: Float,
    *,
    seed: int = 0,
) -> tuple[Ridge, npt.NDArray[np.int64], Float, list[Choice]]:
    """Fit R scores, each with its own strength and weights of the dense blocks.

    Args:
        text: (N, D) weighted n-grams, rows of length 1 at most.
        blocks: Counts, and numbers where there are any: (N, C_b) each, scaled.
        targets: (N, R).
        seed: Decides the rows that choose and are held out where not all rows can be left out in turn.

    Returns:
        The ridge; row numbers (M,); their scores (M, R) by fits that have not seen them; and the choices.
    """
    rows = np.arange(len(targets))
    rng = np.random.default_rng(seed)
    exact = len(rows) <= EXACT_ROWS
    sample = rows if exact else np.sort(rng.choice(rows, EXACT_ROWS, replace=False))
    kernels = _decompose(text[sample], [block[sample] for block in blocks])
    trials = _try_all(kernels, targets[sample])
    choices = [min((trial.choice for trial in tried), key=lambda choice: choice.error) for tried in trials]
    dense = np.hstack(blocks)
    if exact:
        parts, left_out = zip(
            *(_average(text, blocks, tried, targets[:, r].mean()) for r, tried in enumerate(trials)),
            strict=True,
        )
        return _join(parts), rows, np.stack(left_out, axis=1), choices
    held = np.zeros(len(rows), np.bool_)
    held[rng.choice(rows, min(int(HELD_OUT * len(rows)), 20_000), replace=False)] = True
    trial = _solve(text[~held], [block[~held] for block in blocks], targets[~held], choices)
    scores = trial.scores(text[held], dense[held])
    return _solve(text, blocks, targets, choices), np.flatnonzero(held), scores, choices


def _widths(blocks: Sequence[Float], choice: Choice) -> Float:
    """(C,) what each dense column is multiplied by."""
    pairs = zip(blocks, choice.weights, strict=True)
    return np.concatenate([np.full(block.shape[1], np.sqrt(weight)) for block, weight in pairs])


def _decompose(text: csr_array, blocks: Sequence[Float]) -> list[_Kernel]:
    """The centred kernel of N rows under every weight of the dense blocks, as eigenvalues and vectors."""
    kernel = (text @ text.T).toarray().astype(np.float64)
    found = []
    for weights in product(COUNT_WEIGHTS, *[NUMBER_WEIGHTS] * (len(blocks) - 1)):
        whole = kernel + sum(w * (block @ block.T) for w, block in zip(weights, blocks, strict=True))
        level = whole.mean(axis=0)
        values, vectors = np.linalg.eigh(whole - level - level[:, None] + level.mean())
        found.append(_Kernel(weights, np.maximum(values, 0.0), vectors))
    return found


def _try_all(kernels: Sequence[_Kernel], targets: Float) -> list[list[_Trial]]:
    """Every setting of every score, (R) lists."""
    means = targets.mean(axis=0)
    variances = np.maximum(targets.var(axis=0), 1e-12)
    trials: list[list[_Trial]] = [[] for _ in means]
    for kernel in kernels:
        rotated = kernel.vectors.T @ (targets - means)
        squares = kernel.vectors**2
        for strength in STRENGTHS:
            shrink = kernel.values / (kernel.values + strength)
            # A row with leverage 1 is its own fit: nothing is known of it left out.
            leverage = np.minimum(squares @ shrink + 1 / len(targets), 1 - 1e-6)
            residuals = (targets - means - kernel.vectors @ (shrink[:, None] * rotated)) / (1 - leverage)[
                :, None
            ]
            dual = kernel.vectors @ (rotated / (kernel.values + strength)[:, None])
            for r, error in enumerate((residuals**2).mean(axis=0) / variances):
                choice = Choice(float(strength), kernel.weights, float(error))
                trials[r].append(_Trial(choice, dual[:, r], targets[:, r] - residuals[:, r]))
    return trials


def _average(
    text: csr_array, blocks: Sequence[Float], trials: Sequence[_Trial], mean: float
) -> tuple[tuple[Float, Float, float], Float]:
    """One score's weights and left-out predictions, the mean over settings by the likelihood of their errors.

    Settings that leave about the same error are about as good: a choice among them would be chance.
    """
    errors = np.maximum([trial.choice.error for trial in trials], 1e-12)
    shares = (errors.min() / errors) ** (len(trials[0].dual) / 2)
    shares /= shares.sum()
    dual = sum(share * trial.dual for share, trial in zip(shares, trials, strict=True))
    weights = text.T @ (dual - dual.mean())
    dense_weights = []
    for place, block in enumerate(blocks):
        scaled = sum(
            s * trial.choice.weights[place] * trial.dual for s, trial in zip(shares, trials, strict=True)
        )
        dense_weights.append(block.T @ (scaled - scaled.mean()))
    dense = np.concatenate(dense_weights)
    centre = float((text @ weights + np.hstack(blocks) @ dense).mean())
    left_out = sum(share * trial.left_out for share, trial in zip(shares, trials, strict=True))
    return (weights, dense, mean - centre), left_out


def _solve(text: csr_array, blocks: Sequence[Float], targets: Float, choices: Sequence[Choice]) -> Ridge:
    """Fit N rows' R scores under one setting each, by LSQR on centred columns."""
    dense = np.hstack(blocks)
    means = targets.mean(axis=0)
    text_mean = np.asarray(text.mean(axis=0)).ravel()
    transposed = text.T.tocsr()
    parts = []
    for r, choice in enumerate(choices):
        widths = _widths(blocks, choice)
        scaled = dense * widths
        level = scaled.mean(axis=0)

        def forward(v: Float, scaled: Float = scaled, level: Float = level) -> Float:
            w, u = v[: text.shape[1]], v[text.shape[1] :]
            return text @ w - text_mean @ w + scaled @ u - level @ u

        def backward(e: Float, scaled: Float = scaled, level: Float = level) -> Float:
            return np.concatenate([transposed @ e - text_mean * e.sum(), scaled.T @ e - level * e.sum()])

        shape = (len(targets), text.shape[1] + dense.shape[1])
        operator = LinearOperator(shape, matvec=forward, rmatvec=backward, dtype=np.float64)
        damp = float(np.sqrt(choice.strength))
        found = lsqr(operator, targets[:, r] - means[r], damp=damp, atol=1e-4, btol=1e-4, iter_lim=100)[0]
        weights, dense_weights = found[: text.shape[1]], found[text.shape[1] :] * widths
        centre = text_mean @ weights + dense.mean(axis=0) @ dense_weights
        parts.append((weights, dense_weights, float(means[r] - centre)))
    return _join(parts)


def _join(parts: Sequence[tuple[Float, Float, float]]) -> Ridge:
    text, dense, intercept = zip(*parts, strict=True)
    return Ridge(np.stack(text, axis=1).astype(np.float32), np.stack(dense, axis=1), np.array(intercept))
