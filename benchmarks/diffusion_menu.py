r"""Ridge regression beside a small network, as predictors of which schedule serves a question.

    python benchmarks/diffusion_menu.py --table runs/menu/train

Cross-validated on one menu table (`ps-eval menu`) in five parts: both see the same states of the first pass.
Printed are the squared error of predicted accuracies, their correlation with the measured ones (mean over
schedules), and the accuracy of the schedules chosen by them within budgets between the cheapest and the
dearest schedule, costs being the ridge regression's for both.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ps_eval.diffusion.spend import choose
from ps_train.menu.ridge import MenuPredictor
from ps_train.menu.table import MenuTable

FOLDS = 5
SHARES = (0.2, 0.4, 0.6)  # of the way from the cheapest schedule's mean cost to the dearest one's


def networks(seed: int) -> dict[str, Pipeline]:
    """Small ones, stopped early: a thousand questions are few for 384 features and more a layer."""
    made = {}
    for hidden in ((128,), (64, 64)):
        for penalty in (3.0, 10.0, 30.0):
            net = MLPClassifier(
                hidden,
                alpha=penalty,
                early_stopping=True,
                n_iter_no_change=10,
                max_iter=100,
                random_state=seed,
            )
            steps = StandardScaler(), PCA(64, whiten=True, random_state=seed), net
            made[f"network {'-'.join(map(str, hidden))}, penalty {penalty:g}"] = make_pipeline(*steps)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True)
    parser.add_argument("--cost", default="passes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    table = MenuTable.load(arguments.table)
    right, paid = (np.asarray(x, np.float64) for x in (table.accuracy, table.cost(arguments.cost)))
    joined = np.concatenate(list(table.features.values()), 1)
    fold_of = np.random.default_rng(arguments.seed).permutation(len(table)) % FOLDS
    predicted = {name: np.zeros_like(right) for name in ("ridge", *networks(0))}
    costs = np.zeros_like(paid)
    for fold in range(FOLDS):
        kept, out = fold_of != fold, fold_of == fold
        ridge = MenuPredictor.fit(
            {name: x[kept] for name, x in table.features.items()},
            right[kept],
            paid[kept],
            table.tokens[kept],
            options=table.schedules,
            cost_name=arguments.cost,
        )
        expected = ridge.predict({name: x[out] for name, x in table.features.items()})
        predicted["ridge"][out], costs[out] = expected.accuracy, expected.cost
        for name, network in networks(fold).items():
            network.fit(joined[kept], (right[kept] > 0.5).astype(int))
            predicted[name][out] = network.predict_proba(joined[out])
    cheap, dear = paid.mean(0).min(), paid.mean(0).max()
    budgets = [cheap + share * (dear - cheap) for share in SHARES]
    print(f"{len(table)} questions, {len(table.schedules)} schedules; accuracy in % at mean {arguments.cost}")
    print(f"{'':28} error     r " + "".join(f"{budget:8.1f}" for budget in budgets))
    at = np.arange(len(table))
    for name, accuracy in predicted.items():
        r = np.mean([np.corrcoef(accuracy[:, s], right[:, s])[0, 1] for s in range(right.shape[1])])
        reached = [100 * right[at, choose(accuracy, costs, budget)].mean() for budget in budgets]
        error = ((accuracy - right) ** 2).mean()
        print(f"{name:28} {error:.3f} {r:5.2f} " + "".join(f"{x:8.1f}" for x in reached))


if __name__ == "__main__":
    main()
