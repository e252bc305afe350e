"""Predictors that an experiment needs: trained from their configs once, then kept in its scratch folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_eval.fitting import fit_quietly
from ps_eval.spending.replay_inputs import predict_table


class Predicted(NamedTuple):
    """A predictor's view of a test table."""

    curves: npt.NDArray[np.floating]
    """(N, W)."""
    mean_curve: npt.NDArray[np.float32]
    """(W,) mean curve of its training questions."""


def check_sources(sources: Iterable[str]) -> None:
    """Refuse predictor folders and configs that are not there, before any predictor is trained for long.

    Raises:
        ValueError: Naming the first.
    """
    for source in sources:
        trained = source.endswith((".yaml", ".yml"))
        if not (Path(source) if trained else Path(source) / "config.json").is_file():
            what = (
                "a config to train from"
                if trained
                else "a predictor's folder; docs/lora.md says how to train it"
            )
            raise ValueError(f"predictors must be there, but {source} is not: {what}")


def predict_with(
    source: str,
    tables: Path,
    scratch: Path,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    split: str = "test",
) -> Predicted:
    """Curves of a table by a predictor folder, or by one trained from a config on the training table.

    Args:
        source: A predictor folder, or a `.yaml` for `ps-train fit`.
        tables: Folder with the curve tables `train` and `test`.
        scratch: Where trained predictors are kept; one that is there is not trained again.
        seed: Of the start, the split and the batches of a training.
        overrides: Further arguments of `ps-train fit`.
        split: The table in `tables` to predict.

    Raises:
        ValueError: If the predictor cannot be read, or its training fails.
    """
    if not source.endswith((".yaml", ".yml")):
        return _predicted(source, tables / split)
    root = scratch / "predictors" / f"{Path(source).stem}-seed{seed}"
    if not (root / "predictor" / "config.json").is_file():
        arguments = ["--config", source, "--seed_everything", str(seed)]
        arguments += ["--trainer.default_root_dir", str(root), "--data.init_args.seed", str(seed)]
        arguments += ["--data.init_args.train", str(tables / "train"), "--data.init_args.test", "null"]
        fit_quietly([*arguments, *overrides])
    return _predicted(root / "predictor", tables / split)


def _predicted(predictor: str | Path, table: Path) -> Predicted:
    predictions, means = predict_table(predictor, table)
    return Predicted(predictions.curves, means["mean_curve"])
