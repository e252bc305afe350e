"""The first pass of every response: it computes all rows, so a choice of schedule can wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ps_eval.diffusion.forward import Reading, Request, read_pass
from ps_eval.diffusion.models import DiffusionModel
from ps_eval.diffusion.row_cache import RowCache

_NONE = np.empty(0, np.intp)


@dataclass(frozen=True)
class Opening:
    """What the first pass over N prompts and their masked responses says."""

    features: dict[str, npt.NDArray[np.float32]]
    """`block_<n>`, for every second block, to (N, 3 · width): the state of the last prompt token, the mean
    over the prompt, and the mean over the masked response."""
    readings: list[Reading]
    """Of every position of each response."""
    prompt_lengths: list[int]

    def answer(self, number: int, request: Request) -> Reading | None:
        """What the pass says to a response's first request; None where it did not compute what is asked."""
        if not len(request.rows) == request.attended == len(request.tokens) or len(request.doubted):
            return None
        if request.noise is not None:
            return None
        full, places = self.readings[number], request.masked - self.prompt_lengths[number]
        return Reading(
            full.token[places],
            full.confidence[places],
            full.entropy[places],
            full.doubted_probability,
            full.chosen_again,
            None if full.margin is None else full.margin[places],
            None if full.states is None else full.states[places],
        )


def open_responses(
    model: DiffusionModel, prompts: Sequence[Sequence[int]], gen_length: int, cache: RowCache
) -> Opening:
    """Run the first pass; `cache` then holds all rows."""
    requests = []
    for prompt in prompts:
        tokens = np.concatenate([prompt, np.full(gen_length, model.mask_id)]).astype(np.int64)
        rows = np.arange(len(tokens))
        requests.append(Request(tokens, rows, len(tokens), rows[len(prompt) :], _NONE, evidence=True))
    states: list[torch.Tensor] = []
    readings = read_pass(model, cache, requests, states)
    lengths = torch.tensor([len(p) for p in prompts], device=model.model.device)[:, None]
    place = torch.arange(states[0].shape[1], device=lengths.device)[None]
    parts = (place == lengths - 1, place < lengths, (place >= lengths) & (place < lengths + gen_length))
    features = {}
    for number in range(2, len(states), 2):
        state = states[number].float()
        means = [(state * part[..., None]).sum(1) / part.sum(1, keepdim=True) for part in parts]
        features[f"block_{number}"] = torch.cat(means, 1).cpu().numpy()
    return Opening(features, readings, [len(p) for p in prompts])
