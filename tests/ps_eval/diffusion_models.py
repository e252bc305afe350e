"""Tiny random diffusion models, and plain decoders that the engine must agree with."""

from __future__ import annotations

import numpy as np
import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from ps_alloc.diffusion import AcceptanceHead
from ps_alloc.diffusion.acceptance import NUM_SIGNALS
from ps_eval.diffusion.models import DiffusionModel, as_diffusion_model

MASK, EOS = 39, 1


def random_model(seed: int = 0, shifted: bool = False, scale: float = 0.4) -> DiffusionModel:
    """Two layers, 40 tokens; the larger the scale, the surer the model is of what it babbles."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=EOS,
        initializer_range=scale,
    )
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    model.config.mask_token_id = MASK
    model.config.shifted_logits = shifted
    return as_diffusion_model(model)


def random_head(seed: int = 0, width: int = 40) -> AcceptanceHead:
    """An acceptance head that says anything at all."""
    rng = np.random.default_rng(seed)
    d = NUM_SIGNALS + width
    shapes = (d, d, (d, 4), 4, 4, 1)
    return AcceptanceHead(*(rng.normal(1, 1, shape).astype(np.float32) for shape in shapes))


def full_logits(model: DiffusionModel, ids: torch.Tensor) -> torch.Tensor:
    """(L, V): the logits that predict each token of a sequence, by a pass over all of it."""
    return aligned(model, model.model(input_ids=ids[None], use_cache=False).logits[0])


def aligned(model: DiffusionModel, logits: torch.Tensor) -> torch.Tensor:
    """Logits (L, V) of a pass moved to the tokens they predict; the mask token is never predicted."""
    logits = torch.cat([logits[:1], logits[:-1]]) if model.shifted else logits.clone()
    logits[:, model.mask_id] = -torch.inf
    return logits


def plain_decode(
    model: DiffusionModel, prompt: list[int], gen_length: int, block: int, threshold: float, cache: str
) -> list[int]:
    """Fast-dLLM's loop on transformers' own cache (`none`, `prefix`, `dual`), with a fixed schedule."""
    ids = torch.tensor([*prompt, *[model.mask_id] * gen_length])
    masked = torch.arange(len(ids)) >= len(prompt)

    def text_end() -> int:
        ends = [i for i in range(len(prompt), len(ids)) if ids[i] in model.eos_ids and not masked[i]]
        return ends[0] if ends else len(ids)

    for start in range(len(prompt), len(ids), block):
        end = min(start + block, len(ids))
        kept = None
        while waiting := [i for i in range(start, min(end, text_end())) if masked[i]]:
            if cache == "none" or kept is None:
                low, kept = 0, DynamicCache()
                logits = model.model(input_ids=ids[None], past_key_values=kept, use_cache=True).logits[0]
            else:
                # Shifted logits of the block's first token come from the row before it.
                low = start - bool(model.shifted and masked[start])
                rows = torch.arange(low, len(ids) if cache == "prefix" else end)
                logits, kept = partial_pass(model, ids, rows, kept)
            confidence, tokens = aligned(model, logits)[[i - low for i in waiting]].softmax(-1).max(-1)
            for n, i in enumerate(waiting):
                if confidence[n] >= threshold or n == int(confidence.argmax()):
                    ids[i], masked[i] = tokens[n], False
        if text_end() < end:
            ids[text_end() :] = EOS
            break
    return ids.tolist()


def partial_pass(
    model: DiffusionModel, ids: torch.Tensor, rows: torch.Tensor, kept: DynamicCache
) -> tuple[torch.Tensor, DynamicCache]:
    """A pass over consecutive rows, the others' keys from `kept`; attention is blind to the order of keys."""
    low, high = int(rows[0]), int(rows[-1]) + 1
    for layer in kept.layers:
        layer.keys, layer.values = (
            torch.cat([x[:, :, :low], x[:, :, high:]], 2) for x in (layer.keys, layer.values)
        )
    logits = model.model(
        input_ids=ids[None, rows], position_ids=rows[None], past_key_values=kept, use_cache=True
    ).logits[0]
    for layer in kept.layers:
        layer.keys, layer.values = (
            torch.cat([x[:, :, :low], x[:, :, -len(rows) :], x[:, :, low : -len(rows)]], 2)
            for x in (layer.keys, layer.values)
        )
    return logits, kept
