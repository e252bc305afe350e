"""Curve tables as training, validation, test and prediction batches; missing features are extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ps_train.common.feature_cache import FeatureCache
from ps_train.common.features import TEXT, Features, layers_by_model, named_for
from ps_train.common.split import split_faults, validation_rows
from ps_train.common.text_features import text_features
from ps_train.curve_table import CurveTable
from ps_train.feature_file import feature_names, load_features
from ps_train.predictor import CurveSchema
from ps_train.questions import load_questions


class CurveBatch(TypedDict):
    """B questions of a curve table."""

    inputs: Tensor
    """(B, D) float32: the features, concatenated in the order asked for."""
    curves: Tensor
    """(B, W) float32: measured curves."""
    n_traces: Tensor
    """(B,) float32."""
    rows: Tensor
    """(B,) int64: row numbers in the table."""


class CurveRowsDataset(Dataset[CurveBatch]):
    """A curve table in memory; a batch is one indexing operation."""

    def __init__(self, table: CurveTable, features: Sequence[str]) -> None:
        stacked = np.concatenate([table.features[name] for name in features], axis=1)
        self.batch: CurveBatch = {
            "inputs": torch.tensor(stacked),
            "curves": torch.tensor(table.curves),
            "n_traces": torch.from_numpy(table.n_traces.astype(np.float32)),
            "rows": torch.arange(len(table)),
        }

    def __len__(self) -> int:
        return len(self.batch["rows"])

    def __getitems__(self, rows: list[int]) -> CurveBatch:
        """The batch of the given rows."""
        index = torch.tensor(rows)
        return CurveBatch(
            inputs=self.batch["inputs"][index],
            curves=self.batch["curves"][index],
            n_traces=self.batch["n_traces"][index],
            rows=self.batch["rows"][index],
        )


class CurveDataModule(pl.LightningDataModule):
    """Reads curve tables; extracts the features they lack with a frozen backbone, once, into a cache.

    Under DDP `batch_size` counts the rows of all processes together and the order of the rows depends on
    `seed` alone, so that training sees the same batches however many processes share them.

    Args:
        train: The training curve table's folder.
        test: The test curve table's folder.
        predict: What `predict` reads: a curve table's folder, or a question set (`.jsonl`). The test table
            where it is not given.
        features: Names of the features to learn from (`ps_train.common.features`); several are concatenated.
        backbone: The frozen language model that made the tables' `layer_<n>` or shall make them: a folder, a
            `.gguf` file or a Hub id. Needed for layers that the tables do not hold.
        encoder: The language model that makes `encoder_layer_<n>`.
        val_fraction: Share of the training table held out for validation.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_size: Rows in one optimizer step, over all processes.
        seed: Shuffles the rows and splits off the validation rows.
        extraction_batch_size: Prompts in one forward pass of the backbone.
        cache: Folder for extracted features.

    Raises:
        ValueError: If a setting is out of range or a feature's name is unknown; all faults in one sentence.
    """

    def __init__(
        self,
        train: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        features: list[str] = ["layer_28"],  # noqa: B006  # jsonargparse shows the default; never mutated
        backbone: str | None = None,
        encoder: str | None = None,
        val_fraction: float = 0.1,
        fold: int = 0,
        batch_size: int = 64,
        seed: int = 0,
        extraction_batch_size: int = 32,
        cache: str = "runs/features",
    ) -> None:
        super().__init__()
        faults = split_faults(val_fraction, fold)
        if not features:
            faults.append("features must name at least one feature, got none")
        try:
            layers_by_model(features)
        except ValueError as error:
            faults.append(str(error))
        if batch_size < 1:
            faults.append(f"batch_size must be at least 1, got {batch_size}")
        if faults:
            raise ValueError("; ".join(faults))
        self.paths = {"train": train, "test": test, "predict": predict or test}
        self.features = list(features)
        self.language_models = {"backbone": backbone, "encoder": encoder}
        self.val_fraction, self.fold, self.seed = val_fraction, fold, seed
        self.batch_size, self.extraction_batch_size, self.cache = batch_size, extraction_batch_size, cache
        self.tables: dict[str, CurveTable] = {}

    def setup(self, stage: str) -> None:
        """Load what `stage` needs, extracting missing features first.

        Not in `prepare_data`: Lightning calls that in one process only, while extraction is shared by all.
        """
        needed = {"fit": ["train"], "validate": ["train"]}.get(stage, [stage])
        for name in needed:
            if name in self.tables or (name == "train" and "val" in self.tables):
                continue
            table = self._load(name)
            if name == "train":
                self.tables["train"], self.tables["val"] = self.split(table)
            else:
                self.tables[name] = table

    def split(self, table: CurveTable) -> tuple[CurveTable, CurveTable]:
        """Training and validation rows; validation folds of one seed are disjoint.

        Raises:
            ValueError: If the table is too small to leave rows on both sides.
        """
        held_out = validation_rows(len(table), self.val_fraction, self.fold, self.seed)
        return table.take(~held_out), table.take(held_out)

    def schema(self) -> CurveSchema:
        """What a predictor for these tables reads and predicts."""
        table = next(iter(self.tables.values()))
        return CurveSchema(
            features={name: table.features[name].shape[1] for name in self.features},
            num_windows=table.num_windows,
            window=table.equal_window,
            **self.language_models,
            served_model=table.metadata.get("model", "unknown"),
        )

    def _load(self, name: str) -> CurveTable:
        path = self.paths[name]
        if path is None:
            raise ValueError(f"data.{name} must be given for this command, got none")
        if path.endswith(".jsonl"):
            return self._question_table(Path(path))
        table = CurveTable.load(path, features=[])
        stored = feature_names(path)
        present = [feature for feature in self.features if feature in stored]
        missing = [feature for feature in self.features if feature not in stored]
        features = load_features(path, present)
        features |= self._extract(missing, table.questions, path)
        return replace(table, features=features)

    def _question_table(self, path: Path) -> CurveTable:
        """Questions without measured curves: the curve columns are there, of width 0."""
        questions = load_questions(path)
        texts = [question.question for question in questions]
        return CurveTable(
            ids=[question.id for question in questions],
            questions=texts,
            answers=[question.answer for question in questions],
            curves=np.zeros((len(texts), 0), np.float32),
            n_traces=np.zeros(len(texts), np.int32),
            budgets=np.empty(0, np.int64),
            features=self._extract(self.features, texts, str(path)),
        )

    def _extract(self, names: Sequence[str], questions: Sequence[str], path: str) -> Features:
        features: Features = {TEXT: text_features(questions)} if TEXT in names else {}
        for source, layers in layers_by_model(names).items():
            model = self.language_models[source]
            if model is None:
                missing = [name for name in names if name != TEXT]
                raise ValueError(f"features {missing} are not in {path}: give data.{source} to extract them")
            found = self._extract_layers(FeatureCache(self.cache, model, questions), layers)
            features |= named_for(source, found)
        return features

    def _extract_layers(self, cache: FeatureCache, layers: list[int]) -> Features:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        with Progress(transient=True, disable=rank > 0) as progress:
            task = progress.add_task("prompt features", total=len(cache.questions) / world_size)
            for done in cache.extract(
                layers, batch_size=self.extraction_batch_size, rank=rank, world_size=world_size
            ):
                progress.update(task, completed=done)
        if trainer:
            trainer.strategy.barrier("features extracted")
        return cache.load(layers)

    def train_dataloader(self) -> DataLoader[CurveBatch]:
        """Shuffled batches; the last, smaller one is left out."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[CurveBatch]:
        """The validation rows in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[CurveBatch]:
        """The test rows in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[CurveBatch]:
        """The rows to predict, in order."""
        return self._loader("predict")

    def _loader(self, name: str, shuffle: bool = False) -> DataLoader[CurveBatch]:
        dataset = CurveRowsDataset(self.tables[name], self.features)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if not shuffle:
            return DataLoader(dataset, batch_size=1024, collate_fn=_whole_batch)  # type: ignore[arg-type]
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of {world_size} processes, got {self.batch_size}"
            )
        # One order whatever the number of processes: rank r takes every world_size-th row of it.
        sampler: DistributedSampler[CurveBatch] = DistributedSampler(
            dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=self.seed
        )
        return DataLoader(
            dataset,
            batch_size=self.batch_size // world_size,
            sampler=sampler,
            drop_last=len(dataset) >= self.batch_size,
            collate_fn=_whole_batch,  # type: ignore[arg-type]
        )


def _whole_batch(batch: CurveBatch) -> CurveBatch:
    """`CurveRowsDataset` already hands out whole batches."""
    return batch
