"""Decode responses, one or many at a time, whatever their schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ps_alloc.diffusion import AdaptiveInferenceScheduler, CacheManager
from ps_eval.diffusion.forward import read_pass
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.opening import open_responses
from ps_eval.diffusion.response import Response
from ps_eval.diffusion.row_cache import RowCache

PolicyMaker = Callable[[], tuple[AdaptiveInferenceScheduler, CacheManager]]
"""Makes the policies of one response."""
Chooser = Callable[[dict[str, npt.NDArray[np.float32]]], Sequence[PolicyMaker]]
"""Features of N prompts, from the first pass, to each response's policies."""


def decode(
    model: DiffusionModel,
    prompts: Sequence[Sequence[int]],
    schedule: PolicyMaker,
    gen_length: int,
    choose: Chooser | None = None,
) -> list[Response]:
    """Decode one batch: each pass serves every response that is not done, each with rows of its own.

    Block boundaries, thresholds and rows differ between responses; a pass is as wide as the widest request.
    A response depends on the others only through rounding.

    Args:
        model: The model.
        prompts: N prompts as token ids, each at least one.
        schedule: Called once a prompt.
        gen_length: G, tokens of a response with its filling.
        choose: Instead of `schedule`: picks each response's policies from what the first pass knows of its
            prompt. That pass is the first of the response all the same, and is run once.

    Returns:
        N finished responses.

    Raises:
        ValueError: If a prompt is empty or `gen_length` is below 1.
    """
    if gen_length < 1:
        raise ValueError(f"gen_length must be at least 1, got {gen_length}")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"a prompt must hold at least one token, got none in prompt {number}")
    total_length = max((len(p) for p in prompts), default=0) + gen_length
    cache = RowCache(model.model.config.num_hidden_layers, total_length)
    opening = open_responses(model, prompts, gen_length, cache) if choose and prompts else None
    makers = choose(opening.features) if choose and opening else [schedule] * len(prompts)
    responses = [
        Response(model, np.asarray(p, np.int64), gen_length, *make())
        for p, make in zip(prompts, makers, strict=True)
    ]
    waiting = responses
    while waiting:
        requests = [response.request() for response in waiting]
        known = [opening.answer(n, r) for n, r in enumerate(requests)] if opening else [None]
        if opening and None in known:  # a schedule that leaves rows out at first needs a pass of its own
            for response in waiting:
                response.passes += 1
                response.rows += len(response.tokens)
        opening = None
        readings = read_pass(model, cache, requests) if None in known else [r for r in known if r]
        for response, reading in zip(waiting, readings, strict=True):
            response.apply(reading)
        kept = [n for n, response in enumerate(waiting) if not response.done]
        if len(kept) < len(waiting):
            waiting = [waiting[n] for n in kept]
            cache.keep_sequences(torch.tensor(kept, dtype=torch.long, device=model.model.device))
    return responses
