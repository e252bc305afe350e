"""Questions whose words decide their curves, and what it takes to train on them in seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import yaml

from ps_train.curve_table import CurveTable

ENDINGS = ("eggs", "two", "sam")
"""The last word decides after how many windows the model finds the answer."""


def make_text_table(n: int, seed: int = 0, num_windows: int = 8, window: int = 16) -> CurveTable:
    """Curves that rise in window 1, 4 or 7 by the question's last word, with the noise of 50 traces."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    words = ["how", "many", "does", "have", "then", "buys", *"0123456789"]
    texts = [" ".join([*rng.choice(words, rng.integers(3, 12)), ENDINGS[k]]) for k in kind]
    rise = np.array([1, 4, 7])[kind][:, None]
    probabilities = 0.9 / (1 + np.exp(-1.5 * (np.arange(num_windows) - rise)))
    return CurveTable(
        ids=[f"q{i}" for i in range(n)],
        questions=texts,
        answers=[str(i) for i in range(n)],
        curves=(rng.binomial(50, probabilities) / 50).astype(np.float32),
        n_traces=np.full(n, 50, np.int32),
        budgets=window,
        metadata={"model": "made-up"},
        extra={"kind": kind.astype(np.int8)},
    )


def write_text_config(
    folder: Path, model: str, backbone: Path, *, trainer: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A config for `ps-train` on `folder`'s tables; `changes` are the model's settings, or `data__<name>`."""
    data = {k.removeprefix("data__"): v for k, v in changes.items() if k.startswith("data__")}
    own = {k: v for k, v in changes.items() if not k.startswith("data__")}
    checkpoints = "pytorch_lightning.callbacks.ModelCheckpoint"
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": model,
            "init_args": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "optimizer": {"lr": 0.01}, **own},
        },
        "data": {
            "class_path": "ps_train.curve.text_data.CurveTextDataModule",
            "init_args": {
                "backbone": str(backbone),
                "train": str(folder / "train"),
                "test": str(folder / "test"),
                "batch_size": 16,
                "allow_overlap": True,  # of so few words, some questions are made twice
                **data,
            },
        },
        "trainer": {
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "max_epochs": 4,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [
                {"class_path": checkpoints, "init_args": {"save_last": True}},
                {
                    "class_path": checkpoints,
                    "init_args": {"every_n_train_steps": 5, "filename": "resume-{step}", "save_top_k": -1},
                },
            ],
            **(trainer or {}),
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class KillAt(pl.Callback):
    """Ends the process as `kill -9` does, once `step` optimizer steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)
