"""Caches that a model's configuration asks for: keys and values that append in place, forked and narrowed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


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

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the given rows of the batch, copied without the room to spare."""
        if self.get_seq_length():
            self._room = [t.index_select(0, beam_idx) for t in (self.keys, self.values) if t is not None]
            self.keys, self.values = self._room


def cache_of(config: PretrainedConfig) -> Cache:
    """An empty cache with the layers that a model's configuration asks for.

    Full attention appends in place; sliding, recurrent and other layers are transformers' own.
    """
    cache = DynamicCache(config=config)
    if cache.layer_class_to_replicate is not None:
        return Cache(layer_class_to_replicate=GrowingLayer)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def fork(cache: Cache) -> Cache:
    """Another cache that goes on from here; the first is read on only when the other is not any more.

    What appends in place is shared: it costs nothing until one of the two outgrows the room to spare.
    """
    other = copy.copy(cache)
    other.layers = [
        copy.copy(layer) if isinstance(layer, GrowingLayer) else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return other


def keep_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Keep the given rows of the batch."""
    for layer in cache.layers:
        layer.reorder_cache(rows)  # type: ignore[arg-type]  # it wants int64, as an old type says


def _with_room(old: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
    """A buffer of twice the room needed, with `old` (empty before the first update) copied to its start."""
    room = new.new_empty(*new.shape[:2], max(64, end + end // 2), new.shape[-1])
    if old is not None and old.numel():
        room[:, :, : old.shape[-2]] = old
    return room
