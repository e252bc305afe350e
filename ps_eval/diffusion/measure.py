"""Decode questions under a schedule, grade and time them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ps_eval.diffusion.calls import metrics
from ps_eval.diffusion.generate import Chooser, PolicyMaker, decode
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.grading import extract_answer, is_correct
from ps_train.common.prompts import encode_prompts
from ps_train.questions import Question


@dataclass(frozen=True)
class Answered:
    """One question's response."""

    id: str
    text: str
    """The response up to the end-of-sequence token."""
    answer: str | None
    """As `extract_answer` reads it."""
    correct: bool
    metrics: dict[str, Any]
    """See `ps_eval.diffusion.calls.metrics`."""
    history: list[tuple[int, float, int]]
    """One entry a step: block size, threshold, tokens committed."""


def answer_batch(
    model: DiffusionModel,
    questions: Sequence[Question],
    schedule: PolicyMaker,
    gen_length: int,
    choose: Chooser | None = None,
    *,
    temperature: float = 0.0,
    run: int = 0,
) -> tuple[list[Answered], float]:
    """Decode one batch and grade it; `choose` picks schedules instead of `schedule` (`decode`).

    Above temperature 0 a question's draws depend on its id and on `run`, not on its batch.

    Returns:
        One result a question, and the seconds that decoding took: of this process's CPU where the model is
        on the CPU, so that other work on the machine counts little, else of the wall clock.

    Raises:
        ValueError: If the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("answering questions needs a model with a tokenizer, got one without")
    prompts = encode_prompts(model.tokenizer, [q.question for q in questions])
    clock = time.process_time if model.model.device.type == "cpu" else _accelerator_clock
    started = clock()
    seeds = [zlib.crc32(f"{run}:{q.id}".encode()) for q in questions] if temperature else None
    responses = decode(model, prompts, schedule, gen_length, choose, temperature=temperature, seeds=seeds)
    seconds = clock() - started
    answered = []
    for question, response in zip(questions, responses, strict=True):
        end = response.prompt_length + response.num_tokens
        text = str(model.tokenizer.decode(response.tokens[response.prompt_length : end]))
        answer = extract_answer(text)
        answered.append(
            Answered(
                question.id,
                text,
                answer,
                is_correct(answer, question.answer),
                metrics(response),
                response.scheduler.history,
            )
        )
    return answered, seconds


def _accelerator_clock() -> float:
    torch.accelerator.synchronize()
    return time.perf_counter()
