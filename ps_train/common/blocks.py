"""A language model's transformer blocks, whatever its architecture calls them: found, read, run in part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from threading import RLock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that reads text from left to right; most models are that part.

    Raises:
        ValueError: If the model is an encoder with a decoder, such as T5.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"a causal language model is needed, but {type(model).__name__} is an encoder with a decoder"
        )
    found = model.get_decoder()
    while isinstance(found, PreTrainedModel) and found is not model:
        model, found = found, found.get_decoder()
    return model


def num_layers(model: PreTrainedModel) -> int:
    """How many blocks the model has: the largest n of `layer_<n>`."""
    return int(model.config.get_text_config().num_hidden_layers)


def hidden_size(model: PreTrainedModel) -> int:
    """The width D of the model's hidden states."""
    return int(model.config.get_text_config().hidden_size)


def transformer_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks.

    Raises:
        ValueError: If they do not stand in one module list.
    """
    return model.get_submodule(blocks_path(model))  # type: ignore[return-value]


def blocks_path(model: PreTrainedModel) -> str:
    """Where the model keeps its blocks, as dotted names."""
    count = num_layers(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name
    raise ValueError(f"backbone must hold its {count} blocks in one module list, got {type(model).__name__}")


ONE_AT_A_TIME = RLock()
"""Held by the thread that reads a model with hooks or changed parts: others would run into them."""


class _Reached(Exception):
    """Leaves the forward pass once nothing deeper is needed."""


def block_outputs(
    model: PreTrainedModel, layers: Sequence[int], **inputs: Tensor | None
) -> dict[int, Tensor]:
    """One forward pass up to the deepest of `layers`: layer number to (B, L, D) hidden states.

    Args:
        model: A model without output head.
        layers: Numbers from 1; the last block's output is read after the final norm, as transformers does.
        inputs: `input_ids`, `attention_mask` and what else the model takes.
    """
    blocks = transformer_blocks(model)
    states: dict[int, Tensor] = {}
    deepest = max(layers)

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _Reached

        return hook

    with ONE_AT_A_TIME, ExitStack() as stack:
        for n in layers:
            if n < len(blocks):
                stack.callback(blocks[n - 1].register_forward_hook(keep(n)).remove)
        with suppress(_Reached):
            output = model(**accepted(model, use_cache=False, **inputs)).last_hidden_state
            states[len(blocks)] = output
    return {layer: states[layer] for layer in layers}


def states_before(model: nn.Module, blocks: nn.ModuleList, number: int, **inputs: Any) -> Tensor:
    """What block `number` (from 0) is given in a forward pass, (B, L, D), or what the last one returns."""
    found: list[Tensor] = []

    def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    def keep_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    if number < len(blocks):
        handle = blocks[number].register_forward_pre_hook(keep_input, with_kwargs=True)
    else:
        handle = blocks[-1].register_forward_hook(keep_output)
    try:
        model(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


@contextmanager
def starting_at(blocks: nn.ModuleList, number: int, hidden: Tensor) -> Iterator[None]:
    """Within it, a forward pass gives block `number` (from 0) `hidden`, whatever comes before.

    The blocks below keep their places, so that all others keep their numbers, their kinds of attention and
    whatever else an architecture gives by place; they compute nothing.
    """

    def skip(*_args: Any, **_kwargs: Any) -> Tensor:
        return hidden

    def take(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    with ExitStack() as stack:
        for skipped in blocks[:number]:
            skipped.forward = skip
            stack.callback(delattr, skipped, "forward")
        if number < len(blocks):
            stack.callback(blocks[number].register_forward_pre_hook(take, with_kwargs=True).remove)
        yield


def accepted(model: nn.Module, **inputs: Any) -> dict[str, Any]:
    """Those of `inputs` that are not None and that the model's forward pass takes by name."""
    names = _argument_names(getattr(model.forward, "__func__", model.forward))  # the function holds no model
    return {name: value for name, value in inputs.items() if value is not None and name in names}


@lru_cache(maxsize=64)
def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


_PADDED: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()


def takes_padding(model: PreTrainedModel, side: Literal["left", "right"]) -> bool:
    """Whether rows may be padded on a side: each row's states are then those that it has alone.

    Found by trying once a model: some recurrent and hybrid architectures take no account of padding.
    """
    with ONE_AT_A_TIME:
        known = _PADDED.setdefault(model, {})
        if side not in known:
            known[side] = _padding_is_harmless(model, side)
        return known[side]


@torch.inference_mode()
def _padding_is_harmless(model: PreTrainedModel, side: str) -> bool:
    width, real = 12, slice(5, None) if side == "left" else slice(0, 7)
    high = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, high, (2, width), generator=torch.Generator().manual_seed(0)).to(model.device)
    mask = torch.ones_like(ids)
    mask[0] = 0
    mask[0, real] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    try:
        together = model(**accepted(model, **padded)).last_hidden_state[:1, real].float()
    except (RuntimeError, ValueError, IndexError):
        return False
    alone = model(**accepted(model, input_ids=ids[:1, real], use_cache=False)).last_hidden_state.float()
    return bool((together - alone).norm() <= tolerance(model.dtype) * alone.norm())


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative difference that rounding alone makes between two ways to compute a state."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 0.1
