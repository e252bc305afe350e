"""Where accuracy does not depend on the budget, no policy may seem to gain, and the guard falls back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ps_alloc import Guard, Predictions
from ps_eval.spending.replay import replay
from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light

N, TRACES = 240, 8
BUDGETS = 256 * 2 ** np.arange(6)


def flat_table(seed: int) -> CurveTable:
    """Hard and easy questions, each as often right under every budget; longer ones think for longer."""
    rng = np.random.default_rng(seed)
    words = rng.integers(5, 40, N)
    truth = rng.choice([0.1, 0.5, 0.9], N)
    kept = rng.random((N, TRACES, 1)) < truth[:, None, None]
    right = np.where(rng.random((N, TRACES, len(BUDGETS))) < 0.9, kept, ~kept)  # answers waver a little
    lengths = 60.0 * words[:, None] * rng.lognormal(0, 0.3, (N, TRACES))
    return CurveTable(
        ids=[f"q{seed}-{i}" for i in range(N)],
        questions=[" ".join(rng.choice(list("abcdefgh"), n)) for n in words],
        answers=["1"] * N,
        curves=right.mean(axis=1).astype(np.float32),
        n_traces=np.full(N, TRACES, np.int32),
        budgets=BUDGETS,
        use=np.minimum(lengths[..., None], BUDGETS).mean(axis=1).astype(np.float32),
    )


def test_flat_curves_show_no_gain_and_the_guard_falls_back() -> None:
    train, validation, test = (flat_table(seed) for seed in (1, 2, 3))
    learned = fit_light(train)
    result = replay(
        test, predictions=learned.predict(test.questions), train=train, policies=["uniform", "hull", "use"]
    )
    cells = {(row.policy, row.budget): row for row in result.rows}
    for budget in BUDGETS[1:-1].tolist():
        for policy in ("hull", "use"):
            row = cells[policy, budget]
            assert abs(row.gain) < 0.04
            assert row.gain_low <= 0 <= row.gain_high

    said = learned.predict(validation.questions)
    tried = [500.0, 1000.0, 1500.0]
    guard = Guard.fit(said.curves, validation.curves, tried, grid=BUDGETS, use=said.use)
    assert not any(guard.allows(budget) for budget in tried)
    predicted = learned.predict(test.questions)
    fallen_back = guard.allocate(predicted.curves, 1000 * N, use=predicted.use)
    assert fallen_back.method == "uniform"


def test_the_oracle_fitted_on_the_other_half_gains_nothing_either() -> None:
    table = flat_table(4)
    halves = tuple(
        replace(table, curves=flat_table_half(table, seed), n_traces=table.n_traces // 2) for seed in (0, 1)
    )
    rows = replay(
        table,
        predictions=Predictions(table.curves, table.budgets, use=table.use),
        halves=halves,
        policies=["uniform", "oracle", "honest_oracle"],
    ).rows
    flattered = [row.gain for row in rows if row.policy == "oracle"]
    honest = [row.gain for row in rows if row.policy == "honest_oracle"]
    assert min(flattered) > 0.05
    assert max(map(abs, honest)) < 0.05


def flat_table_half(table: CurveTable, seed: int) -> np.ndarray:
    """A measurement of its own of the same questions, with half the traces."""
    rng = np.random.default_rng(seed)
    truth = table.curves.mean(axis=1, keepdims=True)
    return (rng.binomial(TRACES // 2, np.tile(truth, len(BUDGETS))) / (TRACES // 2)).astype(np.float32)
