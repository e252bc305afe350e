"""Is `ps-eval assess` right? Simulated samples whose truth is known: bias, intervals, how often it says yes.

    python benchmarks/assess_worlds.py noise --sets 250
    python benchmarks/assess_worlds.py telling --sets 150

`telling`: words say how long answers take; `partly`, `weak`: half of it, a little; `noise`: questions differ,
and words say nothing of it; `alike`: all are alike. Truth is the mean over all sets of what the policies
bring on the questions' true curves. Sets are kept in `--output` as they are done; a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from ps_eval.assess.assessment import LEVELS, assess
from ps_eval.assess.folds import Refits, make_folds
from ps_eval.assess.points import mixed_points, priced_points, uniform_points
from ps_eval.assess.verdict import mean_line
from ps_eval.logs.sample import Sample
from ps_eval.logs.table import to_table
from ps_train.curve_table import CurveTable

sys.path.append(str(Path(__file__).parents[1]))

from tests.ps_train.light_tables import EASY, FILLER, HARD

SPREAD = 0.35
"""Of the logarithm of one question's lengths."""
POLICIES = ("uniform", "mix", "predicted")


def world(name: str, n: int, samples: int, seed: int) -> tuple[list[Sample], np.ndarray, np.ndarray]:
    """Samples, and each question's mean log length and chance to be right."""
    rng = np.random.default_rng(seed)
    found, lengths, chances = [], np.empty(n), np.empty(n)
    for i in range(n):
        hidden, words = rng.random(), rng.choice(HARD + EASY, 7)
        told = np.mean([word in HARD for word in words])
        lengths[i] = {
            "telling": 5.5 + 3.75 * told,
            "partly": 5.5 + 2 * told + hidden,
            "weak": 5.5 + told + 1.5 * hidden,
            "noise": 5.5 + 2.5 * hidden,
            "alike": 6.5,
        }[name]
        chances[i] = {
            "telling": 0.9,
            "partly": 0.9 - 0.2 * hidden,
            "weak": 0.9 - 0.3 * hidden,
            "noise": 0.9 - 0.5 * rng.random(),
            "alike": 0.7,
        }[name]
        text = " ".join([*words, *rng.choice(FILLER, 6), str(i)])
        tokens = np.exp(rng.normal(lengths[i], SPREAD, samples)).astype(np.int64) + 1
        right = rng.random(samples) < chances[i]
        found += [
            Sample(str(i), int(t), float(r), sample=k, question=text)
            for k, (t, r) in enumerate(zip(tokens, right, strict=True))
        ]
    return found, lengths, chances


def true_table(table: CurveTable, lengths: np.ndarray, chances: np.ndarray) -> CurveTable:
    """The same questions with what would be measured of endless samples."""
    z = (np.log(table.budgets) - lengths[:, None]) / SPREAD
    ended = norm.cdf(z)
    use = np.exp(lengths[:, None] + SPREAD**2 / 2) * norm.cdf(z - SPREAD) + table.budgets * (1 - ended)
    curves = (ended * chances[:, None]).astype(np.float32)
    return replace(table, curves=curves, use=np.minimum(use, table.budgets).astype(np.float32))


def one_set(name: str, n: int, samples: int, levels: list[float], seed: int) -> dict:
    """What `assess` says of one data set, and what is true of it."""
    drawn, lengths, chances = world(name, n, samples, seed)
    table = to_table(drawn)
    result = assess(table, drawn, used=levels, n_resamples=1000, seed=seed)
    true = true_table(table, lengths, chances)
    predicted = Refits(table, make_folds(table.questions, 10, seed)).left_out()
    points = (uniform_points(true), mixed_points(true, 0.0), priced_points(true, predicted, 0.0))
    return {
        "pays": result.pays,
        "truth": [np.interp(levels, *mean_line(line)).tolist() for line in points],
        "rows": [[row.policy, levels.index(row.used), row.accuracy, row.gains] for row in result.rows],
    }


def main() -> None:
    """Print one line a level of use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=["telling", "partly", "weak", "noise", "alike"])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("runs/assess_worlds"))
    chosen = parser.parse_args()
    mean = np.mean([sample.tokens for sample in world(chosen.world, 2000, 1, 999)[0]])
    levels = [float(f"{share * mean:.2g}") for share in LEVELS]
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"{chosen.world}-{chosen.questions}-{chosen.samples}.jsonl"
    done = len(path.read_text().splitlines()) if path.is_file() else 0
    with path.open("a") as file:
        for seed in range(1000 + done, 1000 + chosen.sets):
            made = one_set(chosen.world, chosen.questions, chosen.samples, levels, seed)
            file.write(json.dumps(made) + "\n")
            file.flush()
    sets = [json.loads(line) for line in path.read_text().splitlines()]
    truth = dict(zip(POLICIES, np.mean([one["truth"] for one in sets], axis=0), strict=True))
    print(f"{len(sets)} sets, yes in {np.mean([one['pays'] for one in sets]):.1%}")
    print("| tokens used | mix | predicted | bias | gain over mix | interval | over uniform | interval |")
    print("|---|---|---|---|---|---|---|---|")
    for place, level in enumerate(levels):
        rows = [row for one in sets for row in one["rows"] if row[0] == "predicted" and row[1] == place]
        if not rows:
            continue
        predicted = truth["predicted"][place]
        bias = np.mean([row[2] for row in rows]) - predicted
        cells = []
        for name in ("mix", "uniform"):
            gain = predicted - truth[name][place]
            known = [row[3][name] for row in rows if name in row[3]]
            held = f"{np.mean([low <= gain <= high for _, low, high in known]):.0%}" if known else "–"
            cells.append(f"{100 * gain:+.1f} | {held}")
        print(
            f"| {level:,.0f} | {100 * truth['mix'][place]:.1f} | {100 * predicted:.1f} "
            f"| {100 * bias:+.1f} | {' | '.join(cells)} |"
        )


if __name__ == "__main__":
    main()
