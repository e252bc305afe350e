"""A key/value cache that appends in place."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` without its copy of the whole cache at every token.

    Keys and values live in buffers with room to spare, enlarged when full; `keys` and `values` are views of
    the part in use. For a small model the copies cost more than the forward pass (benchmarks/engine.py).
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, new, head_dim) states; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [key_states[:, :, :0], value_states[:, :, :0]]
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        if self._room[0].shape[-2] < end or self._room[0].shape[0] != key_states.shape[0]:
            self._room = [_with_room(self.keys, key_states, end), _with_room(self.values, value_states, end)]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, used:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows of the batch."""
        used = self.get_seq_length()
        self._room = [room.index_select(0, indices) for room in self._room]
        self.keys, self.values = (room[:, :, :used] for room in self._room)


def growing_cache() -> Cache:
    """An empty cache whose layers append in place."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def _with_room(old: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
    """A buffer of twice the room needed, with `old` (empty before the first update) copied to its start."""
    room = new.new_empty(*new.shape[:2], max(64, end + end // 2), new.shape[-1])
    if old is not None and old.numel():
        room[:, :, : old.shape[-2]] = old
    return room
