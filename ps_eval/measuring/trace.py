"""`ps-eval trace`: questions → curve table; `ps-eval make-problems`: the embedded reasoner's questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ps_eval.engines import load_pool
from ps_eval.engines.base import Sampling
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.token_grid import parse_grid
from ps_eval.progress import show_progress
from ps_train.common.features import extract_features
from ps_train.embedded.problem_families import DIARY, make_problems
from ps_train.embedded.word_problems import MAX_DISTRACTORS, MAX_STEPS
from ps_train.feature_file import save_features
from ps_train.questions import load_questions, save_questions


def trace_command(
    *,
    questions: str,
    model: str,
    output: str,
    num_traces: int = 8,
    window: int = 16,
    num_windows: int = 16,
    grid: str | None = None,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    limit: int | None = None,
    layers: list[int] | None = None,
    engine: str = "transformers",
    engine_options: dict[str, Any] | None = None,
    batch_size: int = 128,
    questions_per_chunk: int = 64,
) -> None:
    """Sample chains of thought and probe them for answers: questions to a curve table.

    Stop it at any moment and run it again: it goes on where it was, to the same table.

    Args:
        questions: JSONL of id, question, answer; GSM8K's own files are read as they are.
        model: The reasoning model: a folder or a Hugging Face name.
        output: The curve table's folder.
        num_traces: Chains of thought a question.
        window: Tokens a window.
        num_windows: Windows probed; the longest budget is window × num_windows tokens.
        grid: Any token budgets to probe at instead of windows: 256,512,1024 or geometric:256:32768:15 (first,
            last, how many) or linear:…, or a preset: paper, 8k, 32k.
        temperature: Of the chains of thought; answers are decoded greedily.
        top_p: Nucleus of the chains of thought.
        seed: Seed of the chains of thought.
        limit: Only the first questions.
        layers: Also store the prompts' hidden states after these blocks, such as 8,16.
        engine: What runs the model: transformers, vllm, vllm-native, openai (a server) or ray (a cluster).
        engine_options: Of the engine's own, such as --engine-options.dtype bfloat16; docs/vllm.md has them.
        batch_size: Sequences decoded at once.
        questions_per_chunk: Questions traced and saved together.

    Raises:
        ValueError: If the questions or the model cannot be read, or the folder was begun with other settings.
    """
    budgets = None if grid is None else parse_grid(grid).tolist()
    asked = load_questions(questions, limit)
    pool = load_pool(engine, model, batch_size=batch_size, **(engine_options or {}))
    with show_progress("questions traced", len(asked)) as progress:
        table = measure_curves(
            asked,
            pool,
            output,
            num_traces=num_traces,
            window=window,
            num_windows=num_windows,
            budgets=budgets,
            sampling=Sampling(temperature, top_p, seed),
            questions_per_chunk=questions_per_chunk,
            progress=progress,
        )
    if layers:
        save_features(output, extract_features(model, table.questions, layers), {"model": model})
    used = table.expected_use.mean(axis=0)
    points = " ".join(
        f"{budget}: {100 * share:.0f} ({use:.0f})"
        for budget, share, use in zip(table.budgets, table.curves.mean(axis=0), used, strict=True)
    )
    Console().print(
        f"{output}: {len(table)} curves; mean accuracy in % (tokens really used) by budget: {points}",
        highlight=False,
    )


def make_problems_command(
    *,
    output: str,
    num_problems: int = 500,
    seed: int = 1,
    max_steps: int = MAX_STEPS,
    max_distractors: int = MAX_DISTRACTORS,
    families: tuple[str, ...] = (DIARY,),
) -> None:
    """Write word problems, the embedded models' world, as a question set.

    Args:
        output: The JSONL file.
        num_problems: How many.
        seed: Another seed gives other problems.
        max_steps: Most steps of a problem, up to 8; the embedded diffusion model is for 3.
        max_distractors: Most sentences about others; the embedded diffusion model is for 2.
        families: Of problems, in turns: diary, or handovers, which checkpoints/tiny-reasoner-two-families
            solves as well.

    Raises:
        ValueError: If a number is out of range or there is no such family.
    """
    if num_problems < 1:
        raise ValueError(f"num_problems must be at least 1, got {num_problems}")
    if not 1 <= max_steps <= MAX_STEPS:
        raise ValueError(f"max_steps must lie in 1..{MAX_STEPS}, got {max_steps}")
    if max_distractors < 0:
        raise ValueError(f"max_distractors must be at least 0, got {max_distractors}")
    limits = {"max_steps": max_steps, "max_distractors": max_distractors}
    problems = make_problems(num_problems, seed, families, **limits)
    named = [p.as_question(f"{families[i % len(families)]}-{seed}-{i}") for i, p in enumerate(problems)]
    save_questions(Path(output), named)
