"""Curve tables as training, validation, test and prediction batches; missing features are extracted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_train.common.extraction import Extraction, FeatureReader
from ps_train.common.features import TEXT, Features, layers_by_model
from ps_train.common.rows import Rows
from ps_train.common.rows_data import RowsDataModule
from ps_train.common.text_batches import TextFormat
from ps_train.common.text_features import text_features
from ps_train.curve.table_targets import has_curves, questions_of, schema_of, targets_of
from ps_train.curve_table import CurveTable
from ps_train.feature_file import feature_names, load_features
from ps_train.schema import CurveSchema

EVAL_BATCH_SIZE = 1024


class CurveDataModule(RowsDataModule):
    """Reads curve tables; extracts the features they lack with a frozen backbone, once, into a cache.

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
        faults = []
        if features is not None and not features:
            faults.append("features must name at least one feature, got none")
        try:
            layers_by_model(features or [])
        except ValueError as error:
            faults.append(str(error))
        super().__init__(
            {"train": train, "test": test, "predict": predict or test},
            val_fraction,
            fold,
            {"batch_size": batch_size, "eval_batch_size": EVAL_BATCH_SIZE},
            seed,
            allow_overlap,
            faults,
        )
        self.features = features and list(features)
        self.language_models = {"backbone": backbone, "encoder": encoder}
        self.label_column = label_column
        self.extraction = extraction
        self._dtypes: dict[str, str] = {}

    def read_as(self, schema: CurveSchema, text: TextFormat | None) -> None:
        """Where nothing else is asked for, a given predictor's features and language models."""
        self.features = self.features or list(schema.features) or None
        for name, path in self.language_models.items():
            self.language_models[name] = path or getattr(schema, name)

    def texts_of(self, path: str) -> Sequence[str]:
        """A table's questions; no feature is read."""
        return CurveTable.load(path, features=[]).questions

    def read(self, name: str, path: str) -> Rows:
        """Features of a table's questions, or of a question set's; with curves and labels to learn from.

        Raises:
            ValueError: If the table is damaged or lacks the label column, or features cannot be had.
        """
        table, ids, texts = questions_of(path, with_curves=name != "predict")
        features = self._features(path, texts)
        targets: dict[str, Any] = {"inputs": _stacked(features, ids, path)}
        if table is not None and name != "predict":
            targets |= targets_of(table, self.label_column, path)
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


def _deepest(names: Sequence[str]) -> str:
    """The served model's deepest layer among features, else the first."""
    layers = {name: layers_by_model([name]).get("backbone", [0])[0] for name in names}
    return max(names, key=layers.__getitem__)


def _stacked(features: Features, ids: Sequence[str], path: str) -> npt.NDArray[np.float32]:
    """(N, D) features side by side, checked."""
    for name, values in features.items():
        if len(values) != len(ids):
            raise ValueError(f"{name} of {path} must have one row a question ({len(ids)}), got {len(values)}")
    inputs = np.concatenate(list(features.values()), axis=1)
    finite = np.isfinite(inputs).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"features of {path} must be finite, got NaN or infinity in row {row} ({ids[row]})")
    return inputs
