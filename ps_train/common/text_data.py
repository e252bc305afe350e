"""Texts with targets as training, validation, test and prediction batches: a base of data modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from ps_train.common.loading import load_tokenizer
from ps_train.common.rows import Rows, module_of
from ps_train.common.split import refuse_overlap, split_faults, validation_rows
from ps_train.common.text_batches import (
    QUESTION,
    LengthBatches,
    TextBatch,
    TextDataset,
    TextFormat,
    TextLoader,
)
from ps_train.schema import CurveSchema


class TextDataModule(pl.LightningDataModule):
    """Tokenises texts and batches them by length; subclasses give `read`.

    Under DDP `batch_size` counts the rows of all processes together, and the batches depend on `seed` and the
    epoch alone: training sees the same ones however many processes share them, and goes on in the middle of
    an epoch after a kill.

    Args:
        backbone: The language model whose tokenizer reads the texts, and which is trained on them: a folder,
            a `.gguf` file or a Hub id. The predictor's own where one is given (`model.predictor`).
        train: Where the training texts are.
        val: Where the validation texts are; held out of the training texts where it is not given.
        test: Where the test texts are.
        predict: What `predict` reads; the test texts where it is not given.
        template: What the language model reads; `{question}` stands for the text. The predictor's own where
            one is given, else the text alone.
        max_length: Most tokens of a text; what is longer loses its middle. The predictor's own where one is
            given, else 512.
        val_fraction: Share of the training texts held out for validation; equal texts stay together.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_size: Rows in one forward pass of training, over all processes.
        eval_batch_size: Likewise where nothing is trained.
        seed: Shuffles the rows and splits off the validation rows.
        allow_overlap: Take validation and test texts that are training texts too.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """

    def __init__(
        self,
        backbone: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        template: str | None = None,
        max_length: int | None = None,
        val_fraction: float = 0.1,
        fold: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        seed: int = 0,
        allow_overlap: bool = False,
    ) -> None:
        super().__init__()
        faults = split_faults(val_fraction, fold)
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                faults.append(f"{name} must be at least 1, got {size}")
        if faults:
            raise ValueError("; ".join(faults))
        self.paths = {"train": train, "val": val, "test": test, "predict": predict or test}
        self.backbone = backbone
        self._given = {"template": template, "max_length": max_length}
        self.format = TextFormat(template or QUESTION, 512 if max_length is None else max_length)
        self.val_fraction, self.fold, self.seed = val_fraction, fold, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.allow_overlap = allow_overlap
        self.rows: dict[str, Rows] = {}
        """What was read so far, by `train`, `val`, `test` and `predict`."""
        self._datasets: dict[str, TextDataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._training: LengthBatches | None = None
        self._resume = {"epoch": -1, "given": 0}

    def read(self, name: str, path: str) -> Rows:
        """The texts at `path`, their targets and, where the file says, what a predictor of them predicts.

        Args:
            name: `train`, `val`, `test` or `predict`; the last may lack targets.
            path: As given to the data module.
        """
        raise NotImplementedError

    def schema(self) -> CurveSchema:
        """What a predictor for the rows read so far reads and predicts.

        Raises:
            ValueError: If nothing was read that says so.
        """
        for rows in self.rows.values():
            if rows.schema is not None:
                return rows.schema
        raise ValueError("data must be set up before they have a schema: call setup(stage)")

    def setup(self, stage: str) -> None:
        """Read and tokenise what `stage` needs, and let the module know it."""
        module = module_of(self)
        if module is not None and (expected := module.expected()) is not None:
            own, text = expected
            self.backbone = self.backbone or own.backbone
            if text is not None:
                given: Any = {name: value for name, value in self._given.items() if value is not None}
                self.format = replace(text, **given)
        names = {"fit": ["train", "val"], "validate": ["train", "val"]}.get(stage, [stage])
        for name in names:
            if name not in self.rows:
                self._read(name)
        if stage == "fit":
            self._check_overlap()
        for name in names:
            if module is None:
                break
            tokens = self.dataset(name).tokens
            rows = replace(self.rows[name], text=self.format, tokens=tokens, seed=self.seed)
            module.attach_rows(name, rows)

    def _read(self, name: str) -> None:
        path = self.paths[name]
        if path is None and name != "val":
            raise ValueError(f"data.{name} must be given for this command, got none")
        if path is not None:
            self.rows[name] = self.read(name, path)
            return
        train = self.rows["train"]
        held_out = validation_rows(len(train), self.val_fraction, self.fold, self.seed, train.texts)
        self.rows["train"], self.rows["val"] = train.take(~held_out), train.take(held_out)

    def _check_overlap(self) -> None:
        """Refuse to be judged by training texts: those of `val`, and those of `test` if it is there yet."""
        if self.allow_overlap:
            return
        train = self.rows["train"].texts
        if self.paths["val"] is not None:
            refuse_overlap(train, self.rows["val"].texts, "data.val")
        test = self.paths["test"]
        if test is not None and Path(test).exists():
            refuse_overlap([*train, *self.rows["val"].texts], self.read("test", test).texts, "data.test")

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The backbone's tokenizer, loaded when first needed."""
        if self._tokenizer is None:
            if self.backbone is None:
                raise ValueError("data.backbone must name the language model that reads the texts, got none")
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
