"""`ps-eval diffuse`: answers of a diffusion model under one schedule."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ps_alloc.files import atomic_path, check_output
from ps_eval.diffusion.measure import Answered, answer_batch
from ps_eval.diffusion.models import load_diffusion_model
from ps_eval.diffusion.schedules import schedule_named
from ps_eval.diffusion.spend import menu_chooser
from ps_eval.progress import show_progress
from ps_train.common.loading import torch_device, torch_dtype
from ps_train.menu.ridge import MenuPredictor
from ps_train.questions import load_questions


def diffuse_command(
    *,
    questions: str,
    model: str,
    output: str,
    schedule: str = "static-dual",
    predictor: str | None = None,
    mean_cost: float | None = None,
    rows_per_token: float | None = None,
    acceptance: str | None = None,
    gen_length: int = 96,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
) -> None:
    """Answer questions with a masked-diffusion model, block by block.

    Args:
        questions: JSONL of id, question, answer.
        model: The diffusion model: a folder or a Hugging Face name (LLaDA and Dream need no remote code).
        output: The JSONL file of answers, one question a line.
        schedule: A name of docs/diffusion.md's table, such as static-dual or all+correction.
        predictor: What `ps-eval fit-menu` wrote: chooses a schedule for each question instead of `schedule`.
        mean_cost: What a response may cost on average, in the rows or passes that the predictor counts; each
            batch is allocated by itself.
        rows_per_token: Instead of `mean_cost`: rows that a token may cost on average, where the predictor
            counts rows. The tokens are those that it expects.
        acceptance: Folder of an acceptance head (`ps-eval fit-acceptance`), for schedules such as
            tiers-b16-a0.8; by default `acceptance` in the model's folder.
        gen_length: Tokens decoded a response; a multiple of the block size wastes none.
        batch_size: Responses decoded at once.
        device: auto takes a GPU where there is one; else a torch device, such as cpu or cuda:1.
        dtype: The type to compute in: float32, bfloat16 or float16.
        limit: Only the first questions.

    Raises:
        ValueError: If the questions or the model cannot be read, the schedule is unknown, or the output is
            the questions' file or no regular one.
    """
    check_output(output, inputs=[questions])
    asked = load_questions(questions, limit)
    chosen = schedule_named(schedule)
    budgets = [value for value in (mean_cost, rows_per_token) if value is not None]
    if len(budgets) != (predictor is not None):
        raise ValueError(
            "predictor goes with either mean_cost or rows_per_token, "
            f"got {predictor!r}, {mean_cost!r} and {rows_per_token!r}"
        )
    menu = None if predictor is None else MenuPredictor.load(predictor)
    if menu and rows_per_token is not None and menu.cost_name != "rows":
        raise ValueError(f"rows_per_token needs a predictor that counts rows, got one of {menu.cost_name}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    loaded = load_diffusion_model(
        model, dtype=torch_dtype(dtype), device=torch_device(device), acceptance=acceptance
    )
    make = chosen.maker(loaded.acceptance)
    choose = None
    if menu is not None:
        choose = menu_chooser(menu, budgets[0], loaded.acceptance, per_token=rows_per_token is not None)
    answered: list[Answered] = []
    seconds = 0.0
    with show_progress("questions answered", len(asked)) as advance:
        for start in range(0, len(asked), batch_size):
            batch, taken = answer_batch(loaded, asked[start : start + batch_size], make, gen_length, choose)
            answered += batch
            seconds += taken
            advance(len(batch))
    with atomic_path(Path(output)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for result in answered:
            fields = {k: v for k, v in asdict(result).items() if k != "history"}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    n = len(answered)
    rows, tokens = (sum(a.metrics[key] for a in answered) for key in ("rows", "tokens"))
    Console().print(
        f"{output}: {n} answers, {100 * sum(a.correct for a in answered) / n:.1f}% correct; a response took "
        f"{1000 * seconds / n:.0f} ms, {sum(a.metrics['nfe'] for a in answered) / n:.1f} passes, "
        f"{rows / n:.1f} rows, {tokens / n:.1f} tokens, {rows / max(1, tokens):.2f} rows a token",
        highlight=False,
    )
