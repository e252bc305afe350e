"""The light predictor: time a question, singly and in batches, and time to fit; time of `ps-eval assess`.

    python benchmarks/light.py --table TABLE --test OTHER
    python benchmarks/light.py --table TABLE --fit 1000000    # its questions, varied, so many times
    python benchmarks/light.py --table TABLE --assess 100000  # so many samples, 8 of each varied question

CPU time of this process on one thread (`OMP_NUM_THREADS=1`), the best and the median of rounds over all test
questions, and the mean over questions of each one's best: what it takes where nobody else disturbs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def assess(table: CurveTable, number: int, samples: int = 8) -> None:
    """Write so many samples, and time the command on them. An answer ends where a uniform draw meets its
    question's curve; one that never does is cut.
    """
    table = varied(table, number // samples)
    draws = np.random.default_rng(0).random((len(table), samples))
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "samples.jsonl").open("w") as file:
            for question, curve, row in zip(table.questions, table.curves, draws, strict=True):
                for draw in row.tolist():
                    place = int(np.argmax(curve >= draw)) if (right := bool(curve.max() >= draw)) else -1
                    sample = {"question": question, "tokens": int(table.budgets[place])}
                    file.write(json.dumps({**sample, "correct": right, "finished": right}) + "\n")
        command = [sys.executable, "-m", "ps_eval.cli", "assess", file.name, "--output", f"{folder}/out"]
        begin = time.perf_counter()
        subprocess.run(command, check=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"assessed {samples * len(table):,} rows in {time.perf_counter() - begin:.1f} s "
        f"({children.ru_utime + children.ru_stime:.1f} s of CPU), peak {children.ru_maxrss / 2**20:.1f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--test")
    parser.add_argument("--fit", type=int, default=0)
    parser.add_argument("--assess", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    table = CurveTable.load(arguments.table, features=[])
    if arguments.assess:
        assess(table, arguments.assess)
        return
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
    best = np.full(len(questions), np.inf)
    for _ in range(arguments.rounds):
        for place, question in enumerate(questions):
            begin = time.perf_counter()
            predictor.predict([question])
            best[place] = min(best[place], time.perf_counter() - begin)
    print(f"one by one, each at its best: {1000 * best.mean():.3f} ms")


if __name__ == "__main__":
    main()
