"""Where learning from cut answers ceases to be trusted: errors beside the doubt that the estimate tells.

    python benchmarks/censored.py

Simulated traffic of the tests, whose budgets follow the question's hardness from lower and lower places of
the grid. Errors are those of the share that has finished, in points, the largest over the grid: of the mean
over seeds (bias), and of single seeds, their mean and the worst.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from tests.ps_train.test_light_censored import traffic


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    print("| requests | explored | cut | bias | error: mean, worst | doubt: mean | worst error ÷ doubt |")
    print("|---|---|---|---|---|---|---|")
    for number, explore in ((800, 0.03), (800, 0.1), (4000, 0.03)):
        for place in (3, 2, 1, 0):
            cut, off, doubt = [], [], []
            for seed in seeds:
                logged = traffic(number, seed=seed, explore=explore, place=place)
                found = logged.completed()
                cut.append(100 * np.mean(~logged.finished))
                off.append(100 * (found.finished.mean(axis=0) - logged.truth()[0]))
                doubt.append(100 * found.doubt.max())
            bias, errors = np.abs(np.mean(off, axis=0)).max(), np.abs(off).max(axis=1)
            worst = np.max(errors / np.array(doubt))
            print(
                f"| {number:,} | {explore:.0%} | {np.mean(cut):.0f}% | {bias:.1f} "
                f"| {errors.mean():.1f}, {errors.max():.1f} | {np.mean(doubt):.1f} | {worst:.1f} |"
            )


if __name__ == "__main__":
    main()
