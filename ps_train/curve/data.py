"""Curve tables as training, validation, test and prediction batches; missing features are extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from ps_train.common.extraction import Extraction, FeatureReader
from ps_train.common.features import TEXT, Features, layers_by_model
from ps_train.common.rows import Rows, module_of
from ps_train.common.split import refuse_overlap, split_faults, validation_rows
from ps_train.common.text_features import text_features
from ps_train.curve.batches import CurveBatch, RowsDataset, in_order, shuffled
from ps_train.curve.table_targets import checked_weights, has_curves, labels_of, schema_of
from ps_train.curve.use import use_targets
from ps_train.curve_table import CurveTable
from ps_train.feature_file import feature_names, load_features
from ps_train.questions import load_questions
from ps_train.schema import CurveSchema


class CurveDataModule(pl.LightningDataModule):
    """Reads curve tables; extracts the features they lack with a frozen backbone, once, into a cache.

    Under DDP `batch_size` counts the rows of all processes together and the order of the rows depends on
    `seed` alone, so that training sees the same batches however many processes share them.

    Args:
        train: The training curve table's folder.
        test: The test curve table's folder.
        predict: What `predict` reads: a curve table's folder, or a question set (`.jsonl`, `.csv` …). The
            test table where it is not given.
        features: Names of the features to learn from (`ps_train.common.features`); several are concatenated.
            Where none are given: the predictor's own (`model.predictor`), else the table's deepest layer.
        backbone: The frozen language model that made the tables' `layer_<n>` or shall make them: a folder, a
            `.gguf` file or a Hub id. Needed for layers that the tables do not hold.
        encoder: The language model that makes `encoder_layer_<n>`.
        label_column: A whole-number column of the tables with each question's difficulty class, for
            classifiers, instead of classes made from the curves.
        val_fraction: Share of the training table held out for validation; equal texts stay together.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_size: Rows in one optimizer step, over all processes.
        seed: Shuffles the rows and splits off the validation rows.
        extraction: How features are extracted.
        allow_overlap: Take test questions that are training questions too.

    Raises:
        ValueError: If a setting is out of range or a feature's name is unknown; all faults in one sentence.
    """

    def __init__(
        self,
        train: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        features: list[str] | None = None,
        backbone: str | None = None,
        encoder: str | None = None,
        label_column: str | None = None,
        val_fraction: float = 0.1,
        fold: int = 0,
        batch_size: int = 64,
        seed: int = 0,
        extraction: Extraction = Extraction(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        allow_overlap: bool = False,
    ) -> None:
        super().__init__()
        faults = split_faults(val_fraction, fold)
        if features is not None and not features:
            faults.append("features must name at least one feature, got none")
        try:
            layers_by_model(features or [])
        except ValueError as error:
            faults.append(str(error))
        if batch_size < 1:
            faults.append(f"batch_size must be at least 1, got {batch_size}")
        if faults:
            raise ValueError("; ".join(faults))
        self.paths = {"train": train, "test": test, "predict": predict or test}
        self.features = features and list(features)
        self.language_models = {"backbone": backbone, "encoder": encoder}
        self.label_column = label_column
        self.val_fraction, self.fold, self.seed = val_fraction, fold, seed
        self.batch_size, self.extraction, self.allow_overlap = batch_size, extraction, allow_overlap
        self.rows: dict[str, Rows] = {}
        """What was read so far, by `train`, `val`, `test` and `predict`."""
        self._dtypes: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Read what `stage` needs, extracting missing features first, and let the module know it.

        Not in `prepare_data`: Lightning calls that in one process only, while extraction is shared by all.
        """
        module = module_of(self)
        if module is not None and (expected := module.expected()) is not None:
            own, _ = expected
            self.features = self.features or list(own.features)
            for name, path in self.language_models.items():
                self.language_models[name] = path or getattr(own, name)
        names = {"fit": ["train", "val"], "validate": ["train", "val"]}.get(stage, [stage])
        for name in names:
            if name not in self.rows:
                self.rows[name] = self._read(name)
                if name == "train":
                    self.rows["train"], self.rows["val"] = self.split(self.rows["train"])
        if stage == "fit":
            self._check_overlap()
        for name in names:
            if module is None:
                break
            module.attach_rows(name, replace(self.rows[name], seed=self.seed))

    def split(self, rows: Rows) -> tuple[Rows, Rows]:
        """Training and validation rows; validation folds of one seed are disjoint.

        Raises:
            ValueError: If there are too few to leave rows on both sides.
        """
        held_out = validation_rows(len(rows), self.val_fraction, self.fold, self.seed, rows.texts)
        return rows.take(~held_out), rows.take(held_out)

    def schema(self) -> CurveSchema:
        """What a predictor for the rows read so far reads and predicts.

        Raises:
            ValueError: If nothing was read yet.
        """
        for rows in self.rows.values():
            if rows.schema is not None:
                return rows.schema
        raise ValueError("data must be set up before they have a schema: call setup(stage)")

    def _check_overlap(self) -> None:
        test = self.paths["test"]
        if self.allow_overlap or test is None or not has_curves(test):
            return
        learned = [*self.rows["train"].texts, *self.rows["val"].texts]
        refuse_overlap(learned, CurveTable.load(test, features=[]).questions, "data.test")

    def _read(self, name: str) -> Rows:
        path = self.paths[name]
        if path is None:
            raise ValueError(f"data.{name} must be given for this command, got none")
        table = None
        if has_curves(path) or name != "predict":
            table = CurveTable.load(path, features=[])
            ids, texts = table.ids, table.questions
        else:
            questions = load_questions(Path(path), need_answers=False)
            ids, texts = [q.id for q in questions], [q.question for q in questions]
        features = self._features(path, texts)
        targets: dict[str, Any] = {"inputs": _stacked(features, ids, path)}
        if table is not None:
            targets |= {"curves": table.curves, "weights": checked_weights(table, path)}
            targets |= use_targets(table) | labels_of(table, self.label_column, path)
        widths = {feature: values.shape[1] for feature, values in features.items()}
        schema = schema_of(table, widths, self.language_models, self._dtypes)
        return Rows(ids, texts, targets, schema, source={} if table is None else table.metadata)

    def _features(self, path: str, texts: Sequence[str]) -> Features:
        """The features asked for, in that order: those stored beside a table, the others extracted."""
        stored = feature_names(path) if has_curves(path) else []
        if self.features is None:
            if not stored:
                raise ValueError(f"data.features must name what to learn from, as {path} holds no features")
            self.features = [_deepest(stored)]
        found: Features = load_features(path, [name for name in self.features if name in stored])
        missing = [name for name in self.features if name not in stored]
        if TEXT in missing:
            found[TEXT] = text_features(texts)
        by_model = layers_by_model(missing)
        for source, layers in by_model.items():
            model = self.language_models[source]
            if model is None:
                lacking = [name for name in missing if name != TEXT]
                raise ValueError(f"features {lacking} are not in {path}: give data.{source} to extract them")
            reader = FeatureReader(self.extraction, model, self.trainer)
            self._dtypes[source] = reader.dtype_name
            found |= reader.read(source, layers, texts)
        return {name: found[name] for name in self.features}

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
        dataset = RowsDataset(self.rows[name].targets, len(self.rows[name]))
        if not shuffle:
            return in_order(dataset)
        ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return shuffled(dataset, self.batch_size, self.seed, *ranks)


def _deepest(names: Sequence[str]) -> str:
    """The served model's deepest layer among features, else the first."""
    layers = {name: layers_by_model([name]).get("backbone", [0])[0] for name in names}
    return max(names, key=layers.__getitem__)


def _stacked(features: Features, ids: Sequence[str], path: str) -> npt.NDArray[np.float32]:
    """(N, D) features side by side, checked."""
    inputs = np.concatenate(list(features.values()), axis=1)
    finite = np.isfinite(inputs).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"features of {path} must be finite, got NaN or infinity in row {row} ({ids[row]})")
    return inputs
