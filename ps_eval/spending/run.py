"""`ps-eval run`: questions + predictions → answers, accuracy and cost under per-query budgets, live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc import Allocation
from ps_eval.engines import load_engine
from ps_eval.engines.base import Sampling
from ps_eval.progress import show_progress
from ps_eval.reporting.plots import plot_accuracy
from ps_eval.reporting.summary import PhaseTimer, Summary, collect_run_info, print_table
from ps_eval.spending.live import run_live
from ps_eval.spending.policies import PolicyInputs, possible_policies
from ps_eval.spending.replay import PLOT_FILE
from ps_train.predictor import load_predictor
from ps_train.questions import load_questions


def run_command(
    *,
    questions: str,
    model: str,
    output: str,
    predictor: str | None = None,
    backbone: str | None = None,
    allocations: list[str] | None = None,
    budgets: list[int] | None = None,
    policies: list[str] | None = None,
    window: int = 16,
    num_windows: int = 16,
    min_windows: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    limit: int | None = None,
    engine: str = "transformers",
    engine_options: dict[str, Any] | None = None,
    batch_size: int = 128,
    n_resamples: int = 2000,
) -> None:
    """Answer questions under allocated budgets, once for each policy and mean budget.

    Writes `summary.json`, `accuracy.png`, and for each cell its answers and its allocation. Stop it at any
    moment and run it again: finished cells are kept.

    Args:
        questions: JSONL of id, question, answer; GSM8K's own files are read as they are.
        model: The reasoning model: a folder or a Hugging Face name.
        output: Folder to write into.
        predictor: Predictor folder; without one only `uniform` can run.
        backbone: Language model that reads the questions for the predictor, instead of the one it names.
        allocations: Allocation files of these questions, such as `ps-alloc` writes: each is run as it stands,
            under its file's name.
        budgets: Mean reasoning tokens per query of the policies, such as 48,64; by default those of the
            allocations, or 48,64,96.
        policies: Such as uniform,hull; by default all whose inputs are there.
        window: Tokens a window; with a predictor, its own.
        num_windows: Most windows a query can use; with a predictor, its own.
        min_windows: Fewest windows a query gets.
        temperature: Of the chains of thought; answers are decoded greedily.
        top_p: Nucleus of the chains of thought.
        seed: Seed of the chains of thought, the random policies and the bootstrap.
        limit: Only the first questions.
        engine: What runs the model: transformers, vllm, vllm-native or openai (a server).
        engine_options: Of the engine's own, such as --engine-options.dtype bfloat16; docs/vllm.md has them.
        batch_size: Sequences decoded at once.
        n_resamples: Bootstrap resamples of the questions.

    Raises:
        ValueError: If an input is missing or damaged, or the folder was begun with other settings.
    """
    config = dict(locals())
    timer = PhaseTimer()
    with timer.phase("load"):
        asked = load_questions(questions, limit)
        loaded = load_engine(engine, model, batch_size=batch_size, **(engine_options or {}))
    given = {Path(path).stem: Allocation.load(path) for path in allocations or []}
    budgets = budgets or sorted({round(a.budget) for a in given.values()}) or [48, 64, 96]
    inputs = PolicyInputs(len(asked), window, num_windows)
    if predictor is not None:
        inputs = predicted_inputs(predictor, [q.question for q in asked], timer, backbone)
    chosen = policies or possible_policies(inputs, live=True)
    with show_progress(
        "questions answered", len(asked) * (len(chosen) * len(budgets) + len(given))
    ) as progress:
        rows = run_live(
            asked,
            loaded,
            inputs,
            budgets=budgets,
            policies=chosen,
            given=given,
            output=output,
            sampling=Sampling(temperature, top_p, seed),
            min_windows=min_windows,
            seed=seed,
            n_resamples=n_resamples,
            timer=timer,
            progress=progress,
        )
    plot_accuracy(rows, Path(output) / PLOT_FILE)
    Summary(rows, collect_run_info(config, seed, timer.seconds)).save(output)
    console = Console()
    print_table(rows, console)
    console.print(scheduling_cost(timer, cells=len(rows)), highlight=False)


def predicted_inputs(
    predictor: str | Path, questions: list[str], timer: PhaseTimer, backbone: str | None = None
) -> PolicyInputs:
    """What a saved predictor tells about questions before any is answered.

    Adds to the phases `load` (the predictor and its backbone) and `predict` (reading the questions).
    """
    with timer.phase("load"):
        loaded = load_predictor(predictor, backbone=backbone)
        loaded.predict_curves(questions[:1])  # the backbone is loaded at the first question
    with timer.phase("predict"):
        curves = loaded.predict_curves(questions)
    mean_curve: npt.NDArray[np.float32] = loaded.mean_curve.cpu().numpy()
    return PolicyInputs(
        len(questions), loaded.window, curves.shape[1], predictions=curves, mean_curve=mean_curve
    )


def scheduling_cost(timer: PhaseTimer, cells: int) -> str:
    """One sentence: what predicting and allocating took, beside generating."""
    predict, allocate = timer.seconds.get("predict", 0.0), timer.seconds.get("allocate", 0.0) / cells
    # Cells of an earlier, interrupted run were not generated now.
    generate = timer.seconds.get("generate", 0.0) / max(1, timer.entries.get("generate", 0))
    share = f", {100 * (predict + allocate) / generate:.1f}% of it" if generate else ""
    return (
        f"Predicting took {predict:.2f} s and allocating {1000 * allocate:.1f} ms a batch,"
        f" beside {generate:.1f} s of generation{share}."
    )
