"""A key/value cache of which any rows can be recomputed in place."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class RowLayer(CacheLayerMixin):
    """Keys and values of all rows of N sequences, in buffers (N, T, heads, head_dim).

    An update writes the recomputed rows where they belong and returns everything attended to, so that a pass
    over A rows costs A rows of matrix products, and attention of A queries.
    """

    is_compileable = False
    is_sliding = False

    def __init__(self, target: RowTarget) -> None:
        super().__init__()
        self._target = target

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers at the first update."""
        batch, heads = key_states.shape[:2]
        self.keys, self.values = (
            states.new_zeros(batch, self._target.total_length, heads, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (N, heads, A + S, head_dim) states of A rows; S shadow rows are appended, not stored."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        target = self._target
        stored = states[:, :, : target.num_rows].transpose(1, 2).flatten(0, 1)
        buffer.view(-1, *buffer.shape[2:]).index_copy_(0, target.flat_rows, stored)
        attended = buffer[:, : target.attended].transpose(1, 2)
        shadows = states[:, :, target.num_rows :]
        return torch.cat([attended, shadows], dim=2) if shadows.shape[2] else attended

    def keep_sequences(self, kept: torch.Tensor) -> None:
        """Drop the other sequences."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[kept], self.values[kept]

    def get_seq_length(self) -> int:
        """0: positions are always given."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys a query sees, offset of the first)."""
        return self._target.attended + query_length - self._target.num_rows, 0

    def get_max_length(self) -> int:
        """Rows a sequence has."""
        return self._target.total_length


class RowTarget:
    """Where the next pass writes: one for all layers."""

    def __init__(self, total_length: int) -> None:
        self.total_length = total_length
        self.flat_rows = torch.empty(0, dtype=torch.long)
        self.num_rows = self.attended = 0

    def aim(self, rows: torch.Tensor, attended: int) -> None:
        """The next pass recomputes `rows` (N, A) of each sequence and attends to the first `attended` rows.

        A sequence with fewer rows repeats one: it is written twice with the same values.
        """
        offsets = torch.arange(len(rows), device=rows.device)[:, None] * self.total_length
        self.flat_rows = (rows + offsets).flatten()
        self.num_rows, self.attended = rows.shape[1], attended


class RowCache(Cache):
    """The layers' caches and where they write."""

    def __init__(self, num_layers: int, total_length: int) -> None:
        """Of a model with `num_layers` layers, for sequences of at most `total_length` rows."""
        self.target = RowTarget(total_length)
        self._row_layers = [RowLayer(self.target) for _ in range(num_layers)]
        super().__init__(layers=list(self._row_layers))

    def keep_sequences(self, kept: torch.Tensor) -> None:
        """Drop all but the sequences numbered in `kept`."""
        for layer in self._row_layers:
            layer.keep_sequences(kept)
