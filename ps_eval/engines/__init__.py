"""Inference engines, one adapter a module, imported only when asked for."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from ps_eval.engines.base import Engine

ENGINES = {
    "transformers": "ps_eval.engines.transformers:TransformersEngine",
    "vllm": "ps_eval.engines.vllm:VLLMEngine",
    "vllm-native": "ps_eval.engines.vllm_native:NativeVLLMEngine",
    "openai": "ps_eval.engines.openai:OpenAIEngine",
}
"""Engine name to the class that runs it."""


def load_engine(name: str, model: str | Path, **options: object) -> Engine:
    """Load a model into an engine.

    Args:
        name: One of `ENGINES`.
        model: A folder or a Hugging Face model name.
        options: Keyword arguments of the engine's class, such as `batch_size`.

    Raises:
        ValueError: If there is no such engine, it has no such option, or as the engine does.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {tuple(ENGINES)}, got {name!r}")
    module, attribute = ENGINES[name].split(":")
    adapter = getattr(importlib.import_module(module), attribute)
    try:
        inspect.signature(adapter).bind(model, **options)
    except TypeError as error:
        allowed = ", ".join(list(inspect.signature(adapter).parameters)[1:])
        raise ValueError(f"options of the engine {name} must be among {allowed}, but {error}") from error
    engine: Engine = adapter(model, **options)
    return engine
