"""Rows of tokens that a model reads from left to right, together, each remembering what it has read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ps_eval.engines.kv_cache import cache_of, fork, keep_rows
from ps_train.common.blocks import accepted

QUERY_KEYS = 2**23
"""Most pairs of a token read and one it may see, over all rows, in one forward pass. A longer piece is read
in parts, so that masks and scores grow with the length, not with its square."""


class Rows:
    """B rows under way.

    The model makes its own masks, one for each kind of layer it has, from which tokens are real; the cache
    has the layers its configuration asks for. Rows may be padded on the left, by their first piece alone.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = cache_of(model.config.get_text_config(decoder=True))
        self._mask: torch.Tensor | None = None  # (B, L): 1 for real tokens
        self._padded = False
        self.length = 0
        """Columns read: the longest row's tokens."""

    def read_prompts(self, prompts: Sequence[Sequence[int]], pad_id: int = 0) -> torch.Tensor:
        """Read B prompts, padded on the left so that all end in one column; see `read`."""
        device = self._model.device
        width = max(map(len, prompts))
        ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        return self.read(ids, mask)

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Read on.

        Args:
            ids: (B, S) token ids, S at least 1.
            mask: (B, S), 1 for real tokens, in the first piece; all are where it is not given.

        Returns:
            (B, V) logits of each row's next token.
        """
        mask = torch.ones_like(ids) if mask is None else mask
        padding = 0
        if self._mask is None:
            padding = int((mask == 0).sum(1).max())
            self._mask, self._padded = mask, padding > 0
        else:
            self._mask = torch.cat([self._mask, mask], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, self.length :]
        start, logits = 0, None
        while start < ids.shape[1]:
            # Recurrent layers leave padding out of their first piece alone: it holds all there is.
            size = max(_piece(len(ids), self.length), padding + 1 if start == 0 else 1)
            piece = slice(start, start + size)
            self.length += ids[:, piece].shape[1]
            inputs = {
                "input_ids": ids[:, piece],
                "attention_mask": self._mask[:, : self.length] if self._padded else None,
                "position_ids": positions[:, piece],
                _cache_argument(self._model): self._cache,
                "logits_to_keep": 1,
            }
            logits = self._model(**accepted(self._model, **inputs), use_cache=True).logits[:, -1]
            start += size
        assert logits is not None
        return logits.to(ids.device)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the given rows of the batch, in the order given."""
        assert self._mask is not None
        keep_rows(self._cache, rows)
        self._mask = self._mask[rows]

    def fork(self) -> Rows:
        """Rows that go on from here, while these wait."""
        other = object.__new__(Rows)
        other.__dict__.update(self.__dict__)
        other._cache = fork(self._cache)
        return other


def _piece(rows: int, length: int) -> int:
    """How many tokens to read after `length`: the largest S with rows · S · (length + S) ≤ QUERY_KEYS."""
    return max(16, (math.isqrt(length**2 + 4 * QUERY_KEYS // rows) - length) // 2)


def _cache_argument(model: PreTrainedModel) -> str:
    names = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params") if name in names), "past_key_values")
