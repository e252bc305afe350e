"""Batches of a curve table's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class CurveBatch(TypedDict, total=False):
    """B questions of a curve table."""

    inputs: Tensor
    """(B, D) float32: the features, concatenated in the order asked for."""
    curves: Tensor
    """(B, W) float32: measured curves."""
    use: Tensor
    """(B, W) float32: tokens really used, where the table knows it."""
    used_shares: Tensor
    """(B, W) float32: the share of each segment of the grid that is used."""
    weights: Tensor
    """(B,) float32: traces behind each curve, in units of the table's mean; 1 for all if left out."""
    labels: Tensor
    """(B,) int64: given classes, where the data have them."""
    rows: Tensor
    """(B,) int64: row numbers in the data set."""


class RowsDataset(Dataset[CurveBatch]):
    """Targets in memory; a batch is one indexing operation."""

    def __init__(self, targets: Mapping[str, npt.NDArray[Any]], length: int) -> None:
        self.targets = {name: torch.tensor(v) for name, v in targets.items()}
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, rows: list[int]) -> CurveBatch:
        """The batch of the given rows."""
        index = torch.tensor(rows)
        batch: Any = {name: values[index] for name, values in self.targets.items()}
        return {**batch, "rows": index}


def in_order(dataset: RowsDataset) -> DataLoader[CurveBatch]:
    """All rows, in large batches."""
    return DataLoader(dataset, batch_size=1024, collate_fn=_whole_batch)  # type: ignore[arg-type]


def shuffled(
    dataset: RowsDataset, batch_size: int, seed: int, rank: int, world_size: int
) -> DataLoader[CurveBatch]:
    """One process's part of batches in an order that depends on `seed` and the epoch alone.

    Args:
        dataset: The rows.
        batch_size: Rows of all processes together; the last, smaller batch is left out.
        seed: Of the order.
        rank: Which process this is.
        world_size: How many there are: one order whatever their number, each takes every `world_size`-th row.

    Raises:
        ValueError: If `batch_size` is no multiple of `world_size`.
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size must be a multiple of {world_size} processes, got {batch_size}")
    sampler: DistributedSampler[CurveBatch] = DistributedSampler(
        dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed
    )
    return DataLoader(
        dataset,
        batch_size=batch_size // world_size,
        sampler=sampler,
        drop_last=len(dataset) >= batch_size,
        collate_fn=_whole_batch,  # type: ignore[arg-type]
    )


def _whole_batch(batch: CurveBatch) -> CurveBatch:
    """`RowsDataset` already hands out whole batches."""
    return batch
