r"""Schedules beyond the source's, tried on tuning problems: accuracy, speed, passes and rows side by side.

    ps-eval make-problems --num-problems 256 --seed 35 --max-steps 3 --max-distractors 2 \
        --output runs/menu/tuning.jsonl
    python benchmarks/diffusion_tuning.py --questions runs/menu/tuning.jsonl --trial delimiters \
        --batch-size 64 --output runs/diffusion/tuning

Prints every candidate of a trial, the first one being what gains and speeds are against:

- `ours`: small blocks, sliding ones, order, less recompute, correction. What was chosen stands in
  `ps_eval/diffusion/schedules.py` and is reported on other problems by `ps-eval ablate`.
- `delimiters`: nothing after the first confident end of a sentence is committed, so that blocks end there, as
  in AdaBlock-dLLM (arXiv:2509.26432).
- `revisit`: tokens committed with doubt are examined again through shadow rows, at a block's end or at every
  step, beside a stricter threshold, which costs passes and rows too.

Cells are kept: run it again and it goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc.diffusion import AcceptanceHead, AdaptiveInferenceScheduler, CacheManager, Evidence
from ps_eval.diffusion.ablate import measure, print_rows, summarise_cells
from ps_eval.diffusion.models import DiffusionModel, load_diffusion_model
from ps_eval.diffusion.schedules import STATIC, Correction, Schedule, schedule_named
from ps_eval.progress import show_progress
from ps_train.questions import load_questions

SENTENCE_ENDS = (" .", "</think>")
LEAN = replace(STATIC, cache="tiered", refresh_unstable=False)


class UpToDelimiter:
    """In place of an acceptance head: no chance to what stands after the first sure end of a sentence."""

    def __init__(self, head: AcceptanceHead | None, delimiters: tuple[int, ...], sure: float) -> None:
        self.head, self.delimiters, self.sure = head, delimiters, sure

    def chance(self, evidence: Evidence) -> npt.NDArray[np.float64]:
        """(M,) of the head; without one, the confidence."""
        chance = evidence.confidence.copy() if self.head is None else self.head.chance(evidence)
        ends = np.flatnonzero(np.isin(evidence.tokens, self.delimiters) & (evidence.confidence >= self.sure))
        if len(ends):
            chance[ends[0] + 1 :] = -1.0
        return chance


@dataclass(frozen=True)
class DelimitedSchedule(Schedule):
    """A schedule whose open positions end at a confident delimiter."""

    delimiters: tuple[int, ...] = ()
    sure: float = 0.9

    def __call__(self, head: AcceptanceHead | None = None) -> tuple[AdaptiveInferenceScheduler, CacheManager]:
        """Make one response's scheduler and cache manager."""
        scheduler, cache = super().__call__(head)
        ends = UpToDelimiter(scheduler.acceptance, self.delimiters, self.sure)
        scheduler.acceptance = cast(AcceptanceHead, ends)
        return scheduler, cache


def delimiter_trial(model: DiffusionModel) -> dict[str, Schedule]:
    """Sliding blocks, with and without ends at sentences, by confidence and by the learned head."""
    assert model.tokenizer is not None
    ends = tuple(i for text in SENTENCE_ENDS for i in model.tokenizer.encode(text, add_special_tokens=False))
    names = ("slide-b16-a0.9", "slide-b16-t0.9", "slide-b32-a0.9")
    grid = {name: schedule_named(name) for name in names}
    for name in names:
        for sure in (0.5, 0.9):
            grid[f"{name} .{sure:g}"] = DelimitedSchedule(
                **vars(schedule_named(name)), delimiters=ends, sure=sure
            )
    return grid


def revisit_trial(model: DiffusionModel) -> dict[str, Schedule]:
    """Learned acceptance, stricter or with doubted tokens examined again."""
    grid = {}
    looks: list[tuple[float, Correction, float]] = [(0.8, "end", 0.9), (0.9, "end", 0.97), (0.9, "step", 0.9)]
    for base in ("lean-b16-a", "slide-b16-a"):
        for threshold in (0.9, 0.95):
            grid[f"{base}{threshold}"] = schedule_named(f"{base}{threshold}")
        for threshold, when, trust in looks:
            grid[f"{base}{threshold} {when} {trust}"] = replace(
                schedule_named(f"{base}{threshold}"), correction=when, trust=trust
            )
    return grid


def our_trial(model: DiffusionModel) -> dict[str, Schedule]:
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


TRIALS = {"ours": our_trial, "delimiters": delimiter_trial, "revisit": revisit_trial}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trial", choices=TRIALS, default="ours")
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
    model = load_diffusion_model(arguments.model)
    grid = TRIALS[arguments.trial](model)
    with show_progress("batches decoded", len(chunks) * len(grid)) as advance:
        cells = measure(model, chunks, grid, arguments.gen_length, arguments.output, advance)
    reference = next(iter(grid))
    print_rows(summarise_cells(cells, reference), reference, Console(width=120))


if __name__ == "__main__":
    main()
