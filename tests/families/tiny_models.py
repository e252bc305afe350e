"""A tiny random model of every family of causal language models that transformers can build small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as t
from transformers import PretrainedConfig

WINDOW = 12
"""Of sliding layers: shorter than the prompts."""
VOCABULARY = 224
"""At least the embedded reasoner's tokenizer."""

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
HEADS = {**BASE, "head_dim": 8}
MIXED = ["sliding_attention", "full_attention"] * 2
LINEAR = ["linear_attention", "full_attention"] * 2
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "eos_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": LINEAR,
}


def without(base: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name not in names} | more


FULL: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: t.LlamaConfig(**BASE),
    "qwen2": lambda: t.Qwen2Config(**BASE),
    "qwen3": lambda: t.Qwen3Config(**HEADS),
    "gemma": lambda: t.GemmaConfig(**HEADS),
    "granite": lambda: t.GraniteConfig(
        **BASE, embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.1
    ),
    "olmo2": lambda: t.Olmo2Config(**BASE),
    "glm4": lambda: t.Glm4Config(**HEADS),
    "smollm3": lambda: t.SmolLM3Config(**BASE),
    "nemotron": lambda: t.NemotronConfig(**BASE),
    "phi": lambda: t.PhiConfig(**BASE),
    "stablelm": lambda: t.StableLmConfig(**BASE),
    "starcoder2": lambda: t.Starcoder2Config(**BASE),
    "helium": lambda: t.HeliumConfig(**HEADS),
    "cohere": lambda: t.CohereConfig(**BASE),
    "ernie4_5": lambda: t.Ernie4_5Config(**HEADS),
    "seed_oss": lambda: t.SeedOssConfig(**HEADS),
}
OLDER: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: t.GPT2Config(**GPT),
    "gptj": lambda: t.GPTJConfig(**GPT, rotary_dim=4),
    "gpt_neo": lambda: t.GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=256,
        window_size=WINDOW,
        eos_token_id=1,
    ),
    "gpt_neox": lambda: t.GPTNeoXConfig(**without(BASE, "num_key_value_heads")),
    "gpt_bigcode": lambda: t.GPTBigCodeConfig(**GPT),
    "codegen": lambda: t.CodeGenConfig(**GPT, rotary_dim=4),
    "opt": lambda: t.OPTConfig(
        **without(BASE, "intermediate_size", "num_key_value_heads", ffn_dim=48, word_embed_proj_dim=32)
    ),
    "bloom": lambda: t.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, eos_token_id=1, pad_token_id=0
    ),
    "falcon": lambda: t.FalconConfig(**without(BASE, "intermediate_size", "num_key_value_heads")),
    "falcon_alibi": lambda: t.FalconConfig(
        **without(BASE, "intermediate_size", "num_key_value_heads"), alibi=True
    ),
    "mpt": lambda: t.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4, max_seq_len=256),
    "biogpt": lambda: t.BioGptConfig(**without(BASE, "num_key_value_heads")),
    "xglm": lambda: t.XGLMConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        ffn_dim=48,
        num_layers=3,
        attention_heads=4,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "persimmon": lambda: t.PersimmonConfig(**without(BASE, "num_key_value_heads")),
}
SLIDING: dict[str, Callable[[], PretrainedConfig]] = {
    "mistral": lambda: t.MistralConfig(**HEADS, sliding_window=WINDOW),
    "phi3": lambda: t.Phi3Config(**BASE, sliding_window=WINDOW),
    "qwen2_swa": lambda: t.Qwen2Config(
        **BASE, sliding_window=WINDOW, use_sliding_window=True, max_window_layers=2
    ),
    "gemma2": lambda: t.Gemma2Config(**HEADS, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3_text": lambda: t.Gemma3TextConfig(**HEADS, sliding_window=WINDOW, layer_types=MIXED),
    "gpt_oss": lambda: t.GptOssConfig(
        **HEADS, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2, layer_types=MIXED
    ),
    "exaone4": lambda: t.Exaone4Config(**HEADS, sliding_window=WINDOW, layer_types=MIXED),
    "cohere2": lambda: t.Cohere2Config(**HEADS, sliding_window=WINDOW, layer_types=MIXED),
    "olmo3": lambda: t.Olmo3Config(**BASE, sliding_window=WINDOW, layer_types=MIXED),
    "ministral": lambda: t.MinistralConfig(**HEADS, sliding_window=WINDOW, layer_types=MIXED),
}
EXPERT: dict[str, Callable[[], PretrainedConfig]] = {
    "mixtral": lambda: t.MixtralConfig(**BASE, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: t.Qwen2MoeConfig(**BASE, **EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_moe": lambda: t.Qwen3MoeConfig(**HEADS, **EXPERTS),
    "olmoe": lambda: t.OlmoeConfig(**BASE, num_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda: t.GraniteMoeConfig(**BASE, num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": lambda: t.DeepseekV3Config(
        **without(BASE, "num_key_value_heads"),
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
}
HYBRID: dict[str, Callable[[], PretrainedConfig]] = {
    "mamba": lambda: t.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=8,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "mamba2": lambda: t.Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=16,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "falcon_mamba": lambda: t.FalconMambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=8,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "falcon_h1": lambda: t.FalconH1Config(
        **HEADS, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=16
    ),
    "bamba": lambda: t.BambaConfig(
        **BASE,
        attn_layer_indices=[1, 3],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=16,
    ),
    "granitemoehybrid": lambda: t.GraniteMoeHybridConfig(
        **BASE,
        layer_types=["mamba", "attention"] * 2,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=32,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=16,
    ),
    "jamba": lambda: t.JambaConfig(
        **BASE,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        num_experts=4,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "lfm2": lambda: t.Lfm2Config(**BASE, layer_types=["conv", "full_attention"] * 2),
    "qwen3_next": lambda: t.Qwen3NextConfig(**HEADS, **DELTA, **EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_5_text": lambda: t.Qwen3_5TextConfig(**HEADS, **DELTA),
    "recurrent_gemma": lambda: t.RecurrentGemmaConfig(
        **without(HEADS, "max_position_embeddings"), lru_width=32, attention_window_size=64
    ),
    "zamba2": lambda: t.Zamba2Config(
        **without(BASE, "num_hidden_layers"),
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid"] * 2,
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        chunk_size=16,
        use_mem_rope=False,
    ),
}
MULTIMODAL: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3": lambda: t.Gemma3Config(
        text_config={**HEADS, "sliding_window": WINDOW, "layer_types": MIXED},
        vision_config=VISION,
        image_token_index=VOCABULARY - 1,
        boi_token_index=VOCABULARY - 2,
        eoi_token_index=VOCABULARY - 3,
        mm_tokens_per_image=4,
    ),
    "llava": lambda: t.LlavaConfig(
        text_config=t.LlamaConfig(**BASE),
        vision_config=t.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        image_token_index=VOCABULARY - 1,
    ),
}
FAMILIES = FULL | OLDER | SLIDING | EXPERT | HYBRID | MULTIMODAL
