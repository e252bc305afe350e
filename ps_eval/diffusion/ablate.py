"""`ps-eval ablate`: schedules of diffusion decoding side by side, on the same questions."""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ps_alloc.files import read_json, write_json
from ps_eval.diffusion.measure import answer_batch
from ps_eval.diffusion.models import DiffusionModel, load_diffusion_model
from ps_eval.diffusion.plots import plot_frontier, plot_histories
from ps_eval.diffusion.schedules import SCHEDULES, Schedule, schedule_named
from ps_eval.progress import show_progress
from ps_eval.reporting.screen import print_grid
from ps_eval.reporting.statistics import paired_bootstrap
from ps_eval.reporting.summary import PhaseTimer, collect_run_info
from ps_eval.run_folder import remember_questions, remember_settings
from ps_train.common.loading import torch_device, torch_dtype
from ps_train.questions import Question, load_questions

SETTINGS_FILE = "ablation_settings.json"
CELLS_FOLDER = "cells"
RESULT_FILE = "ablation.json"
REFERENCE = "static-dual"
QUICK_QUESTIONS = 32
# Means over questions of these metrics stand in the result.
MEANS = (
    "tokens",
    "nfe",
    "rows",
    "full_passes",
    "avg_block_size",
    "cache_hit_rate",
    "adaptations",
    "remasked",
)

Cells = dict[str, list[dict[str, Any]]]
"""Schedule to its chunks, in order: what was measured of each."""


