"""Texts as padded token batches, near lengths together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ps_train.common.prompts import QUESTION
from ps_train.common.shared_batches import IntArray, RowsDataset, SharedBatches

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


class TextDataset(RowsDataset):
    """Token lists and their targets in memory; an index is a list of rows, an item a whole batch.

    Args:
        tokens: N token lists.
        targets: Arrays of N rows by name.
        pad_id: The token to pad with; which one does not matter, no real token sees it.
    """

    def __init__(
        self, tokens: Sequence[Sequence[int]], targets: Mapping[str, npt.NDArray[Any]], pad_id: int = 0
    ) -> None:
        super().__init__(targets, len(tokens))
        self.tokens, self.pad_id = tokens, pad_id

    def __getitem__(self, rows: list[int]) -> TextBatch:
        return {**collate([self.tokens[row] for row in rows], self.pad_id), **super().__getitem__(rows)}


class LengthBatches(SharedBatches):
    """`SharedBatches` of near length: padding costs little.

    Training rows are shuffled, sorted by length within pools of `POOL` batches, and the batches shuffled
    again. Rows to evaluate come by length.

    Args:
        lengths: (N,) tokens of each row.
        batch_size: As the further ones, of `SharedBatches`.
        **shared: See there.
    """

    POOL = 16
    """The larger, the less padding and the less random the batches."""

    def __init__(self, lengths: Sequence[int], batch_size: int, **shared: Any) -> None:
        super().__init__(len(lengths), batch_size, **shared)
        self.lengths = np.asarray(lengths)

    def in_order(self) -> IntArray:
        """All rows by length."""
        return np.argsort(self.lengths, kind="stable")

    def shuffled(self, size: int) -> Iterator[IntArray]:
        """Batches of near length, in random order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))[: len(self) * size]
        batches: list[IntArray] = []
        for start in range(0, len(order), self.POOL * size):
            pool = order[start : start + self.POOL * size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches.extend(pool.reshape(-1, size))
        yield from (batches[number] for number in rng.permutation(len(batches)))
