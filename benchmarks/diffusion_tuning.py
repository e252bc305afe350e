r"""Schedules beyond the source's, tried on tuning problems: accuracy and speed against static Fast-dLLM.

    ps-eval make-problems --num-problems 128 --seed 20 --max-steps 3 --max-distractors 2 \
        --output runs/diffusion/tuning.jsonl
    python benchmarks/diffusion_tuning.py --questions runs/diffusion/tuning.jsonl \
        --output runs/diffusion/tuning

Prints every candidate of the grid; what was chosen stands in `ps_eval/diffusion/schedules.py` and is reported
on other problems by `ps-eval ablate`. Cells are kept: run it again and it goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ps_eval.diffusion.ablate import measure, print_rows, summarise_cells
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.schedules import STATIC, Schedule
from ps_eval.progress import show_progress
from ps_train.questions import load_questions

LEAN = replace(STATIC, cache="tiered", refresh_unstable=False)


def candidates() -> dict[str, Schedule]:
    """One idea after the other: smaller blocks, sliding ones, order, less recompute, correction."""
    grid = {"static-dual": STATIC}
    for size in (4, 8):
        grid[f"dual-b{size}"] = replace(STATIC, block_size=size)
        grid[f"tiers-b{size}"] = replace(LEAN, block_size=size)
        grid[f"tiers-b{size}-stay"] = replace(LEAN, block_size=size, refresh_pending=False)
        grid[f"near-b{size}"] = replace(LEAN, block_size=size, memory_window=16)
    stay = replace(LEAN, refresh_pending=False)
    for size in (4, 8):
        for threshold in (0.8, 0.97, 0.99):
            grid[f"tiers-b{size}-stay-t{threshold}"] = replace(stay, block_size=size, threshold=threshold)
        grid[f"tiers-b{size}-stay-2"] = replace(stay, block_size=size, max_commits=2)
        grid[f"tiers-b{size}-stay-end"] = replace(stay, block_size=size, correction="end", trust=0.99)
    for size in (4, 8):
        for threshold in (0.6, 0.9):
            for penalty in (0.0, 0.03):
                grid[f"slide-b{size}-t{threshold}-d{penalty}"] = replace(
                    LEAN,
                    block_size=size,
                    threshold=threshold,
                    sliding=True,
                    distance_penalty=penalty,
                    memory_window=16,
                )
    for when in ("step", "end"):
        grid[f"near-b8-t0.6-{when}"] = replace(
            LEAN, block_size=8, threshold=0.6, memory_window=16, correction=when, trust=0.95
        )
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--model", default="checkpoints/tiny-diffusion")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--gen-length", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    questions = load_questions(arguments.questions, arguments.limit)
    size = arguments.batch_size
    chunks = [questions[i : i + size] for i in range(0, len(questions), size)]
    grid = candidates()
    model = load_diffusion_model(arguments.model)
    with show_progress("batches decoded", len(chunks) * len(grid)) as advance:
        cells = measure(model, chunks, grid, arguments.gen_length, arguments.output, advance)
    print_rows(summarise_cells(cells, "static-dual"), "static-dual", Console())


if __name__ == "__main__":
    main()