def ablate_command(
    *,
    questions: str,
    model: str,
    output: str,
    schedules: list[str] = [],  # noqa: B006 (jsonargparse shows it; never changed)
    reference: str = REFERENCE,
    acceptance: str | None = None,
    gen_length: int = 96,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    quick: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Compare schedules of diffusion decoding: accuracy, cost and speed on the same questions.

    The schedules take turns on each batch of questions, so that a slow minute of the machine hits all of
    them. Stop it at any moment and run it again: it goes on where it was.

    Args:
        questions: JSONL of id, question, answer.
        model: The diffusion model: a folder or a Hugging Face name.
        output: Folder of the results.
        schedules: Names of docs/diffusion.md's table; none means all.
        reference: The schedule that gains and speeds are compared with; it is measured in any case.
        acceptance: Folder of an acceptance head, for schedules that accept by one; by default `acceptance`
            in the model's folder.
        gen_length: Tokens decoded a response.
        batch_size: Responses decoded at once, and questions a batch.
        device: auto takes a GPU where there is one; else a torch device, such as cpu or cuda:1.
        dtype: The type to compute in: float32, bfloat16 or float16.
        limit: Only the first questions.
        quick: A look: 32 questions.
        seed: Of the bootstrap.
        json: Print the result as JSON.

    Raises:
        ValueError: If the questions or the model cannot be read, a schedule is unknown, or the folder was
            begun with other settings.
    """
    chosen = {name: schedule_named(name) for name in [reference, *(schedules or SCHEDULES)]}
    asked = load_questions(questions, min(limit or QUICK_QUESTIONS, QUICK_QUESTIONS) if quick else limit)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    folder = Path(output)
    settings = {"model": model, "gen_length": gen_length, "batch_size": batch_size, "dtype": dtype}
    remember_settings(folder / SETTINGS_FILE, settings)
    remember_questions(folder, asked)
    timer = PhaseTimer()
    with timer.phase("load"):
        loaded = load_diffusion_model(
            model, dtype=torch_dtype(dtype), device=torch_device(device), acceptance=acceptance
        )
    chunks = [asked[i : i + batch_size] for i in range(0, len(asked), batch_size)]
    with timer.phase("decode"), show_progress("batches decoded", len(chunks) * len(chosen)) as advance:
        cells = measure(loaded, chunks, chosen, gen_length, folder / CELLS_FOLDER, advance)
    rows = summarise_cells(cells, reference, seed)
    config = {"questions": questions, **settings, "device": str(loaded.model.device)}
    result = {
        "rows": rows,
        "schedules": {name: asdict(schedule) for name, schedule in chosen.items()},
        "run": asdict(collect_run_info(config | {"reference": reference}, seed, timer.seconds)),
    }
    write_json(folder / RESULT_FILE, result)
    plot_frontier(rows, reference, folder / "frontier.png")
    plot_histories({name: c[0]["history"] for name, c in cells.items()}, folder / "history.png")
    if json:
        sys.stdout.write(jsonlib.dumps(result) + "\n")
        return
    console = Console()
    print_rows(rows, reference, console)
    console.print(f"Written: {output}", highlight=False)
    console.print(f"Next: ps-eval report {output} --output {output}/report", highlight=False, soft_wrap=True)


def measure(
    model: DiffusionModel,
    chunks: Sequence[Sequence[Question]],
    schedules: dict[str, Schedule],
    gen_length: int,
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    *,
    temperature: float = 0.0,
    run: int = 0,
) -> Cells:
    """Decode every chunk of questions under every schedule; what `folder` holds already is read.

    The order of the schedules turns with every chunk. A first, unmeasured batch warms the process up.

    Args:
        model: The model.
        chunks: Questions decoded together.
        schedules: By name.
        gen_length: Tokens decoded a response.
        folder: One JSON file a cell, `<schedule>-<number of the chunk>.json`.
        advance: Called with 1 after every cell.
        temperature: At which tokens are drawn; 0 takes the most probable ones.
        run: Number of the draw.
    """
    cells: Cells = {name: [] for name in schedules}
    names = list(schedules)
    warm = False
    for number, chunk in enumerate(chunks):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            expected = cell_identity(model, schedules[name], chunk)
            if temperature:
                expected |= {"temperature": temperature, "run": run}
            path, make = folder / f"{name}-{number}.json", schedules[name].maker(model.acceptance)
            cell = kept(path, expected)
            if cell is None:
                if not warm:
                    answer_batch(model, chunk[:2], make, gen_length)
                    warm = True
                answered, seconds = answer_batch(
                    model, chunk, make, gen_length, temperature=temperature, run=run
                )
                cell = expected | {
                    "seconds": seconds,
                    "correct": [a.correct for a in answered],
                    "metrics": {key: [a.metrics[key] for a in answered] for key in MEANS},
                    "history": answered[0].history,
                }
                write_json(path, cell)
            cells[name].append(cell)
            advance(1)
    return cells


def kept(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What a run before this one left there, where it was made of the same; else None."""
    found = read_json(path) if path.is_file() else None
    return found if found is not None and found | identity == found else None


def cell_identity(model: DiffusionModel, schedule: Schedule, questions: Sequence[Question]) -> dict[str, Any]:
    """What a kept cell must have been measured with to be read again."""
    settings = asdict(schedule)
    if schedule.accept == "confidence":
        del settings["accept"]  # as it was before there were heads: cells measured then are kept
    elif model.acceptance is not None:
        settings["acceptance"] = model.acceptance.fingerprint
    return {"schedule": settings, "ids": [q.id for q in questions]}


def summarise_cells(
    cells: Cells, reference: str, seed: int = 0, n_resamples: int = 2000
) -> list[dict[str, Any]]:
    """One row a schedule: accuracy and speed with intervals, against the reference, and mean costs.

    Accuracy's intervals are paired over questions; speed's over chunks, whose seconds are what is timed.
    Speed is responses a second; `speed` is its ratio to the reference's.

    Returns:
        Rows as docs/formats.md lists them, the reference first.
    """
    names = [reference, *(name for name in cells if name != reference)]
    correct = np.array([[x for cell in cells[name] for x in cell["correct"]] for name in names], float)
    intervals = paired_bootstrap(correct, np.zeros(len(names), int), n_resamples=n_resamples, seed=seed)
    seconds = np.array([[cell["seconds"] for cell in cells[name]] for name in names])
    ratios = seconds[0].sum() / seconds.sum(1)
    drawn = np.random.default_rng(seed).integers(0, seconds.shape[1], (n_resamples, seconds.shape[1]))
    resampled = seconds[:, drawn].sum(2)  # (schedules, resamples)
    lows, highs = np.quantile(resampled[0] / resampled, [0.025, 0.975], axis=1)
    rows = []
    for i, name in enumerate(names):
        means = {
            key: float(np.mean([x for cell in cells[name] for x in cell["metrics"][key]])) for key in MEANS
        }
        rows.append(
            {
                "schedule": name,
                "n": correct.shape[1],
                "accuracy": float(intervals.means[i]),
                "low": float(intervals.lows[i]),
                "high": float(intervals.highs[i]),
                "gain": float(intervals.gains[i]),
                "gain_low": float(intervals.gain_lows[i]),
                "gain_high": float(intervals.gain_highs[i]),
                "ms_per_response": 1000 * float(seconds[i].sum()) / correct.shape[1],
                "tokens_per_second": means["tokens"] * correct.shape[1] / float(seconds[i].sum()),
                "speed": float(ratios[i]),
                "speed_low": float(lows[i]),
                "speed_high": float(highs[i]),
                "rows_per_token": means["rows"] / max(means["tokens"], 1e-9),
                **{key: value for key, value in means.items() if key != "rows"},
            }
        )
    return rows


def print_rows(rows: Sequence[dict[str, Any]], reference: str, console: Console) -> None:
    """Print the rows as a table; below a gain or a speed stands its interval."""
    console.print(
        f"accuracy in %, gain in points and speed against {reference}; ms, passes, rows a token and tokens "
        f"taken back a response; n = {rows[0]['n']}",
        highlight=False,
    )
    table = []
    for row in rows:
        gain, gain_low, gain_high = (100 * row[key] for key in ("gain", "gain_low", "gain_high"))
        table.append(
            [
                row["schedule"],
                f"{100 * row['accuracy']:.1f}",
                f"{gain:+.1f}\n{gain_low:.1f}, {gain_high:.1f}",
                f"{row['speed']:.2f}\n{row['speed_low']:.2f}, {row['speed_high']:.2f}",
                f"{row['ms_per_response']:.0f}",
                f"{row['nfe']:.1f}",
                f"{row['rows_per_token']:.1f}",
                f"{row['remasked']:.2f}",
            ]
        )
    print_grid(console, ["schedule", "acc.", "gain", "speed", "ms", "passes", "rows", "back"], table)
