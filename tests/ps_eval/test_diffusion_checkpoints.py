"""Checkpoints with LLaDA's and Dream's names load without their code and compute what those models do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusion_models import random_model
from safetensors.torch import save_file
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from ps_eval.diffusion import generate_with_adaptive_scheduling, load_diffusion_model
from ps_eval.diffusion.models import as_diffusion_model, llada_config
from ps_train.embedded.tiny_tokenizer import build_diffusion_tokenizer

D, HEADS, LAYERS, INNER, VOCABULARY = 32, 4, 2, 48, 60
LLADA = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "d_model": D,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "n_kv_heads": HEADS,
    "mlp_hidden_size": INNER,
    "vocab_size": VOCABULARY,
    "embedding_size": VOCABULARY,
    "max_sequence_length": 128,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "block_type": "llama",
    "layer_norm_type": "rms",
    "eos_token_id": 50,
    "pad_token_id": 50,
    "mask_token_id": 55,
}


def write_checkpoint(folder: Path, config: dict, weights: dict[str, torch.Tensor]) -> None:
    build_diffusion_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def llada_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator) * 0.2

    root = "model.transformer"
    weights = {
        f"{root}.wte.weight": draw(VOCABULARY, D),
        f"{root}.ln_f.weight": 1 + draw(D),
        f"{root}.ff_out.weight": draw(VOCABULARY, D),
    }
    for n in range(LAYERS):
        block = f"{root}.blocks.{n}"
        weights |= {
            f"{block}.{name}.weight": draw(D, D) for name in ("q_proj", "k_proj", "v_proj", "attn_out")
        }
        weights |= {f"{block}.{name}.weight": draw(INNER, D) for name in ("ff_proj", "up_proj")}
        weights |= {f"{block}.ff_out.weight": draw(D, INNER)}
        weights |= {f"{block}.{name}.weight": 1 + draw(D) for name in ("attn_norm", "ff_norm")}
    return weights


def llada_logits(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """LLaDA's pass written out: pre-norm blocks, rotary positions, attention without a mask, gated MLP."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        angles = torch.arange(len(ids))[:, None] / 500000.0 ** (torch.arange(0, size, 2) / size)
        angles = torch.cat([angles, angles], -1)
        turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * angles.cos() + turned * angles.sin()

    root = "model.transformer"
    x = weights[f"{root}.wte.weight"][ids]
    for n in range(LAYERS):
        block = f"{root}.blocks.{n}"
        h = norm(x, f"{block}.attn_norm")
        q, k, v = (
            (h @ weights[f"{block}.{name}.weight"].T).view(len(ids), HEADS, -1).transpose(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        scores = rotate(q) @ rotate(k).transpose(1, 2) / (D // HEADS) ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), D)
        x = x + mixed @ weights[f"{block}.attn_out.weight"].T
        h = norm(x, f"{block}.ff_norm")
        gate, up = (h @ weights[f"{block}.{name}.weight"].T for name in ("ff_proj", "up_proj"))
        x = x + (functional.silu(gate) * up) @ weights[f"{block}.ff_out.weight"].T
    return norm(x, f"{root}.ln_f") @ weights[f"{root}.ff_out.weight"].T


def test_llada_loads_by_its_keys(tmp_path: Path) -> None:
    weights = llada_weights()
    write_checkpoint(tmp_path, LLADA, weights)
    model = load_diffusion_model(tmp_path)
    assert (model.mask_id, model.eos_ids, model.shifted) == (55, (50,), False)
    ids = torch.randint(0, VOCABULARY, (20,))
    torch.testing.assert_close(
        model.model(input_ids=ids[None]).logits[0], llada_logits(weights, ids), atol=1e-5, rtol=1e-5
    )
    output, _ = generate_with_adaptive_scheduling(model, ids[None, :6], gen_length=16)
    assert output.shape == (1, 22)


def test_dream_loads_as_a_bidirectional_qwen2_with_shifted_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": D,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "eos_token_id": 50,
        "pad_token_id": 50,
    }
    reference = Qwen2ForCausalLM(Qwen2Config(**fields)).eval()
    config = fields | {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 55}
    write_checkpoint(tmp_path, config, {k: v.clone() for k, v in reference.state_dict().items()})
    model = load_diffusion_model(tmp_path)
    assert (model.mask_id, model.eos_ids, model.shifted) == (55, (50,), True)
    ids = torch.randint(0, VOCABULARY, (1, 20))
    everything = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    expected = reference(input_ids=ids, attention_mask=everything).logits
    torch.testing.assert_close(model.model(input_ids=ids).logits, expected)
    causal = reference(input_ids=ids).logits
    assert not torch.allclose(expected, causal, atol=1e-3)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be a diffusion model's folder or Hub id, got"):
        load_diffusion_model(tmp_path / "nothing")


def test_a_model_that_names_no_mask_is_refused() -> None:
    model = random_model().model
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match="must name mask_token_id and eos_token_id, got None and 1"):
        as_diffusion_model(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_type": "sequential"}, "must have block_type = 'llama', got 'sequential'"),
        ({"alibi": True}, "must have alibi = False, got True"),
        ({"d_model": None}, "LLaDA's config must name d_model"),
    ],
)
def test_a_llada_that_is_no_llama_is_refused(change: dict, message: str) -> None:
    values = {k: v for k, v in (LLADA | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        llada_config(values)
