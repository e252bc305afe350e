"""`ps-eval menu` and `fit-menu`: every schedule on every question, and learning which of them serves one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_eval.diffusion.ablate import CELLS_FOLDER, Cells, measure
from ps_eval.diffusion.models import DiffusionModel, load_diffusion_model
from ps_eval.diffusion.opening import open_responses
from ps_eval.diffusion.row_cache import RowCache
from ps_eval.diffusion.schedules import MENU, schedule_named
from ps_eval.grading import load_grader
from ps_eval.progress import show_progress
from ps_eval.run_folder import remember_questions, remember_settings
from ps_train.common.loading import torch_device, torch_dtype
from ps_train.common.prompts import encode_prompts
from ps_train.menu.ridge import MenuPredictor
from ps_train.menu.table import MenuTable
from ps_train.questions import Question, load_questions

SETTINGS_FILE = "menu_settings.json"


def menu_command(
    *,
    questions: str,
    model: str,
    output: str,
    schedules: list[str] = list(MENU),  # noqa: B006 (jsonargparse shows it; never changed)
    acceptance: str | None = None,
    temperature: float = 0.0,
    runs: int = 1,
    gen_length: int = 96,
    batch_size: int = 32,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
) -> None:
    """Decode questions under every schedule of a menu: a table to learn choosing from.

    Stop it at any moment and run it again: what is decoded is kept, schedule by schedule and batch by batch.

    Args:
        questions: JSONL, CSV or Parquet of id, question, answer.
        model: The diffusion model: a folder or a Hugging Face name.
        output: The menu table's folder.
        schedules: Names of docs/diffusion.md, or static ones such as dual-b8-t0.9.
        acceptance: Folder of an acceptance head, for schedules that accept by one; by default `acceptance`
            in the model's folder.
        temperature: At which tokens are drawn; 0 takes the most probable ones, always the same.
        runs: Responses a question and schedule; more than 1 need a temperature above 0. Their halves say
            what choosing with hindsight is really worth (`frontier`).
        gen_length: Tokens decoded a response.
        batch_size: Responses decoded at once.
        device: auto takes a GPU where there is one; else a torch device, such as cpu or cuda:1.
        dtype: The type to compute in: float32, bfloat16 or float16.
        limit: Only the first questions.

    Raises:
        ValueError: If the questions or the model cannot be read, a schedule is unknown, or the folder was
            begun with other settings.
    """
    asked = load_questions(questions, limit)
    chosen = {name: schedule_named(name) for name in schedules}
    if len(chosen) < 2 or len(chosen) != len(schedules):
        raise ValueError(f"schedules must be at least two different ones, got {schedules}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if runs < 1 or (runs > 1 and not temperature > 0) or not 0 <= temperature < np.inf:
        raise ValueError(
            f"runs must be 1, or more at a temperature above 0, got {runs} at temperature {temperature}"
        )
    folder = Path(output)
    settings = {
        "model": str(model),
        "gen_length": gen_length,
        "schedules": {name: asdict(schedule) for name, schedule in chosen.items()},
        "grader": load_grader().identity,
    } | ({"temperature": temperature} if temperature else {})
    remember_settings(folder / SETTINGS_FILE, settings)
    remember_questions(folder, asked)
    loaded = load_diffusion_model(
        model, dtype=torch_dtype(dtype), device=torch_device(device), acceptance=acceptance
    )
    chunks = [asked[i : i + batch_size] for i in range(0, len(asked), batch_size)]
    by_run = []
    with show_progress("batches decoded", len(chunks) * len(chosen) * runs) as advance:
        for run in range(runs):
            cells = folder / (f"{CELLS_FOLDER}-{run}" if temperature else CELLS_FOLDER)
            by_run.append(
                measure(loaded, chunks, chosen, gen_length, cells, advance, temperature=temperature, run=run)
            )
    table = as_table(asked, by_run, prompt_states(loaded, asked, gen_length), settings)
    table.save(folder)
    lines = [
        f"  {name:<18}{100 * table.accuracy[:, s].mean():5.1f}% right, "
        f"{table.passes[:, s].mean():5.1f} passes, "
        f"{table.rows[:, s].sum() / table.tokens[:, s].sum():5.1f} rows a token"
        for s, name in enumerate(table.schedules)
    ]
    Console().print("\n".join([f"{output}: {len(table)} questions", *lines]), highlight=False)
    Console().print(
        f"next: ps-eval fit-menu --table {output} --output {folder / 'predictor'}", highlight=False
    )


def fit_menu_command(*, table: str, output: str, cost: str = "rows", seed: int = 0) -> None:
    """Learn from a menu table which schedule serves a question, and what it costs.

    Args:
        table: The menu table of the questions to learn from.
        output: The predictor's folder.
        cost: What a budget will count: rows or passes.
        seed: Of the folds by which the penalty is chosen.

    Raises:
        ValueError: If the table cannot be read, or `cost` is neither.
    """
    learned = MenuTable.load(table)
    predictor = MenuPredictor.fit(
        learned.features,
        learned.accuracy,
        learned.cost(cost),
        learned.tokens,
        options=learned.schedules,
        cost_name=cost,
        model=learned.metadata.get("model", "unknown"),
        seed=seed,
    )
    predictor.save(output)
    Console().print(
        f"{output}: learned from {len(learned)} questions, penalty {predictor.penalty:g}\n"
        f"next: ps-eval frontier --tables TEST_TABLES --predictor {output} --per-token …",
        highlight=False,
    )


def as_table(
    questions: Sequence[Question],
    by_run: Sequence[Cells],
    features: dict[str, npt.NDArray[np.float32]],
    settings: dict[str, object],
) -> MenuTable:
    """Cells of `measure`, one set a run, as columns of a table."""
    schedules = list(by_run[0])

    def values(read: Callable[[dict[str, Any]], list[float]]) -> npt.NDArray[np.float32]:
        """(N, S, runs)."""
        runs = [[[x for cell in cells[s] for x in read(cell)] for s in schedules] for cells in by_run]
        return np.array(runs, np.float32).transpose(2, 1, 0)

    def mean(key: str) -> npt.NDArray[np.float32]:
        return values(lambda cell: cell["metrics"][key]).mean(2)

    right = values(lambda cell: cell["correct"])
    return MenuTable(
        ids=[q.id for q in questions],
        questions=[q.question for q in questions],
        answers=[q.answer for q in questions],
        schedules=schedules,
        accuracy=right.mean(2),
        rows=mean("rows"),
        passes=mean("nfe"),
        tokens=mean("tokens"),
        right=right if len(by_run) > 1 else None,
        features=features,
        metadata={
            key: str(settings[key])
            for key in ("model", "gen_length", "grader", "temperature")
            if key in settings
        },
    )


def prompt_states(
    model: DiffusionModel, questions: Sequence[Question], gen_length: int, batch_size: int = 64
) -> dict[str, npt.NDArray[np.float32]]:
    """States of each prompt in the first pass of its decoding (`Opening.features`).

    Raises:
        ValueError: If the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("reading questions needs a model with a tokenizer, got one without")
    prompts = encode_prompts(model.tokenizer, [q.question for q in questions])
    layers = model.model.config.num_hidden_layers
    parts = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        cache = RowCache(layers, max(map(len, batch)) + gen_length)
        parts.append(open_responses(model, batch, gen_length, cache).features)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
