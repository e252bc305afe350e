"""Masked-diffusion language models as plain transformers classes: the embedded one, LLaDA, Dream.

transformers ships neither LLaDA nor Dream, and their repositories bring code of their own. None of it is
needed: LLaDA is a Llama and Dream a Qwen2, both with bidirectional attention (`config.is_causal = False`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from ps_alloc.diffusion import AcceptanceHead
from ps_train.acceptance.fit import load_acceptance
from ps_train.shipped import resolve_embedded

ACCEPTANCE_FOLDER = "acceptance"
"""In a model's folder: its acceptance head."""

# LLaDA's names of weights to Llama's.
LLADA_KEYS = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.q_proj\.": r"model.layers.\1.self_attn.q_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.k_proj\.": r"model.layers.\1.self_attn.k_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.v_proj\.": r"model.layers.\1.self_attn.v_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
}


@dataclass(frozen=True)
class DiffusionModel:
    """A model with what a decoder must know of it."""

    model: PreTrainedModel
    """With bidirectional attention."""
    mask_id: int
    eos_ids: tuple[int, ...]
    """At least one. A response ends at the first of any; the first listed fills what follows."""
    shifted: bool
    """Whether the logits at position i - 1 predict the token at i (Dream), or those at i (LLaDA)."""
    tokenizer: PreTrainedTokenizerBase | None = None
    acceptance: AcceptanceHead | None = None
    """Judges which tokens to commit, for schedules that ask it."""


def load_diffusion_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    acceptance: str | Path | None = None,
) -> DiffusionModel:
    """Load a masked-diffusion model from a folder or the Hub; no code from there is run.

    Args:
        path: LLaDA (`model_type: llada`), Dream (`model_type: Dream`), or a transformers model whose config
            names `mask_token_id`, as `ps-train fit --config configs/tiny/diffusion.yaml` writes it.
        dtype: The type to compute in.
        device: Where to compute.
        acceptance: Folder of an acceptance head; by default `acceptance` in the model's folder, if there.

    Raises:
        ValueError: If nothing loadable is there, the config does not name the mask and EOS tokens, or the
            acceptance head reads states of another width.
    """
    path = resolve_embedded(path)
    beside = Path(path) / ACCEPTANCE_FOLDER
    folder = acceptance if acceptance is not None else beside if beside.is_dir() else None
    head = None if folder is None else load_acceptance(folder)
    try:
        values, _ = PretrainedConfig.get_config_dict(path)
        model = _load_model(str(path), values, dtype)
        tokenizer_class = Qwen2Tokenizer if values.get("model_type") == "Dream" else AutoTokenizer
        tokenizer = tokenizer_class.from_pretrained(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"model must be a diffusion model's folder or Hub id, got {path}: {reason}"
        ) from error
    placed: Any = model  # torch's decorated `to` hides its signature
    loaded = as_diffusion_model(placed.to(device).eval().requires_grad_(False), tokenizer)
    if head is not None and head.width != model.config.hidden_size:
        raise ValueError(
            f"the acceptance head must read states of the model's width {model.config.hidden_size}, "
            f"got {head.width} in {folder}"
        )
    return replace(loaded, acceptance=head)


def as_diffusion_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> DiffusionModel:
    """Read what a decoder must know from a loaded model's config, and make its attention bidirectional.

    Raises:
        ValueError: If the config does not name `mask_token_id` and `eos_token_id`.
    """
    config: Any = model.config
    mask_id, eos = getattr(config, "mask_token_id", None), config.eos_token_id
    if mask_id is None or eos is None:
        raise ValueError(
            f"the model's config must name mask_token_id and eos_token_id, got {mask_id} and {eos}"
        )
    config.is_causal = False
    # Attention modules repeat the flag, and sdpa reads it there.
    attention: Any
    for attention in model.modules():
        if hasattr(attention, "is_causal"):
            attention.is_causal = False
    eos_ids = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
    return DiffusionModel(model, mask_id, eos_ids, bool(getattr(config, "shifted_logits", False)), tokenizer)


def _load_model(path: str, values: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    if values.get("model_type") == "llada":
        return LlamaForCausalLM.from_pretrained(
            path, config=llada_config(values), key_mapping=LLADA_KEYS, dtype=dtype
        )
    if values.get("model_type") == "Dream":
        fields = {k: v for k, v in values.items() if k not in ("model_type", "architectures", "auto_map")}
        config = Qwen2Config(**fields)
        config.shifted_logits = True
        return Qwen2ForCausalLM.from_pretrained(path, config=config, dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(path, config=AutoConfig.from_pretrained(path), dtype=dtype)


def llada_config(values: dict[str, Any]) -> LlamaConfig:
    """LLaDA's config in Llama's terms.

    Args:
        values: The content of LLaDA's `config.json`.

    Raises:
        ValueError: If a setting is missing, or asks for what a Llama has not.
    """
    # Another value of these would need code that Llama does not have.
    expected = {"block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False}
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise ValueError(f"LLaDA's config must have {name} = {value!r}, got {values[name]!r}")
    try:
        config = LlamaConfig(
            vocab_size=values.get("embedding_size") or values["vocab_size"],
            hidden_size=values["d_model"],
            intermediate_size=values["mlp_hidden_size"],
            num_hidden_layers=values["n_layers"],
            num_attention_heads=values["n_heads"],
            num_key_value_heads=values.get("n_kv_heads") or values["n_heads"],
            max_position_embeddings=values["max_sequence_length"],
            rms_norm_eps=values.get("rms_norm_eps", 1e-5),
            rope_parameters={"rope_type": "default", "rope_theta": values.get("rope_theta", 1e4)},
            attention_bias=bool(values.get("include_qkv_bias", False)),
            tie_word_embeddings=bool(values.get("weight_tying", False)),
            eos_token_id=values["eos_token_id"],
            pad_token_id=values.get("pad_token_id"),
            bos_token_id=None,
        )
        config.mask_token_id = values["mask_token_id"]
    except KeyError as error:
        raise ValueError(f"LLaDA's config must name {error.args[0]}, got {sorted(values)}") from error
    return config
