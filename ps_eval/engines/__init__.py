"""Inference engines, one adapter a module, imported only when asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ps_alloc.plug_in import load_plug_in
from ps_eval.engines.base import Engine
from ps_eval.engines.pool import EnginePool, OneEngine
from ps_train.shipped import resolve_embedded

Adapter = TypeVar("Adapter")

ENGINES = {
    "transformers": "ps_eval.engines.transformers:TransformersEngine",
    "vllm": "ps_eval.engines.vllm:VLLMEngine",
    "vllm-native": "ps_eval.engines.vllm_native:NativeVLLMEngine",
    "openai": "ps_eval.engines.openai:OpenAIEngine",
}
"""Engine name to the class that runs it; a class of the user's own goes by `module:Class`."""
WATCHED = ("transformers", "vllm")
"""Engines that tell each token's probability, and stop at checkpoints."""
ENGINE_PARTS = (
    *("kind", "repeatable", "one_pass", "concurrent", "settings"),
    *("prompt_of", "text_of", "reason", "answer", "respond", "probe"),
)
"""What of `Engine` its class has already."""
RAY = "ray"
"""In the place of an engine's name: the engine that its options name, on the workers of a Ray cluster."""


def load_engine(name: str, model: str | Path, **options: object) -> Engine:
    """Load a model into an engine.

    Args:
        name: One of `ENGINES`, or `module:Class` of your own: an `Engine` made of (model, …). It is imported,
            so name only code that you trust.
        model: A folder, a Hugging Face model name, or `embedded:tiny-reasoner`, which comes with the package.
        options: Keyword arguments of the engine's class, such as `batch_size`.

    Raises:
        ValueError: If there is no such engine, it has no such option, or as the engine does.
    """
    return _construct(name, engine_class(name), resolve_embedded(model), options)


def engine_class(name: str, more: Sequence[str] = ()) -> type[Engine]:
    """The class that runs an engine; nothing of the engine itself is loaded.

    Args:
        name: As of `load_engine`.
        more: Names that could stand there too, for the message.

    Raises:
        ValueError: If there is no such engine.
    """
    if name == RAY:
        raise ValueError(
            "engine ray stands for many engines: it is for ps-eval trace, run and answer alone, "
            "and its workers need one of the others"
        )
    adapter: type[Engine]
    if name in ENGINES:
        module, attribute = ENGINES[name].split(":")
        adapter = getattr(importlib.import_module(module), attribute)
        return adapter
    adapter = load_plug_in(name, "engine", (*ENGINES, *more), "a class of (model, …)", "module:Class")
    if missing := [part for part in ENGINE_PARTS if not hasattr(adapter, part)]:
        raise ValueError(f"engine must be an Engine (ps_eval.engines.base), but {name} has no {missing[0]}")
    return adapter


def load_pool(name: str, model: str | Path, **options: object) -> EnginePool:
    """Load a model into one engine in this process, or into those of a Ray cluster.

    Args:
        name: One of `ENGINES`, `module:Class` of your own, or `ray`.
        model: A folder or a Hugging Face model name.
        options: Keyword arguments of the engine's class, or of `ps_eval.engines.ray_pool.RayEnginePool`.

    Raises:
        ValueError: As `load_engine`, or as the pool does; if Ray is not installed.
    """
    if name != RAY:
        return OneEngine(_construct(name, engine_class(name, [RAY]), resolve_embedded(model), options))
    try:
        from ps_eval.engines.ray_pool import RayEnginePool
    except ImportError as error:
        raise ValueError("engine ray needs Ray Data: pip install 'predictive-scheduling[ray]'") from error
    return _construct(name, RayEnginePool, resolve_embedded(model), options)


def _construct(
    name: str, adapter: Callable[..., Adapter], model: str | Path, options: dict[str, object]
) -> Adapter:
    try:
        inspect.signature(adapter).bind(model, **options)
    except TypeError as error:
        allowed = ", ".join(list(inspect.signature(adapter).parameters)[1:])
        raise ValueError(f"options of the engine {name} must be among {allowed}, but {error}") from error
    return adapter(model, **options)
