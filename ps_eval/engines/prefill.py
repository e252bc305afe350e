"""Prompts read once for two purposes: their hidden states for a predictor, their cache for the reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from ps_eval.engines.base import Engine, Failure, Progress, Reasoning, Request, Sampling
from ps_eval.engines.reading import Rows
from ps_eval.engines.watch import Watch
from ps_train.common.blocks import text_decoder, transformer_blocks
from ps_train.common.features import Features


@dataclass(frozen=True)
class PrefilledBatch:
    """Prompts that were read together."""

    numbers: list[int]
    """Of the questions."""
    rows: Rows
    """What the model remembers of them; it is forked for every reasoning."""
    logits: torch.Tensor
    """(B, V): of their first tokens of reasoning."""


@dataclass(frozen=True)
class Prefill:
    """Questions whose prompts an engine has read: `engine.reason(…, prefilled=…)` goes on from there.

    As often as wanted, with any of the questions, in any order, each several times or not at all.
    """

    questions: tuple[str, ...]
    """N of them."""
    features: Features
    """`layer_<n>` to float32 (N, D), as `ps_train.common.features.extract_features` gives them."""
    batches: list[PrefilledBatch]
    """All that could be read: not the questions that have no tokens or no room. None where the engine keeps
    what it read itself, as vLLM in its prefix cache."""

    def places(self, questions: Sequence[str]) -> dict[int, list[tuple[int, int]]]:
        """Where questions were read: batch → (place among `questions`, row of the batch) of its own."""
        where = {
            self.questions[number]: (b, row)
            for b, batch in enumerate(self.batches)
            for row, number in enumerate(batch.numbers)
        }
        found: dict[int, list[tuple[int, int]]] = {}
        for place, question in enumerate(questions):
            if question in where:
                batch, row = where[question]
                found.setdefault(batch, []).append((place, row))
        return found


class PrefillEngine(Engine, Protocol):
    """An engine that reads prompts for a predictor, too, and whose reasonings can be watched."""

    prefill_dtype: torch.dtype | None
    """Of the states; None where it has none to give as it was loaded."""
    prefilled: Prefill | None
    """What `reason` goes on from where it is given nothing else."""

    def unfit(self, requests: Sequence[Request]) -> list[Failure | None]:
        """Why there is no room for a request's budget and an answer; None where there is."""
        ...

    def prefill(self, questions: Sequence[str], layers: Sequence[int] = ()) -> Prefill:
        """Read N prompts once, for a predictor and for the reasoning that follows."""
        ...

    def reason(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Progress | None = None,
        prefilled: Prefill | None = None,
        watch: Watch | None = None,
    ) -> Sequence[Reasoning | Failure]:
        """See `Engine.reason`; goes on from what was read, and lets `watch` end reasonings."""
        ...


@contextmanager
def last_states(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Within it, each forward pass leaves its last column's states: layer number to (B, D).

    The last block's state is taken after the final norm, as transformers reports it.
    """
    decoder: Any = text_decoder(model)
    blocks = transformer_blocks(decoder)
    states: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
            states[layer] = hidden[:, -1]

        return hook

    with ExitStack() as stack:
        for layer in layers:
            module = decoder if layer == len(blocks) else blocks[layer - 1]
            stack.callback(module.register_forward_hook(keep(layer)).remove)
        yield states
