"""Which layers of a language model get adapters, and how peft is asked for them."""

from __future__ import annotations

from typing import cast

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ps_train.common.loading import first_line
from ps_train.common.lora_settings import LoraSettings


def with_adapters(model: PreTrainedModel, path: str, settings: LoraSettings) -> PeftModel:
    """Put an adapter into each layer named in `settings`, in place.

    Args:
        model: Without output head.
        path: Where it keeps the blocks that run (`blocks_path`).
        settings: Which of them, and what, is adapted.

    Raises:
        ValueError: If a target module is no linear layer of the adapted blocks, or none that peft adapts.
    """
    kind, names = model.config.model_type, settings.target_modules
    blocks = cast(nn.ModuleList, model.get_submodule(path))
    numbers = sorted(set(settings.layers or range(1, len(blocks) + 1)))
    linear = {n: _linear_layers(blocks[n - 1]) for n in numbers}
    there = {_last(layer) for layers in linear.values() for layer in layers}
    if missing := [name for name in names if name not in there]:
        raise ValueError(
            f"lora.target_modules must be of {sorted(there)}, the linear layers of a {kind}, got {missing}"
        )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        # Full names: peft's own choice of layers does not match those of a model without output head.
        target_modules=[
            f"{path}.{n - 1}.{layer}" for n in numbers for layer in linear[n] if _last(layer) in names
        ],
        # GPT-2's own kind of linear layer keeps its weights the other way round.
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in blocks.modules()),
        task_type=TaskType.FEATURE_EXTRACTION,
    )
    reason = ""
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        reason = first_line(error)
    else:  # peft reads names that experts had in earlier versions of transformers as all experts
        kept = {_last(layer) for layer in config.target_modules or ()}
        if names := [name for name in names if name not in kept]:
            reason = "peft would adapt all experts instead"
    if reason:
        raise ValueError(f"lora.target_modules cannot be {names} in a {kind}: {reason}")
    return adapted


def _linear_layers(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, (nn.Linear, Conv1D))]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
