"""A tiny random backbone with a real tokenizer, and curve tables small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from ps_train.curve_table import CurveTable

WORDS = [
    "<pad>",
    "<unk>",
    "<think>",
    "how",
    "many",
    "eggs",
    "does",
    "sam",
    "have",
    "?",
    "then",
    "buys",
    "two",
]
WORDS += list("0123456789")
NUM_LAYERS, WIDTH = 4, 32
CHAT_TEMPLATE = "{{ messages[0]['content'] }}{% if add_generation_prompt %} <think>{% endif %}"


def make_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """One token a word or digit; words outside the list are lost.

    Every word is an added token: of a Qwen2 folder, `AutoTokenizer` keeps those and the template alone.
    """
    words = Tokenizer(BPE({word: i for i, word in enumerate(WORDS)}, merges=[]))
    words.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", chat_template=chat_template
    )


def save_backbone(folder: Path) -> Path:
    """Write a random 4-block Qwen2 whose template ends prompts with `<think>`; returns the folder."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    Qwen2Model(config).eval().save_pretrained(folder)
    make_tokenizer(CHAT_TEMPLATE).save_pretrained(folder)
    return folder


def make_table(n: int, seed: int = 0, num_windows: int = 8, window: int = 16, width: int = 12) -> CurveTable:
    """Curves that a linear map of `layer_2` explains, with the noise of 50 traces."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, width)).astype(np.float32)
    middle = num_windows / 2 + states[:, :1] * 2
    probabilities = 0.9 / (1 + np.exp(-(np.arange(num_windows) - middle)))
    return CurveTable(
        ids=[f"q{i}" for i in range(n)],
        questions=[f"how many eggs does sam have {' '.join(str(1000 * seed + i))} ?" for i in range(n)],
        answers=[str(i) for i in range(n)],
        curves=(rng.binomial(50, probabilities) / 50).astype(np.float32),
        n_traces=np.full(n, 50, np.int32),
        budgets=window,
        metadata={"model": "made-up"},
        features={"layer_2": states, "layer_3": rng.normal(size=(n, width)).astype(np.float32)},
    )
