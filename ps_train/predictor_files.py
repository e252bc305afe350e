"""The files of a predictor's folder, here or on a hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ps_train.common.novelty import NOVELTY_FILE
from ps_train.question_hashes import HASHES_FILE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ADAPTER_FOLDER = "adapter"
BACKBONE_FOLDER = "backbone"
"""A language model of the predictor's own, adapters folded in: `ps-train merge` writes it."""


def fetched(model_id: str, **options: Any) -> Path:
    """The local copy of a predictor on a hub; `options` are those of `snapshot_download`."""
    files = [CONFIG_FILE, WEIGHTS_FILE, HASHES_FILE, NOVELTY_FILE]
    files += [f"{ADAPTER_FOLDER}/*", f"{BACKBONE_FOLDER}/*"]
    return Path(snapshot_download(model_id, allow_patterns=files, **options))


def is_own(path: str) -> bool:
    """Whether a language model lies in a predictor's folder, as `ps-train merge` leaves it."""
    return Path(path).name == BACKBONE_FOLDER and (Path(path).parent / WEIGHTS_FILE).is_file()


def copied(path: str, target: Path) -> str:
    """A predictor's own language model goes where the predictor goes, to a hub for instance."""
    if Path(path).resolve() != target.resolve():
        shutil.copytree(path, target, dirs_exist_ok=True)
    return str(target)


def located(given: str | Path | None, configured: str | None, folder: Path) -> str | None:
    """Where a language model lies: where the caller says, else beside the predictor, else as configured."""
    if given is not None:
        return str(given)
    if configured is not None and (folder / configured).exists():
        return os.path.normpath(folder / configured)
    return configured
