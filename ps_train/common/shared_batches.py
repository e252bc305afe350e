"""Batches of rows that processes share: the same whatever their number, and from where they stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

IntArray = npt.NDArray[np.int64]


class RowsDataset(Dataset[dict[str, Tensor]]):
    """Arrays of N rows in memory; an index is a list of rows, an item a whole batch.

    Args:
        targets: Arrays of N rows by name.
        length: N.
    """

    def __init__(self, targets: Mapping[str, npt.NDArray[Any]], length: int) -> None:
        self.targets = {name: torch.tensor(values) for name, values in targets.items()}
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(rows)
        return {**{name: values[index] for name, values in self.targets.items()}, "rows": index}


class SharedBatches(DistributedSampler[list[int]]):
    """Batches of row numbers, as this process's share of each.

    Shuffled (training): rows that do not fill a batch are left out; where all rows together fill none, they
    are one. A batch is a function of (seed, epoch, number) alone, shared by `num_replicas` processes. Not
    shuffled (evaluation): all rows, the last batch filled up with repeated rows until the shares are even.

    It knows how many batches it has given, so that a run resumes in the middle of an epoch.

    Args:
        num_rows: N.
        batch_size: Rows of a batch, over all processes.
        num_replicas: Processes.
        rank: This process.
        shuffle: Training or evaluation.
        seed: Of the shuffles.

    Raises:
        ValueError: If a batch, or all rows together, cannot be shared evenly.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(range(num_rows), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # needs len()
        if shuffle and (batch_size % num_replicas or num_rows < num_replicas):
            raise ValueError(
                f"batch_size must be a multiple of {num_replicas} processes, and every process needs a row, "
                f"got batch_size {batch_size} and {num_rows} rows"
            )
        self.num_rows, self.batch_size = num_rows, batch_size
        self._given, self._resume = 0, {"epoch": -1, "given": 0}

    def __len__(self) -> int:
        """Batches an epoch, the same in every process."""
        if self.shuffle:
            return max(self.num_rows // self.batch_size, 1)
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """This process's rows of each batch; after `load_state_dict`, those its epoch still owes."""
        owed = self._resume["given"] if self.epoch == self._resume["epoch"] else 0
        for number, batch in enumerate(self._batches()):
            if number >= owed:
                self._given = number + 1
                yield batch[self.rank :: self.num_replicas].tolist()

    def _batches(self) -> Iterator[IntArray]:
        if self.shuffle:
            size = min(self.batch_size, self.num_rows // self.num_replicas * self.num_replicas)
            yield from self.shuffled(size)
            return
        order = self.in_order()
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield np.resize(batch, len(batch) + -len(batch) % self.num_replicas)

    def in_order(self) -> IntArray:
        """All rows, as they are evaluated."""
        return np.arange(self.num_rows)

    def shuffled(self, size: int) -> Iterator[IntArray]:
        """The epoch's `len(self)` training batches of `size` rows."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_rows, generator=generator).numpy()
        yield from order[: len(self) * size].reshape(-1, size)

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were given."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self._resume, self._given = dict(state), state["given"]


class BatchLoader(DataLoader[dict[str, Tensor]]):
    """A loader of `SharedBatches`, whose place Lightning keeps in checkpoints."""

    sampler: SharedBatches

    def state_dict(self) -> dict[str, int]:
        """The sampler's place."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place."""
        self.sampler.load_state_dict(state)
