"""The two public calls, with the source system's signatures and metrics."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import PreTrainedModel

from ps_alloc.diffusion import (
    AdaptiveInferenceScheduler,
    BlockSizeController,
    CacheManager,
    DualCache,
    ShadowVerifier,
    ThresholdController,
    TieredCacheManager,
)
from ps_eval.diffusion.generate import decode
from ps_eval.diffusion.models import DiffusionModel, as_diffusion_model
from ps_eval.diffusion.response import Response


def generate_with_adaptive_scheduling(
    model: DiffusionModel | PreTrainedModel,
    prompt: torch.Tensor,
    gen_length: int = 128,
    base_block_size: int = 16,
    base_confidence_threshold: float = 0.8,
    adaptation_rate: float = 0.2,
    enable_tiered_cache: bool = True,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Decode one response with the source's whole system: adaptive blocks and threshold, tiers, correction.

    Args:
        model: What `load_diffusion_model` returns, or a transformers model whose config names
            `mask_token_id` (and `shifted_logits`, if so).
        prompt: (1, P) int64 token ids, P at least 1.
        gen_length: G, tokens to decode.
        base_block_size: Size of the first block; sizes are rounded to multiples of 4.
        base_confidence_threshold: Threshold of the first step.
        adaptation_rate: Of block size and threshold; 0 leaves both as they are.
        enable_tiered_cache: Else Fast-dLLM's dual cache.

    Returns:
        (1, P + G) int64 ids, EOS after the end; and metrics, see `metrics`.

    Raises:
        ValueError: If the prompt has another shape or a setting is out of range.
    """
    scheduler = AdaptiveInferenceScheduler(
        BlockSizeController(
            base_block_size,
            min(8, base_block_size),
            max(64, base_block_size),
            adaptation_rate=adaptation_rate,
        ),
        ThresholdController(
            base_confidence_threshold,
            min(0.7, base_confidence_threshold),
            max(0.95, base_confidence_threshold),
            adaptation_rate=adaptation_rate,
        ),
        ShadowVerifier(),
    )
    cache = TieredCacheManager() if enable_tiered_cache else DualCache()
    return generate_with_custom_scheduler(model, prompt, scheduler, cache, gen_length)


def generate_with_custom_scheduler(
    model: DiffusionModel | PreTrainedModel,
    prompt: torch.Tensor,
    scheduler: AdaptiveInferenceScheduler,
    cache_manager: CacheManager,
    gen_length: int = 128,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Decode one response with policies of your own.

    Args:
        model: As for `generate_with_adaptive_scheduling`.
        prompt: (1, P) int64 token ids, P at least 1.
        scheduler: Decides; it is started anew, and holds the history of the response afterwards.
        cache_manager: Likewise.
        gen_length: G, tokens to decode.

    Returns:
        (1, P + G) int64 ids, EOS after the end; and metrics, see `metrics`.

    Raises:
        ValueError: If the prompt has another shape.
    """
    if prompt.ndim != 2 or len(prompt) != 1 or not prompt.shape[1]:
        raise ValueError(f"prompt must be token ids of shape (1, P), P at least 1, got {tuple(prompt.shape)}")
    model = model if isinstance(model, DiffusionModel) else as_diffusion_model(model)
    started = time.perf_counter()
    (response,) = decode(model, prompt.tolist(), lambda: (scheduler, cache_manager), gen_length)
    seconds = time.perf_counter() - started
    ids = torch.from_numpy(response.tokens)[None].to(prompt.device)
    return ids, metrics(response) | {"tokens_per_second": response.num_tokens / seconds}


def metrics(response: Response) -> dict[str, Any]:
    """What a finished response cost.

    Returns:
        `tokens`: response tokens before EOS. `nfe`: forward passes of whatever size. `rows`: rows computed,
        shadows included; `rows_per_token`: by `tokens`; `full_passes`: by the rows of a full pass, P + G.
        `avg_block_size`; `cache_hit_rate`: share of attended rows not recomputed; `adaptations`: changes of
        block size and threshold; `remasked`: tokens taken back.
    """
    verifier = response.scheduler.verifier
    return {
        "tokens": response.num_tokens,
        "nfe": response.passes,
        "rows": response.rows,
        "rows_per_token": response.rows / max(1, response.num_tokens),
        "full_passes": response.rows / len(response.tokens),
        "avg_block_size": sum(response.block_sizes) / len(response.block_sizes),
        "cache_hit_rate": response.cache.hit_rate,
        "adaptations": response.scheduler.adaptations,
        "remasked": verifier.remasked if verifier is not None else 0,
    }
