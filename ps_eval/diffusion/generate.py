"""Decode responses, one or many at a time, whatever their schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ps_alloc.diffusion import AdaptiveInferenceScheduler, CacheManager
from ps_eval.diffusion.forward import read_pass
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.response import Response
from ps_eval.diffusion.row_cache import RowCache

PolicyMaker = Callable[[], tuple[AdaptiveInferenceScheduler, CacheManager]]
"""Makes the policies of one response."""


def decode(
    model: DiffusionModel, prompts: Sequence[Sequence[int]], schedule: PolicyMaker, gen_length: int
) -> list[Response]:
    """Decode one batch: each pass serves every response that is not done, each with rows of its own.

    Block boundaries, thresholds and rows differ between responses; a pass is as wide as the widest request.
    A response depends on the others only through rounding.

    Args:
        model: The model.
        prompts: N prompts as token ids, each at least one.
        schedule: Called once a prompt.
        gen_length: G, tokens of a response with its filling.

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
    responses = [Response(model, np.asarray(p, np.int64), gen_length, *schedule()) for p in prompts]
    total_length = max((len(p) for p in prompts), default=0) + gen_length
    cache = RowCache(model.model.config.num_hidden_layers, total_length)
    waiting = responses
    while waiting:
        readings = read_pass(model, cache, [response.request() for response in waiting])
        for response, reading in zip(waiting, readings, strict=True):
            response.apply(reading)
        kept = [n for n, response in enumerate(waiting) if not response.done]
        if len(kept) < len(waiting):
            waiting = [waiting[n] for n in kept]
            cache.keep_sequences(torch.tensor(kept, dtype=torch.long, device=model.model.device))
    return responses
