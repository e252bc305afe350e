"""Transfer between two families of diary problems, on the embedded reasoner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.demo import REASONER
from ps_eval.experiments.embedded import shipped_curves, trace_embedded
from ps_eval.experiments.replayed import ridge
from ps_eval.experiments.scores import Scores, score_table
from ps_eval.experiments.settings import EmbeddedSettings
from ps_eval.reporting.record import Outcome
from ps_eval.reporting.tables import points
from ps_train.common.features import extract_features
from ps_train.curve_table import CurveTable

FAMILIES = {
    "sums": ("add", "subtract"),
    "products": ("boxes", "half", "double"),
}
"""Family to its kinds of events. A step of a product takes about twice the tokens of a sum's."""
LAYER = 4


def problem_family(settings: EmbeddedSettings, *, scratch: Path) -> Outcome:
    """Gain on each family by the family that ridge regression on hidden states learned from, and by the
    shipped predictor, which learned from both mixed within problems.

    Args:
        settings: How many problems of each family, and the budgets.
        scratch: Where the traces are kept.
    """
    budgets, num_train = settings.budgets, settings.num_train
    tables: dict[tuple[str, str], CurveTable] = {}
    states = {}
    for shift, (family, kinds) in enumerate(FAMILIES.items()):
        for split, number in (("train", num_train), ("test", settings.num_test)):
            key = family, split
            own_seed = settings.seed + 10 * shift + (split == "train")
            tables[key] = trace_embedded(
                scratch, f"{family}-{split}", number, settings.num_traces, kinds=kinds, seed=own_seed
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
        scores = {name: Scores.of(curves, test, budgets) for name, curves in learned.items()}
        rows += [((tested, name), score) for name, score in scores.items()]
        own = next(s for name, s in scores.items() if name.startswith(tested))
        other = next(s for name, s in scores.items() if not name.startswith((tested, "the shipped")))
        worst.append(float((other.gains - own.gains).min()))
    finding = (
        f"Against learning from the family that is served, learning from the other costs up to "
        f"{-100 * min(worst):.1f} points ({', '.join(FAMILIES)}: "
        f"{', '.join(points(value) for value in worst)})."
    )
    table = score_table("Gain over uniform, points", ["tested on", "learned from"], budgets, rows)
    return Outcome([table], finding)
