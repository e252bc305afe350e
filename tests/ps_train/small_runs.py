"""Every module of the project on tables that train in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tiny_curves import make_table
from tiny_texts import make_text_table

from ps_train.budget.budgets import BudgetSet
from ps_train.budget.labels import needed_budgets
from ps_train.cli import main
from ps_train.load import load_predictor

LORA = {"lora": {"r": 2, "alpha": 4}, "optimizer": {"lr": 0.01}}
TEXTS = "ps_train.curve.text_data.CurveTextDataModule"
MODULES: dict[str, tuple[str, dict[str, Any], str]] = {
    "curve_mlp": (
        "ps_train.curve.mlp.CurveMLP",
        {"hidden_sizes": [8], "num_members": 2},
        "ps_train.curve.data.CurveDataModule",
    ),
    "difficulty_mlp": (
        "ps_train.difficulty.mlp.DifficultyMLP",
        {"hidden_sizes": [8]},
        "ps_train.curve.data.CurveDataModule",
    ),
    "curve_lora": ("ps_train.curve.lora.CurveLoRA", LORA, TEXTS),
    "difficulty_lora": ("ps_train.difficulty.lora.DifficultyClassifier", LORA, TEXTS),
    "budget_point": (
        "ps_train.budget.regressor.BudgetRegressor",
        {**LORA, "head": {"hidden_sizes": [8]}},
        "ps_train.budget.data.BudgetDataModule",
    ),
    "budget_quantiles": (
        "ps_train.budget.regressor.BudgetRegressor",
        {**LORA, "head": {"hidden_sizes": [8]}, "loss": "pinball", "space": "log"},
        "ps_train.budget.data.BudgetDataModule",
    ),
    "budget_bins": (
        "ps_train.budget.regressor.BudgetRegressor",
        {**LORA, "head": {"hidden_sizes": [8]}, "loss": "bins"},
        "ps_train.budget.data.BudgetDataModule",
    ),
}


def write_tables(folder: Path) -> None:
    """40 training and 10 test questions of every kind: `mlp_<name>`, `<name>` and `<name>.jsonl`."""
    for name, n, seed in (("train", 40, 1), ("test", 10, 2)):
        make_table(n, seed).save(folder / f"mlp_{name}")
        table = make_text_table(n, seed)
        table.save(folder / name)
        budgets, _ = needed_budgets(table.curves, 16)
        BudgetSet(table.ids, table.questions, budgets, 16, table.curves).save(folder / f"{name}.jsonl")


def write_config(
    folder: Path, kind: str, backbone: Path, *, trainer: dict[str, Any] | None = None, **changes: Any
) -> str:
    """The config of a short run; `changes` are the model's settings. Returns the file's path."""
    model, settings, data = MODULES[kind]
    form = {"CurveDataModule": "mlp_{}", "CurveTextDataModule": "{}", "BudgetDataModule": "{}.jsonl"}
    place = form[data.rpartition(".")[2]]
    source: dict[str, Any] = {name: str(folder / place.format(name)) for name in ("train", "test")}
    if "mlp" in kind:
        source["features"] = ["layer_2"]
    else:
        source |= {"backbone": str(backbone), "allow_overlap": True}
    if "budget" in kind:
        source["val_fraction"] = 0.3
    config = {
        "seed_everything": 0,
        "model": {"class_path": model, "init_args": {**settings, **changes}},
        "data": {"class_path": data, "init_args": {**source, "batch_size": 8}},
        "trainer": {
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            **(trainer or {}),
        },
    }
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def check_whole_path(config: str, root: Path, *arguments: str) -> None:
    """Fit, validate, test, predict and export, all finite."""
    common = ["--config", config, "--trainer.default_root_dir", str(root), *arguments]
    assert main(["fit", *common]) == 0
    for command in ("test", "predict"):
        assert main([command, *common, "--model.predictor", str(root / "predictor")]) == 0
    weights = load_predictor(root / "predictor").state_dict()
    assert all(torch.isfinite(value).all() for name, value in weights.items() if "input_scale" not in name)
    curves = root / "predictions.npy"
    assert not curves.is_file() or np.isfinite(np.load(curves)).all()
