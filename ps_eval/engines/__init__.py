"""Inference engines, one adapter a module, imported only when asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

from ps_eval.engines.base import Engine

ENGINES = {"transformers": "ps_eval.engines.transformers:TransformersEngine"}
"""Engine name to the class that runs it."""


def load_engine(name: str, model: str | Path, **options: object) -> Engine:
    """Load a model into an engine.

    Args:
        name: One of `ENGINES`.
        model: A folder or a Hugging Face model name.
        options: Keyword arguments of the engine's class, such as `batch_size`.

    Raises:
        ValueError: If there is no such engine, or as the engine does.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {tuple(ENGINES)}, got {name!r}")
    module, attribute = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)(model, **options)
    return engine
