"""Batches of fresh word problems, packed by length: what the data modules of the embedded models share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ps_train.embedded.problem_families import DIARY, make_problems
from ps_train.embedded.word_problems import WordProblem

VALIDATION_SEED = 9_000_000
"""Far from any seed that a user would give for problems to be tested on."""
PROBLEMS_PER_POOL = 2048
"""Problems sorted by length together: the more, the less padding."""


class Example(Protocol):
    """A problem as tokens; `len` is the number of them."""

    def __len__(self) -> int: ...


class ProblemDataModule(pl.LightningDataModule):
    """Word problems; every epoch draws problems never seen before.

    An epoch is a function of (seed, epoch), so a run resumed at an epoch's end continues as if uninterrupted.
    Under DDP each process takes every n-th batch. Subclasses say which problems (`limits`), how one becomes
    tokens (`encode`) and how some become a batch (`collate`, a NamedTuple of tensors).
    """

    families: Sequence[str] = (DIARY,)
    """Of the problems, in `problem_families`."""
    batches_per_epoch: int
    tokens_per_batch: int
    val_problems: int
    seed: int

    def limits(self, epoch: int) -> dict[str, int]:
        """Limits of `make_problem` in an epoch of training."""
        raise NotImplementedError

    def val_limits(self) -> dict[str, int]:
        """Limits of `make_problem` for validation."""
        return {}

    def encode(self, problem: WordProblem, rng: np.random.Generator) -> Example:
        """One problem as tokens."""
        raise NotImplementedError

    def collate(self, examples: list[Any], rng: np.random.Generator) -> Any:
        """Examples as one padded batch."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        """This epoch's batches; the trainer must set `reload_dataloaders_every_n_epochs: 1`."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = self.epoch_batches(epoch, self.batches_per_epoch * world)[rank::world]
        return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        """Lists of fresh problems, for a `validation_step` that generates their solutions."""
        problems = make_problems(
            self.val_problems, VALIDATION_SEED + self.seed, self.families, **self.val_limits()
        )
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        return DataLoader(problems[rank::world], batch_size=128, collate_fn=list)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Training batches move to the device; validation problems are text and stay."""
        if isinstance(batch, list):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def epoch_batches(self, epoch: int, num_batches: int) -> list[Any]:
        """The first `num_batches` batches of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        limits = self.limits(epoch)
        groups: list[list[Any]] = []
        while len(groups) < num_batches:
            problems = make_problems(PROBLEMS_PER_POOL, int(rng.integers(2**31)), self.families, **limits)
            examples = [self.encode(p, rng) for p in problems]
            # The last group of a pool is short of tokens; it is dropped.
            pool = list(_group_by_length(examples, self.tokens_per_batch))
            groups.extend(pool[:-1] or pool)
        order = rng.permutation(len(groups))[:num_batches]
        return [self.collate(groups[i], rng) for i in order]


def _group_by_length(examples: list[Any], tokens_per_batch: int) -> Iterator[list[Any]]:
    """Consecutive examples in order of length, as many as fit when padded to the longest."""
    group: list[Any] = []
    for example in sorted(examples, key=len):
        if group and (len(group) + 1) * len(example) > tokens_per_batch:
            yield group
            group = []
        group.append(example)
    yield group
