"""`ps-eval fit-acceptance`: learn from a model's slow responses which tokens it may commit at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc.files import write_json
from ps_eval.diffusion.ablate import cell_identity, kept
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.models import DiffusionModel, load_diffusion_model
from ps_eval.diffusion.schedules import Schedule, schedule_named
from ps_eval.diffusion.taught import acceptance_examples
from ps_eval.progress import show_progress
from ps_eval.run_folder import remember_questions, remember_settings
from ps_train.acceptance.fit import fit_acceptance, save_acceptance
from ps_train.common.loading import torch_device, torch_dtype
from ps_train.common.prompts import encode_prompts
from ps_train.questions import Question, load_questions

LED = ("lean-b8-t0.9", "lean-b16-t0.9", "lean-b32-t0.9", "slide-b16-t0.9")
SETTINGS_FILE, TEACHER_FOLDER = "teacher_settings.json", "teacher"


def fit_acceptance_command(
    *,
    questions: str,
    model: str,
    output: str,
    teacher: str = "tiers-b4-t0.97",
    schedules: list[str] = list(LED),  # noqa: B006 (jsonargparse shows it; never changed)
    repeats: int = 1,
    hidden: int = 128,
    epochs: int = 10,
    gen_length: int = 96,
    batch_size: int = 32,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    seed: int = 0,
) -> None:
    """Learn which tokens a diffusion model may commit at once, from its own slow responses.

    A slow schedule answers the questions; then the model is led to those responses again in larger blocks,
    and a small head learns at every pass where its most probable token is the one that the slow response
    has. No reference answer is needed. Put the result in `acceptance` in the model's folder, or name it with
    `--acceptance`; schedules such as lean-b16-a0.9 ask it. Stop the command at any moment and run it again:
    slow responses are kept.

    Args:
        questions: JSONL, CSV or Parquet of id, question, answer.
        model: The diffusion model: a folder or a Hugging Face name.
        output: Folder of the acceptance head.
        teacher: The slow schedule.
        schedules: Block sizes and caches to learn under; a response draws one.
        repeats: Ways to each slow response.
        hidden: Width of the head's hidden layer.
        epochs: Most epochs; the best one on a tenth of the questions is kept.
        gen_length: Tokens decoded a response.
        batch_size: Responses decoded at once.
        device: auto takes a GPU where there is one; else a torch device, such as cpu or cuda:1.
        dtype: The type to compute in: float32, bfloat16 or float16.
        limit: Only the first questions.
        seed: Of all draws.

    Raises:
        ValueError: If the questions or the model cannot be read, a schedule is unknown, the folder was begun
            with other settings, or there are fewer than 10 questions.
    """
    if batch_size < 1 or repeats < 1:
        raise ValueError(f"batch_size and repeats must be at least 1, got {batch_size} and {repeats}")
    asked = load_questions(questions, limit)
    slow, led = schedule_named(teacher), [schedule_named(name) for name in schedules]
    folder = Path(output)
    settings = {"model": str(model), "gen_length": gen_length, "dtype": dtype, "teacher": asdict(slow)}
    remember_settings(folder / SETTINGS_FILE, settings)
    remember_questions(folder, asked)
    loaded = load_diffusion_model(model, dtype=torch_dtype(dtype), device=torch_device(device))
    if loaded.tokenizer is None:
        raise ValueError("learning from questions needs a model with a tokenizer, got one without")
    prompts = encode_prompts(loaded.tokenizer, [q.question for q in asked])
    batches = [range(i, min(i + batch_size, len(asked))) for i in range(0, len(asked), batch_size)]
    with show_progress("slow responses", len(asked)) as advance:
        targets = slow_responses(
            loaded, asked, prompts, batches, slow, gen_length, folder / TEACHER_FOLDER, advance
        )
    features, right, numbers = [], [], []
    with show_progress("ways to them", len(asked) * repeats) as advance:
        for batch in batches:
            for repeat in range(repeats):
                x, y, n = acceptance_examples(
                    loaded,
                    [prompts[i] for i in batch],
                    [targets[i] for i in batch],
                    [schedule.maker(None) for schedule in led],
                    seed=seed + batch.start * repeats + repeat,
                )
                features.append(x)
                right.append(y)
                numbers.append(n + batch.start)
                advance(len(batch))
    head, report = fit_acceptance(
        np.concatenate(features),
        np.concatenate(right),
        np.concatenate(numbers),
        hidden=hidden,
        epochs=epochs,
        seed=seed,
    )
    facts = {"model": str(model), "teacher": teacher, "schedules": schedules, "questions": len(asked)}
    save_acceptance(head, folder, **facts, **asdict(report))
    Console().print(
        f"{output}: learned from {report.examples} positions of {len(asked)} responses; on held-out ones "
        f"{report.loss:.3f} nats against {report.confidence_loss:.3f} of the confidence itself; with 1% "
        f"wrong it accepts {report.accepted:.0%} of them, the confidence {report.confidence_accepted:.0%}\n"
        f"next: ps-eval ablate --model {model} --acceptance {output} --schedules tiers-b16-a0.9 …",
        highlight=False,
    )


def slow_responses(
    model: DiffusionModel,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    batches: Sequence[range],
    schedule: Schedule,
    gen_length: int,
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> list[npt.NDArray[np.int64]]:
    """Decode each prompt under a slow schedule; what `folder` holds already is read.

    Returns:
        N arrays (P + G,).
    """
    targets: list[npt.NDArray[np.int64]] = []
    for batch in batches:
        identity = cell_identity(model, schedule, [questions[i] for i in batch])
        path = folder / f"{batch.start}.json"
        slow = kept(path, identity)
        if slow is None:
            decoded = decode(model, [prompts[i] for i in batch], schedule.maker(model.acceptance), gen_length)
            slow = identity | {"tokens": [r.tokens.tolist() for r in decoded]}
            write_json(path, slow)
        targets += [np.array(tokens, np.int64) for tokens in slow["tokens"]]
        advance(len(batch))
    return targets
