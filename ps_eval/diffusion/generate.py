"""Decode responses, one or many at a time, whatever their schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ps_alloc.diffusion import AdaptiveInferenceScheduler, CacheManager
from ps_eval.diffusion.forward import read_pass
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.opening import Opening, open_responses
from ps_eval.diffusion.response import Response, gumbel_sampler
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
    *,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
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
        temperature: 0: the most probable token is committed; above, one drawn at this temperature, its
            confidence being its own probability (LLaDA's `generate.py`).
        seeds: (N,) of the draws, one a response; needed above temperature 0.

    Returns:
        N finished responses.

    Raises:
        ValueError: If a prompt is empty, `gen_length` is below 1, or `seeds` do not fit `temperature`.
    """
    if gen_length < 1:
        raise ValueError(f"gen_length must be at least 1, got {gen_length}")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"a prompt must hold at least one token, got none in prompt {number}")
    if not 0 <= temperature < np.inf or (temperature > 0) != (seeds is not None):
        raise ValueError(
            f"temperature must be 0 or more, with seeds where it is above 0, got {temperature} and "
            f"{'no seeds' if seeds is None else 'seeds'}"
        )
    if seeds is not None and len(seeds) != len(prompts):
        raise ValueError(f"seeds must be one a prompt, {len(prompts)}, got {len(seeds)}")
    total_length = max((len(p) for p in prompts), default=0) + gen_length
    cache = RowCache(model.model.config.num_hidden_layers, total_length)
    opening = open_responses(model, prompts, gen_length, cache) if choose and prompts else None
    makers = choose(opening.features) if choose and opening else [schedule] * len(prompts)
    responses = [
        Response(
            model,
            np.asarray(p, np.int64),
            gen_length,
            *make(),
            None
            if seeds is None
            else gumbel_sampler(temperature, int(model.model.config.vocab_size), seeds[n]),
        )
        for n, (p, make) in enumerate(zip(prompts, makers, strict=True))
    ]
    finish(model, cache, responses, opening)
    return responses


def finish(
    model: DiffusionModel, cache: RowCache, responses: Sequence[Response], opening: Opening | None = None
) -> None:
    """Run passes until every response is done.

    Args:
        model: The model.
        cache: Sequence n of it is `responses[n]`.
        responses: Begun, none of them done.
        opening: The first pass, where it has been run.
    """
    waiting = list(responses)
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
