"""Real reasoning lengths: two published measurements as curve tables, and what a text predictor buys on them.

    python benchmarks/long_reasoning.py math500 --data ../shared/data
    python benchmarks/long_reasoning.py gemma --data ../shared/data

`math500`: the paper's own model, 100 MATH-500 questions, 6 samples of up to 16k tokens, under a strict cap.
`gemma`: Gemma 12B on GPQA, traces of up to 32k tokens cut at tenths of their length and made to answer. The
light text predictor, and the question's length alone, are cross-fitted over 10 folds of questions;
docs/long_reasoning.md has the figures. Writes table and summary into runs/long/NAME; the data are not in
this repository.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console

from ps_alloc import Predictions
from ps_eval.measuring.token_grid import parse_grid
from ps_eval.reporting.frontier import print_equal_use
from ps_eval.reporting.summary import Summary, collect_run_info, print_table
from ps_eval.spending.question_length import length_curves, length_use
from ps_eval.spending.replay import replay
from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light

FOLDS = 10
USED = {"math500": (1500, 2000, 2500, 3000), "gemma": (1000, 2000, 3000, 4000, 6000)}


def strict_table(folder: Path) -> CurveTable:
    """MATH-500: the share of samples finished and right within each budget, and the tokens used."""
    samples = defaultdict(list)
    with (folder / "samples.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cut = row["reached_cap"] == "True"
            right = row["correct"] == "True" and not cut  # some are marked right at the cap
            samples[row["question_id"]].append((int(row["n_new_tokens"]), right, cut))
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    known = {row["question_id"]: row for row in map(json.loads, lines)}
    ids = sorted(samples)
    budgets = parse_grid("geometric:512:8192:9")  # every sample had 8,192 tokens at least
    lengths = [np.array([n for n, _, _ in samples[i]]) for i in ids]
    ended = [np.array([[not cut and n <= b for b in budgets] for n, _, cut in samples[i]]) for i in ids]
    right = [np.array([[ok] for _, ok, _ in samples[i]]) for i in ids]
    return CurveTable(
        ids=ids,
        questions=[known[i]["question"] for i in ids],
        answers=[known[i]["answer"] for i in ids],
        curves=_mean(e * r for e, r in zip(ended, right, strict=True)),
        n_traces=np.array([len(n) for n in lengths], np.int32),
        budgets=budgets,
        metadata={"model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "answer": "strict"},
        use=_mean(np.minimum(n[:, None], budgets) for n in lengths),
        finished=_mean(ended),
    )


def forced_table(folder: Path) -> CurveTable:
    """Gemma on GPQA: the forced answer at the last probed tenth that each budget reaches."""
    with gzip.open(folder / "probes.csv.gz", "rt", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["source"].startswith("gpqa_diamond")]
    probes = defaultdict(list)
    for row in rows:
        probes[row["question_id"]].append((int(row["prefix_tokens"]), int(row["correct"])))
    length = {row["question_id"]: int(row["trace_tokens"]) for row in rows}
    known = {q["question_id"]: q for q in pq.read_table(folder / "questions.parquet").to_pylist()}
    ids = sorted(probes)
    budgets = parse_grid("32k")
    curves = [[_last(sorted(probes[i]), b) for b in budgets] for i in ids]
    tokens = np.array([length[i] for i in ids])[:, None]
    return CurveTable(
        ids=ids,
        questions=["\n".join([known[i]["question"], *known[i]["options"]]) for i in ids],
        answers=[known[i]["answer"] for i in ids],
        curves=np.array(curves, np.float32),
        n_traces=np.ones(len(ids), np.int32),
        budgets=budgets,
        metadata={"model": "Gemma 12B", "answer": "forced"},
        extra={"at_zero": np.array([sorted(probes[i])[0][1] for i in ids], np.float32)},
        use=np.minimum(tokens, budgets).astype(np.float32),
        finished=(tokens < budgets).astype(np.float32),
    )


def cross_fitted(
    table: CurveTable, fit: Callable[[CurveTable, list[str]], Predictions], seed: int = 0
) -> Predictions:
    """Curves and use of every question, as the questions of the other folds tell them."""
    order = np.random.default_rng(seed).permutation(len(table))
    curves, use = np.empty_like(table.curves), np.empty_like(table.curves)
    for held_out in np.array_split(order, FOLDS):
        train = table.take(np.setdiff1d(order, held_out))
        said = fit(train, [table.questions[i] for i in held_out])
        curves[held_out], use[held_out] = said.curves, said.use
    return Predictions(curves, table.budgets, use=use, ids=table.ids)


def by_text(train: CurveTable, questions: list[str]) -> Predictions:
    """The light predictor."""
    return fit_light(train).predict(questions)


def by_length(train: CurveTable, questions: list[str]) -> Predictions:
    """What training questions of like length are on average."""
    curves, use = length_curves(train, questions), length_use(train, questions)
    return Predictions(curves, train.budgets, use=use)


def _mean(values: object) -> npt.NDArray[np.float32]:
    return np.array([np.mean(v, axis=0) for v in values], np.float32)  # type: ignore[attr-defined]


def _last(probes: list[tuple[int, int]], budget: int) -> int:
    return [correct for prefix, correct in probes if prefix <= budget][-1]


def main() -> None:
    """Make the table, cross-fit the predictor, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(USED))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/long"))
    arguments = parser.parse_args()
    name, data = arguments.name, arguments.data
    if name == "math500":
        table = strict_table(data / "r1_distill_1.5b_math500")
    else:
        table = forced_table(data / "gemma_prefix_probes")
    output = arguments.output / name
    table.save(output / "table")
    predictions = cross_fitted(table, by_text)
    predictions.save(output / "predictions.npz")
    settings = {"used_levels": USED[name], "min_windows": 0}
    means = {"mean_curve": table.curves.mean(axis=0), "mean_use": table.expected_use.mean(axis=0)}
    policies = ["uniform", "mix", "myopic", "hull", "use", "oracle"]
    result = replay(table, predictions=predictions, policies=policies, **means, **settings)
    length = replay(
        table, predictions=cross_fitted(table, by_length), policies=["uniform", "use"], **settings
    ).equal_use
    compared = result.equal_use + [replace(row, policy="length") for row in length if row.policy == "use"]
    Summary(result.rows, collect_run_info({"name": name}, 0, {}), compared).save(output)
    console = Console()
    console.print(
        f"{name}: {len(table)} questions, mean accuracy (%) and tokens used by budget: "
        + ", ".join(
            f"{b}: {100 * a:.0f}, {u:.0f}"
            for b, a, u in zip(table.budgets, table.curves.mean(0), table.expected_use.mean(0), strict=True)
        )
    )
    print_table([r for r in result.rows if r.policy in ("uniform", "use")], console)
    print_equal_use(compared, console)


if __name__ == "__main__":
    main()
