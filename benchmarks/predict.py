"""Predict + allocate from ready features, as a share of one prefill of a small language model.

    python benchmarks/predict.py --predictor runs/gsm8k/curve_mlp/predictor \
        --table ../shared/data/gsm8k_r1_distill_1.5b/test --backbone checkpoints/tiny-reasoner

Both are timed in one run, alternating, and reported as medians: on a shared machine a ratio means more than
milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ps_alloc import allocate
from ps_train.common.blocks import num_layers
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictor", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="the language model to prefill, for comparison")
    parser.add_argument("--budget", type=int, default=96, help="mean tokens per query")
    parser.add_argument(
        "--prefill-questions", type=int, default=32, help="timed, then scaled to the whole table"
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    predictor = load_predictor(arguments.predictor)
    table = CurveTable.load(arguments.table, list(predictor.schema.features))
    model, tokenizer = load_backbone(arguments.backbone)
    questions = table.questions[: arguments.prefill_questions]
    curves = predictor.predict_curves(table.features)
    total = arguments.budget * len(table)

    rounds: dict[str, list[float]] = {"predict": [], "allocate": [], "prefill": []}
    for _ in range(arguments.repeats + 1):
        rounds["predict"].append(milliseconds(lambda: predictor.predict_curves(table.features)))
        rounds["allocate"].append(milliseconds(lambda: allocate(curves, total, window=predictor.window)))
        prefill = milliseconds(
            lambda: extract_features(model, questions, [num_layers(model)], tokenizer=tokenizer)
        )
        rounds["prefill"].append(prefill * len(table) / len(questions))
    # The first round compiles and warms caches.
    medians = {name: statistics.median(values[1:]) for name, values in rounds.items()}
    decide = medians["predict"] + medians["allocate"]
    print(f"{len(table)} questions, {arguments.repeats} rounds, medians")
    for name, value in medians.items():
        print(f"{name:10s} {value:10.2f} ms")
    print(f"predict + allocate = {decide:.2f} ms, {100 * decide / medians['prefill']:.3f}% of one prefill")


if __name__ == "__main__":
    main()
