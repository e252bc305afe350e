from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "tiny-reasoner"
CORE = (
    *("qwen2", "granite", "gpt2", "bloom", "mpt", "gemma3_text"),
    *("gpt_oss", "mamba", "jamba", "qwen3_5_text", "gemma3"),
)
"""Run by `make test`, one of each kind; the others by `make test-slow`, twenty seconds together."""


@pytest.fixture(
    scope="module",
    params=[name if name in CORE else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of one family, named after it, and the embedded reasoner's tokenizer."""
    folder = tmp_path_factory.mktemp("families") / request.param
    torch.manual_seed(1)
    config = FAMILIES[request.param]()
    try:
        model = AutoModelForCausalLM.from_config(config)
    except ValueError:
        model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # away from uniform: tokens then depend on what came before
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Of different lengths, the first longer than any sliding window."""
    return [
        "Apr Sam has 17 eggs . May Sam buys 5 eggs . Jun Eva has 9 eggs . How many eggs does Sam have ?",
        "Apr Sam has 17 eggs . How many eggs does Sam have in Apr ?",
    ]
