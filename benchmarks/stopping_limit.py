"""How much an oracle that stops a real model's reasoning would save: forced answers at tenths of real traces.

    python benchmarks/stopping_limit.py --data ../shared/data/gemma_prefix_probes

Gemma 12B, traces of up to 32k tokens. `stands`: each trace ends at the first tenth from which on its forced
answer stays right, or stays wrong. `clairvoyant`: traces that are right at their end stop at the first tenth
that is right, all others at once. Both keep the accuracy of the whole traces.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np

from ps_eval.reporting.statistics import resampled_means

UNSELECTED = "gpqa_diamond_gemma4_12b_seed0_extended"
"""One trace of each GPQA question; the other sources are selected by how they end."""
MEASURED = ("right", "ever right", "tokens", "stands", "clairvoyant")


def measure(trace: list[tuple[int, int]]) -> tuple[float, ...]:
    """Of one trace, (tokens, right) at each tenth in order: `MEASURED`."""
    tokens, right = np.array(sorted(trace)).T
    stays = np.logical_and.accumulate((right == right[-1])[::-1])[::-1].argmax()
    first = tokens[right.argmax()] if right[-1] else 0
    return float(right[-1]), float(right.any()), float(tokens[-1]), float(tokens[stays]), float(first)


def main() -> None:
    parser = argparse.ArgumentParser(description="The limit of stopping on real traces.")
    parser.add_argument("--data", required=True, type=Path, help="folder with probes.csv.gz")
    traces: dict[str, dict[tuple[str, str], list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(parser.parse_args().data / "probes.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = traces[row["source"]][row["question_id"], row["seed"]]
            place.append((int(row["prefix_tokens"]), int(row["correct"])))
    print("source | traces | right, % | ever right, % | tokens | `stands` saves, % | `clairvoyant` saves, %")
    for source, mine in sorted(traces.items()):
        by_question = defaultdict(list)
        for (question, _), trace in mine.items():
            by_question[question].append(measure(trace))
        means = np.array([np.mean(rows, axis=0) for rows in by_question.values()]).T
        drawn = resampled_means(means, 2000, np.random.default_rng(0))
        right, ever, tokens, *stopped = means.mean(axis=1)
        cells = []
        for place, used in enumerate(stopped, start=3):
            low, high = np.quantile(1 - drawn[place] / drawn[2], [0.025, 0.975])
            cells.append(f"{100 * (1 - used / tokens):.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        name = source if source == UNSELECTED else f"{source} (selected)"
        shares = f"{100 * right:.1f} | {100 * ever:.1f} | {tokens:.0f}"
        print(f"{name} | {len(mine)} | {shares} | {' | '.join(cells)}")


if __name__ == "__main__":
    main()
