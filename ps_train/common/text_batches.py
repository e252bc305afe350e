"""Texts as padded token batches: near lengths together, the same whatever the number of processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import PreTrainedTokenizerBase

QUESTION = "{question}"
"""Where a template takes the text."""

TextBatch = dict[str, Tensor]
"""`input_ids` and `attention_mask` (B, L), `rows` (B,): row numbers in the data set, all int64; and the rows'
targets by name, (B, …)."""


@dataclass(frozen=True)
class TextFormat:
    """How a text becomes tokens."""

    template: str = QUESTION
    """What the language model reads: `{question}` stands for the text."""
    max_length: int = 512
    """Most tokens of a text; what is longer loses its middle: how it begins and what it asks both stay."""

    def __post_init__(self) -> None:
        if QUESTION not in self.template:
            raise ValueError(f"template must hold {QUESTION}, got {self.template!r}")
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, got {self.max_length}")

    def encode(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids a text, without padding; special tokens as the tokenizer adds them.

        A template that writes the token that begins a text itself does not get it twice. How many texts were
        too long is told in a warning.

        Raises:
            ValueError: If a text gives no token.
        """
        if not texts:
            return []
        prompts = [self.template.replace(QUESTION, text) for text in texts]
        # Length is this method's business: the tokenizer's own advice knows another limit.
        tokens: list[list[int]] = tokenizer(prompts, truncation=False, verbose=False)["input_ids"]
        begins = tokenizer.bos_token_id
        too_long = 0
        for row, ids in enumerate(tokens):
            if not ids:
                raise ValueError(f"a text must give at least one token, got {texts[row]!r} in row {row}")
            if begins is not None and ids[:2] == [begins, begins]:
                ids = ids[1:]
            if len(ids) > self.max_length:
                too_long += 1
                end = self.max_length // 2
                ids = ids[: self.max_length - end] + ids[len(ids) - end :]
            tokens[row] = ids
        if too_long:
            warnings.warn(
                f"{too_long} of {len(texts)} texts are longer than max_length, {self.max_length} tokens: "
                "their middle is left out",
                stacklevel=2,
            )
        return tokens


def collate(
    tokens: Sequence[Sequence[int]], pad_id: int = 0, side: Literal["right", "left"] = "right"
) -> TextBatch:
    """Pad token lists to one length: `input_ids` and `attention_mask`, (B, L) int64 each."""
    length = max(map(len, tokens))
    input_ids = torch.full((len(tokens), length), pad_id)
    attention_mask = torch.zeros(len(tokens), length, dtype=torch.long)
    for row, ids in enumerate(tokens):
        place = slice(0, len(ids)) if side == "right" else slice(length - len(ids), length)
        input_ids[row, place] = torch.tensor(ids)
        attention_mask[row, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


class TextDataset(Dataset[TextBatch]):
    """Token lists and their targets in memory; an index is a list of rows, an item a whole batch.

    Args:
        tokens: N token lists.
        targets: Arrays of N rows by name.
        pad_id: The token to pad with; which one does not matter, no real token sees it.
    """

    def __init__(
        self, tokens: Sequence[Sequence[int]], targets: Mapping[str, npt.NDArray[Any]], pad_id: int = 0
    ) -> None:
        self.tokens, self.pad_id = tokens, pad_id
        self.targets = {name: torch.tensor(values) for name, values in targets.items()}

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: list[int]) -> TextBatch:
        index = torch.tensor(rows)
        return {
            **collate([self.tokens[row] for row in rows], self.pad_id),
            "rows": index,
            **{name: values[index] for name, values in self.targets.items()},
        }


class LengthBatches(DistributedSampler[list[int]]):
    """Batches of rows of near length, as this process's share of each.

    Shuffled (training): rows are shuffled, sorted by length within pools of `POOL` batches, and the batches
    shuffled again; rows that do not fill a batch are left out. A batch is a function of (seed, epoch, number)
    alone, shared by `num_replicas` processes. Not shuffled (evaluation): all rows by length, the last batch
    filled up with repeated rows until the shares are even.

    It knows how many batches it has given, so that a run resumes in the middle of an epoch.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch, over all processes.
        num_replicas: Processes.
        rank: This process.
        shuffle: Training or evaluation.
        seed: Of the shuffles.

    Raises:
        ValueError: If a batch, or all rows together, cannot be shared evenly.
    """

    POOL = 16
    """The larger, the less padding and the less random the batches."""

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # needs len()
        if shuffle and (batch_size % num_replicas or len(lengths) < num_replicas):
            raise ValueError(
                f"batch_size must be a multiple of {num_replicas} processes, and every process needs a row, "
                f"got batch_size {batch_size} and {len(lengths)} rows"
            )
        self.lengths, self.batch_size = np.asarray(lengths), batch_size
        self._given, self._resume = 0, {"epoch": -1, "given": 0}

    def __len__(self) -> int:
        """Batches an epoch, the same in every process."""
        if self.shuffle:
            return max(len(self.lengths) // self.batch_size, 1)
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """This process's rows of each batch; after `load_state_dict`, those its epoch still owes."""
        owed = self._resume["given"] if self.epoch == self._resume["epoch"] else 0
        for number, batch in enumerate(self._batches()):
            if number >= owed:
                self._given = number + 1
                yield batch[self.rank :: self.num_replicas].tolist()

    def _batches(self) -> Iterator[npt.NDArray[np.int64]]:
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                yield np.resize(batch, len(batch) + -len(batch) % self.num_replicas)
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        size = min(self.batch_size, len(self.lengths) // self.num_replicas * self.num_replicas)
        order = rng.permutation(len(self.lengths))[: len(self) * size]
        batches: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(order), self.POOL * size):
            pool = order[start : start + self.POOL * size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches.extend(pool.reshape(-1, size))
        yield from (batches[number] for number in rng.permutation(len(batches)))

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were given."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self._resume, self._given = dict(state), state["given"]


class TextLoader(DataLoader[TextBatch]):
    """Training batches of a `TextDataset`; Lightning keeps its place in checkpoints."""

    sampler: LengthBatches

    def __init__(self, dataset: TextDataset, sampler: LengthBatches) -> None:
        super().__init__(dataset, batch_size=None, sampler=sampler)

    def state_dict(self) -> dict[str, int]:
        """The sampler's place."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place."""
        self.sampler.load_state_dict(state)
