"""Curve tables whose lengths and accuracies hang on words of the question."""

from __future__ import annotations

import numpy as np

from ps_train.curve_table import CurveTable

GRID = np.array([128, 256, 512, 1024, 2048, 4096])
HARD, EASY = ["integral", "topology", "enzyme", "lattice"], ["sum", "name", "count", "list"]
FILLER = ["consider", "the", "given", "value", "of", "a", "system", "with", "two", "parts", "then", "find"]


def text_table(n: int = 120, *, seed: int = 0, samples: int = 8, use: bool = True) -> CurveTable:
    """Hard words make answers long and often wrong; nothing else matters."""
    rng = np.random.default_rng(seed)
    questions, tokens, right, hints = [], [], [], []
    for _ in range(n):
        hardness = rng.random()
        words = [rng.choice(HARD if rng.random() < hardness else EASY) for _ in range(6)]
        hard = np.mean([word in HARD for word in words])
        questions.append(" ".join(rng.permutation([*words, *rng.choice(FILLER, 8)])) + f" {len(questions)}?")
        tokens.append(np.exp(rng.normal(5.5 + 2.0 * hard, 0.3, samples)).astype(int) + 1)
        right.append(rng.random(samples) < 0.95 - 0.3 * hard)
        hints.append(float(np.exp(5 + 2.0 * hard + rng.normal(0, 0.2))))
    tokens_NS, right_NS = np.array(tokens), np.array(right)
    done = tokens_NS[:, :, None] <= GRID
    used = np.minimum(tokens_NS[:, :, None], GRID).mean(axis=1)
    return CurveTable(
        ids=[str(i) for i in range(n)],
        questions=questions,
        answers=[""] * n,
        curves=(done & right_NS[:, :, None]).mean(axis=1).astype(np.float32),
        n_traces=np.full(n, samples, np.int32),
        budgets=GRID,
        metadata={"model": "toy", "answer": "strict", "grader": "exact"},
        extra={"scout": np.array(hints)},
        use=used.astype(np.float32) if use else None,
    )
