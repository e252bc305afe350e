"""From logits to tokens, one random number a row and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ps_eval.engines.base import Sampling

Choose = Callable[[torch.Tensor, np.ndarray, int], torch.Tensor]
"""(rows, vocabulary) logits, the rows' numbers, the step → (rows,) token ids."""


def greedy(logits: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
    """The most probable token of each row."""
    return logits.argmax(-1)


def chooser(sampling: Sampling, draws: Sequence[np.ndarray]) -> Choose:
    """Inverse-CDF sampling: row i's token at a step is set by its own uniform number for that step.

    So a row's reasoning does not depend on what else is in the batch, and a smaller budget gives a prefix of
    the same trace. Tokens are left out in vLLM's order: min_p, top_k, top_p.
    """
    if sampling.temperature == 0:
        return greedy
    warpers: list[Callable[..., torch.Tensor]] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))

    def choose(logits: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
        scores = logits.float()
        for warper in warpers:
            scores = warper(None, scores)
        cdf = scores.double().softmax(-1).cumsum(-1)
        # A finished row that is still in the batch has no draws left; its token is thrown away.
        u = torch.tensor([draws[i][step] if step < len(draws[i]) else 0.0 for i in rows], device=cdf.device)
        # Rounding can leave the last entry below 1; right=True skips tokens of probability 0.
        tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
        return tokens.clamp(max=cdf.shape[1] - 1)

    return choose


def scored(choose: Choose) -> tuple[Choose, dict[int, list[tuple[float, float]]]]:
    """The same choice, and what it leaves behind: row number to (log-probability, entropy) of every step.

    Both are the model's own, in nats, at temperature 1 and over all tokens, whatever the sampling. A row that
    is done may have more entries than tokens, while it waits to leave its batch.
    """
    seen: dict[int, list[tuple[float, float]]] = {}

    def choose_and_score(logits: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
        tokens = choose(logits, rows, step)
        log_p = logits.float().log_softmax(-1)
        entropies = -(log_p.exp() * log_p).nansum(-1)  # 0 · -inf, of tokens that are masked out
        chosen = log_p.gather(1, tokens[:, None])[:, 0]
        for row, log_probability, entropy in zip(rows, chosen.tolist(), entropies.tolist(), strict=True):
            seen.setdefault(int(row), []).append((log_probability, entropy))
        return tokens

    return choose_and_score, seen
