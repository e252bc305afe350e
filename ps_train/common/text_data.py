"""Texts with targets as training, validation, test and prediction batches: a base of data modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ps_train.common.loading import load_tokenizer
from ps_train.common.prompts import QUESTION
from ps_train.common.rows import Rows
from ps_train.common.rows_data import RowsDataModule
from ps_train.common.text_batches import LengthBatches, TextDataset, TextFormat
from ps_train.schema import CurveSchema


class TextDataModule(RowsDataModule):
    """Tokenises texts and batches them by length; subclasses give `read`.

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
        super().__init__(
            {"train": train, "val": val, "test": test, "predict": predict or test},
            val_fraction,
            fold,
            {"batch_size": batch_size, "eval_batch_size": eval_batch_size},
            seed,
            allow_overlap,
        )
        self.backbone = backbone
        self._given = {"template": template, "max_length": max_length}
        self.format = TextFormat(template or QUESTION, 512 if max_length is None else max_length)
        self._datasets: dict[str, TextDataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def read_as(self, schema: CurveSchema, text: TextFormat | None) -> None:
        """Where nothing else is asked for, a given predictor's language model, template and length."""
        self.backbone = self.backbone or schema.backbone
        if text is not None:
            given: Any = {name: value for name, value in self._given.items() if value is not None}
            self.format = replace(text, **given)

    def attached(self, name: str) -> Rows:
        """The rows with their tokens, and how they became such."""
        return replace(super().attached(name), text=self.format, tokens=self.dataset(name).tokens)

    def texts_of(self, path: str) -> Sequence[str]:
        """The texts at `path`."""
        return self.read("test", path).texts

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

    def batches(self, dataset: TextDataset, batch_size: int, **shared: Any) -> LengthBatches:
        """Rows of near length go together."""
        return LengthBatches([len(tokens) for tokens in dataset.tokens], batch_size, **shared)
