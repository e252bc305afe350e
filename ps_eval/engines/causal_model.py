"""A causal language model with its output head, where and how it is wanted, or one sentence why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from ps_train.common.loading import first_line, resolve_model, torch_device, torch_dtype

QUANTIZATIONS = {"8bit": {"load_in_8bit": True}, "4bit": {"load_in_4bit": True}}
"""By name, as bitsandbytes knows them."""


def load_causal_model(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a model for generation; see `ps_eval.engines.transformers.TransformersEngine` for the options.

    Raises:
        ValueError: If the model or an option cannot be had here.
    """
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else _dtype(dtype)}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    target = None if device_map is not None else torch_device(device)
    if device_map is not None:
        if device != "auto":
            raise ValueError(f"device and device_map cannot both be given, got {device} and {device_map}")
        options["device_map"] = device_map
    if quantization is not None:
        options["quantization_config"] = _quantization(quantization)
        if device_map is None:  # such weights are made where they stay
            options["device_map"], target = {"": target}, None
    loaded = _load(str(resolve_model(model)), options)
    if target is not None:
        loaded.to(target)  # type: ignore[arg-type]  # its decorator hides `self`
    return loaded.eval()


def _load(model: str, options: dict[str, Any]) -> PreTrainedModel:
    try:
        try:
            loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            # Some models that also read images are registered as such alone; text is all they are given.
            loaded = AutoModelForImageTextToText.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        if "Unrecognized configuration class" in str(error):
            reason = "transformers knows no causal language model of its architecture"
        else:
            reason = first_line(error)
        given = {name: value for name, value in options.items() if value != "auto"}
        raise ValueError(
            f"model must have weights that transformers can load, got {model}"
            f"{f' with {given}' if given else ''}: {reason}"
        ) from error
    return loaded


def _dtype(name: str) -> torch.dtype:
    try:
        return torch_dtype(name)
    except ValueError as error:
        raise ValueError(str(error).replace("one of (", "auto or one of (")) from error


def _quantization(value: str | Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if value not in QUANTIZATIONS:
        raise ValueError(
            f"quantization must be one of {tuple(QUANTIZATIONS)} or a configuration's fields, got {value!r}"
        )
    return BitsAndBytesConfig(**QUANTIZATIONS[value])
