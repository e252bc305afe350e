"""The light predictor: time a question, singly and in batches, and time to fit.

    python benchmarks/light.py --table TABLE --test OTHER
    python benchmarks/light.py --table TABLE --fit 1000000    # its questions, varied, so many times

CPU time of this process on one thread (`OMP_NUM_THREADS=1`), the best and the median of rounds over all test
questions.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np

from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light


def varied(table: CurveTable, number: int) -> CurveTable:
    """So many questions: the table's, in turn, each with words of two others behind it."""
    rng = np.random.default_rng(0)
    rows = np.arange(number) % len(table)
    others = rng.integers(0, len(table), (number, 2))
    texts = [
        " ".join([table.questions[row], *(table.questions[o][:60] for o in pair), str(i)])
        for i, (row, pair) in enumerate(zip(rows, others, strict=True))
    ]
    return CurveTable(
        [str(i) for i in range(number)],
        texts,
        [""] * number,
        table.curves[rows],
        table.n_traces[rows],
        table.budgets,
        metadata=dict(table.metadata),
        use=None if table.use is None else table.use[rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--test")
    parser.add_argument("--fit", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    table = CurveTable.load(arguments.table, features=[])
    if arguments.fit:
        table = varied(table, arguments.fit)
    begin, cpu = time.perf_counter(), time.process_time()
    predictor = fit_light(table)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(array.nbytes for array in predictor.arrays.values()) / 2**20
    print(
        f"fitted {len(table):,} questions in {seconds:.1f} s ({cpu:.1f} s of CPU), peak {peak:.1f} GiB; "
        f"the predictor is {size:.1f} MiB"
    )
    if arguments.test is None:
        return
    questions = CurveTable.load(arguments.test, features=[]).questions
    for name, ask in (
        ("one by one", lambda: [predictor.predict([question]) for question in questions]),
        ("in a batch", lambda: predictor.predict(questions)),
    ):
        found = []
        for _ in range(arguments.rounds):
            begin = time.process_time()
            ask()
            found.append(1000 * (time.process_time() - begin) / len(questions))
        print(f"{name}: {min(found):.3f} ms a question at best, median {statistics.median(found):.3f}")


if __name__ == "__main__":
    main()
