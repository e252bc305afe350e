"""Texts with targets as training, validation, test and prediction batches: a base of data modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from ps_train.common.loading import load_tokenizer
from ps_train.common.split import split_faults, validation_rows
from ps_train.common.text_batches import (
    QUESTION,
    LengthBatches,
    TextBatch,
    TextDataset,
    TextFormat,
    TextLoader,
)


@dataclass(frozen=True)
class TextRows:
    """N texts and what is known of them."""

    ids: list[str]
    texts: list[str]
    targets: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Name to an array of N rows; batches carry them under the same names."""

    def __post_init__(self) -> None:
        for name, values in {**self.targets, "ids": np.array(self.ids)}.items():
            if len(values) != len(self.texts):
                raise ValueError(f"{name} must have one row a text ({len(self.texts)}), got {len(values)}")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.bool_]) -> TextRows:
        """The rows where the mask is true."""
        index = np.flatnonzero(rows)
        return TextRows(
            [self.ids[i] for i in index],
            [self.texts[i] for i in index],
            {name: values[index] for name, values in self.targets.items()},
        )


class TextDataModule(pl.LightningDataModule):
    """Tokenises texts and batches them by length; subclasses give `read`.

    Under DDP `batch_size` counts the rows of all processes together, and the batches depend on `seed` and the
    epoch alone: training sees the same ones however many processes share them, and goes on in the middle of
    an epoch after a kill.

    Args:
        backbone: The language model whose tokenizer reads the texts, and which is trained on them: a folder,
            a `.gguf` file or a Hub id.
        train: Where the training texts are.
        val: Where the validation texts are; held out of the training texts where it is not given.
        test: Where the test texts are.
        predict: What `predict` reads; the test texts where it is not given.
        template: What the language model reads; `{question}` stands for the text.
        max_length: Most tokens of a text; what is longer loses its end.
        val_fraction: Share of the training texts held out for validation.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_size: Rows in one forward pass of training, over all processes.
        eval_batch_size: Likewise where nothing is trained.
        seed: Shuffles the rows and splits off the validation rows.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """

    def __init__(
        self,
        backbone: str,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        template: str = QUESTION,
        max_length: int = 512,
        val_fraction: float = 0.1,
        fold: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        faults = split_faults(val_fraction, fold)
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                faults.append(f"{name} must be at least 1, got {size}")
        if faults:
            raise ValueError("; ".join(faults))
        self.paths = {"train": train, "val": val, "test": test, "predict": predict or test}
        self.backbone, self.format = backbone, TextFormat(template, max_length)
        self.val_fraction, self.fold, self.seed = val_fraction, fold, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.rows: dict[str, TextRows] = {}
        """What was read so far, by `train`, `val`, `test` and `predict`."""
        self._datasets: dict[str, TextDataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._training: LengthBatches | None = None
        self._resume = {"epoch": -1, "given": 0}

    def read(self, name: str, path: str) -> TextRows:
        """The texts at `path`.

        Args:
            name: `train`, `val`, `test` or `predict`; the last may lack targets.
            path: As given to the data module.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Read and tokenise what `stage` needs."""
        for name in {"fit": ["train", "val"], "validate": ["train", "val"]}.get(stage, [stage]):
            if name in self.rows:
                continue
            path = self.paths[name]
            if path is None and name != "val":
                raise ValueError(f"data.{name} must be given for this command, got none")
            if path is not None:
                self.rows[name] = self.read(name, path)
            else:
                held_out = validation_rows(len(self.rows["train"]), self.val_fraction, self.fold, self.seed)
                train = self.rows["train"]
                self.rows["train"], self.rows["val"] = train.take(~held_out), train.take(held_out)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The backbone's tokenizer, loaded when first needed."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.backbone)
        return self._tokenizer

    def dataset(self, name: str) -> TextDataset:
        """The tokens and targets of `rows[name]`."""
        if name not in self._datasets:
            rows = self.rows[name]
            tokens = self.format.encode(self.tokenizer, rows.texts)
            self._datasets[name] = TextDataset(tokens, rows.targets, self.tokenizer.pad_token_id or 0)
        return self._datasets[name]

    def train_dataloader(self) -> TextLoader:
        """Shuffled batches; rows that do not fill one are left out."""
        dataset = self.dataset("train")
        self._training = self._batches(dataset, self.batch_size, shuffle=True)
        self._training.load_state_dict(self._resume)
        return TextLoader(dataset, self._training)

    def state_dict(self) -> dict[str, int]:
        """Where training is in its epoch.

        Lightning also keeps the state of the loader, but does not restore it once the loader was made to
        count a schedule's steps (`estimated_stepping_batches`); it restores this before.
        """
        return self._resume if self._training is None else self._training.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._resume = state

    def val_dataloader(self) -> DataLoader[TextBatch]:
        """The validation rows by length."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[TextBatch]:
        """The test rows by length."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[TextBatch]:
        """The rows to predict, by length."""
        return self._eval_loader("predict")

    def _eval_loader(self, name: str) -> DataLoader[TextBatch]:
        dataset = self.dataset(name)
        return DataLoader(dataset, batch_size=None, sampler=self._batches(dataset, self.eval_batch_size))

    def _batches(self, dataset: TextDataset, batch_size: int, shuffle: bool = False) -> LengthBatches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return LengthBatches(
            [len(tokens) for tokens in dataset.tokens],
            batch_size,
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=self.seed,
        )
