"""Transfer between two families of diary problems, on the embedded reasoner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.demo import REASONER
from ps_eval.experiments.embedded import shipped_curves, trace_embedded
from ps_eval.experiments.record import Outcome, ResultTable, points
from ps_eval.experiments.replayed import ridge
from ps_train.common.features import extract_features
from ps_train.curve.metrics import allocation_gain, per_window_pearson
from ps_train.curve_table import CurveTable

FAMILIES = {
    "sums": ("add", "subtract"),
    "products": ("boxes", "half", "double"),
}
"""Family to its kinds of events. A step of a product takes about twice the tokens of a sum's."""
LAYER = 4


def problem_family(
    *,
    scratch: Path,
    num_train: int,
    num_test: int,
    num_traces: int,
    budgets: list[int],
    seed: int = 0,
) -> Outcome:
    """Gain on each family by the family that ridge regression on hidden states learned from, and by the
    shipped predictor, which learned from both mixed within problems.

    Args:
        scratch: Where the traces are kept.
        num_train: Problems of a family to learn from.
        num_test: Problems of a family to measure on.
        num_traces: Traces a problem.
        budgets: Mean tokens per query.
        seed: Of the problems and traces.
    """
    tables: dict[tuple[str, str], CurveTable] = {}
    states = {}
    for shift, (family, kinds) in enumerate(FAMILIES.items()):
        for split, number in (("train", num_train), ("test", num_test)):
            key = family, split
            own_seed = seed + 10 * shift + (split == "train")
            tables[key] = trace_embedded(
                scratch, f"{family}-{split}", number, num_traces, kinds=kinds, seed=own_seed
            ).table
            states[key] = extract_features(str(REASONER), tables[key].questions, [LAYER])[f"layer_{LAYER}"]
    rows, worst = [], []
    for tested in FAMILIES:
        test = tables[tested, "test"]
        learned: dict[str, npt.NDArray[np.floating]] = {
            **{
                f"{family} ({num_train} problems)": ridge(
                    states[family, "train"], tables[family, "train"].curves, states[tested, "test"]
                )
                for family in FAMILIES
            },
            "the shipped predictor": shipped_curves(test.questions),
        }
        gains = {
            name: allocation_gain(curves, test.curves, window=test.equal_window, budgets=budgets)
            for name, curves in learned.items()
        }
        for name, curves in learned.items():
            r = per_window_pearson(curves, test.curves).mean()
            rows.append([tested, name, f"{r:.3f}", *(points(float(g)) for g in gains[name])])
        own = next(g for name, g in gains.items() if name.startswith(tested))
        other = next(g for name, g in gains.items() if not name.startswith((tested, "the shipped")))
        worst.append(float((other - own).min()))
    finding = (
        f"Against learning from the family that is served, learning from the other costs up to "
        f"{-100 * min(worst):.1f} points ({', '.join(FAMILIES)}: "
        f"{', '.join(points(value) for value in worst)})."
    )
    table = ResultTable(
        "Gain over uniform, points",
        ["tested on", "learned from", "per-window r", *(f"gain at {b}" for b in budgets)],
        rows,
    )
    return Outcome([table], finding)
