"""A tiny random backbone on disk, shared by the tests of features and predictors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_curves import CHAT_TEMPLATE, NUM_LAYERS, WIDTH, WORDS, make_tokenizer
from transformers import Qwen2Config, Qwen2Model


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-block Qwen2 whose template ends prompts with `<think>`."""
    folder = tmp_path_factory.mktemp("backbone")
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


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """40 different questions of 4 to 23 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[3:], size=4 + i // 2)) + f" {i}" for i in range(40)]
