"""Which distance tells questions unlike the training set? On two families of problems.

    python benchmarks/novelty.py

Each measure is fitted on diary problems, on the embedded reasoner's states of them or on their words, and
calibrated alike: of such as it learned from 1% are flagged, each left out in turn (5 folds). Then fresh diary
problems and handovers, the other family, are shown to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ps_train.common.novelty import FOLDS, UNLIKE_SHARE, Novelty
from ps_train.embedded.problem_families import DIARY, HANDOVERS, make_problems
from ps_train.light.inputs import surprise
from ps_train.light.training_inputs import TrainingInputs
from ps_train.load import load_predictor

Rows = npt.NDArray[np.floating]
Measure = Callable[[Rows, Rows], Rows]
"""(N, D) rows learned from, and (M, D) others, to (M,) how strange these are."""
NEIGHBOUR = 10


def mahalanobis(learned: Rows, asked: Rows) -> Rows:
    """The project's."""
    return Novelty.fit(learned).distances(asked)


def neighbour(learned: Rows, asked: Rows) -> Rows:
    """Distance to the tenth nearest neighbour, columns scaled (Sun et al. 2022)."""
    scale = learned.std(axis=0) + 1e-9
    a, b = learned / scale, asked / scale
    squares = (b * b).sum(1)[:, None] + (a * a).sum(1) - 2 * b @ a.T
    return np.sort(squares, axis=1)[:, NEIGHBOUR - 1]


def residual(learned: Rows, asked: Rows) -> Rows:
    """What lies beside the principal axes alone (as in Wang et al. 2022)."""
    fitted = Novelty.fit(learned)
    scaled = (asked - fitted.centre) / fitted.scale
    return (scaled**2).sum(1) - ((scaled @ fitted.axes.T) ** 2).sum(1)


def flagged(measure: Measure, learned: Rows, others: list[Rows]) -> list[float]:
    """Share of each of `others` that lies beyond the limit."""
    folds = np.arange(len(learned)) % FOLDS
    left_out = [measure(learned[folds != fold], learned[folds == fold]) for fold in range(FOLDS)]
    limit = np.quantile(np.concatenate(left_out), 1 - UNLIKE_SHARE)
    return [float((measure(learned, rows) > limit).mean()) for rows in others]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictor", default="embedded:tiny-predictor")
    parser.add_argument("--numbers", type=int, nargs="+", default=[100, 300, 1280, 2560])
    parser.add_argument("--fresh", type=int, default=800)
    settings = parser.parse_args()
    own = [p.question for p in make_problems(max(settings.numbers), 101)]
    fresh = [[p.question for p in make_problems(settings.fresh, 7, [f])] for f in (DIARY, HANDOVERS)]
    predictor = load_predictor(settings.predictor)
    states, *others = (predictor.read(texts)[1].astype(np.float64) for texts in (own, *fresh))
    print("| measure | learned from | diary flagged | handovers flagged |\n|---|---|---|---|")
    for number in settings.numbers:
        for name, measure in (
            ("states: Mahalanobis, probabilistic PCA", mahalanobis),
            ("states: tenth neighbour", neighbour),
            ("states: beside the axes alone", residual),
        ):
            shares = flagged(measure, states[:number], others)
            print(f"| {name} | {number:,} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)
        read = TrainingInputs.of(own[:number])
        fitted = Novelty.fit(read.surprise())
        shares = [
            float(fitted.unlike(surprise(h, read.rarity[h.columns], read.hasher)).mean())
            for h in (read.hasher(texts) for texts in fresh)
        ]
        print(f"| words: surprise | {number:,} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
