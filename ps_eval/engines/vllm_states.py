"""Hidden states of prompts from vLLM's own prefill: hooks on the wanted blocks, in this process, eager.

vLLM packs the tokens of all requests that it has scheduled into rows, without padding; each request's last
row of a step is its last token so far. What a prompt's last piece leaves stands, so that prompts may be read
in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

if TYPE_CHECKING:
    from vllm import LLM


def can_hook(llm: LLM) -> bool:
    """Whether a hook on a block sees every forward pass: one worker, in this process, nothing compiled."""
    config = llm.llm_engine.vllm_config
    return bool(
        config.model_config.enforce_eager
        and config.parallel_config.world_size == 1
        and hasattr(llm.llm_engine, "model_executor")  # the engine's core lives in this process
    )


@contextmanager
def request_states(llm: LLM, layers: Sequence[int]) -> Iterator[dict[int, dict[str, torch.Tensor]]]:
    """Within it, vLLM leaves the last state of each request: layer to request id to (D,), float32.

    As transformers reports them: the output of block n, of the last block after the final norm.

    Args:
        llm: One that `can_hook`.
        layers: Blocks, from 1.

    Raises:
        ValueError: If the model's blocks do not stand in one list, or there is no such block.
    """
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    owner, blocks = _blocks(runner.model, llm.llm_engine.model_config.get_total_num_hidden_layers())
    if outside := [n for n in layers if not 1 <= n <= len(blocks)]:
        raise ValueError(f"layers must be between 1 and {len(blocks)}, got {outside}")
    states: dict[int, dict[str, torch.Tensor]] = {layer: {} for layer in layers}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            requests, starts = scheduled()
            last = torch.as_tensor(starts[1 : len(requests) + 1] - 1)
            parts = output if isinstance(output, tuple) else (output,)
            hidden = parts[0][last].float()
            if layer < len(blocks) and len(parts) > 1 and parts[1] is not None:
                hidden = hidden + parts[1][last].float()  # vLLM adds a block's input later, fused
            states[layer].update(zip(requests, hidden.cpu(), strict=True))

        return hook

    with ExitStack() as stack:
        scheduled = stack.enter_context(_scheduled(runner))
        for layer in layers:
            module = owner.get_submodule("norm") if layer == len(blocks) else blocks[layer - 1]
            stack.callback(module.register_forward_hook(keep(layer)).remove)
        yield states


@contextmanager
def _scheduled(runner: Any) -> Iterator[Callable[[], tuple[list[str], npt.NDArray[np.int32]]]]:
    """Within it, a function that says which requests a step reads and where each one's rows begin."""
    if hasattr(runner, "input_batch"):  # model runner V1
        yield lambda: (list(runner.input_batch.req_ids), runner.query_start_loc.np)
        return
    # Model runner V2, vLLM's default on a GPU, keeps no step's batch, but makes each by this method.
    prepare = runner.prepare_inputs
    batch: Any = None

    def prepare_and_keep(*given: Any, **named: Any) -> Any:
        nonlocal batch
        batch = prepare(*given, **named)
        return batch

    runner.prepare_inputs = prepare_and_keep
    try:
        yield lambda: (list(batch.req_ids), batch.query_start_loc_np)
    finally:
        del runner.prepare_inputs  # the class's own again


def _blocks(model: nn.Module, count: int) -> tuple[nn.Module, nn.ModuleList]:
    """The module that owns the model's blocks, and the blocks."""
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, child
    raise ValueError(f"model must hold its {count} blocks in one list, got {type(model).__name__}")
