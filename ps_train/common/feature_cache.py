"""Extracted features on disk, written chunk by chunk: a killed extraction resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ps_alloc.files import atomic_path
from ps_train.common.features import Features, extract_features, layer_name
from ps_train.common.loading import load_backbone, resolve_model
from ps_train.feature_file import fits_float16

CHUNK_ROWS = 256
"""Questions a chunk: what a kill can cost, and what processes divide among themselves."""

CONTENT_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
"""Of the files in a model's folder that decide its hidden states."""


class FeatureCache:
    """The hidden states of one list of questions under one backbone, in chunks of `CHUNK_ROWS` questions.

    Args:
        root: The cache's folder; each (backbone, questions) pair gets its own folder inside.
        backbone: What `load_backbone` takes.
        questions: N question texts.
    """

    def __init__(self, root: str | Path, backbone: str | Path, questions: Sequence[str]) -> None:
        self.backbone, self.questions = backbone, list(questions)
        key = json.dumps([fingerprint(backbone), self.questions])
        self.folder = Path(root) / hashlib.sha256(key.encode()).hexdigest()[:16]

    def extract(
        self,
        layers: Sequence[int],
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[int]:
        """Extract this process's share of the chunks that are not there yet; yields the rows done so far.

        Chunk c belongs to process `c % world_size`.
        """
        starts = list(range(0, len(self.questions), CHUNK_ROWS))[rank::world_size]
        loaded = None
        done = 0
        for start in starts:
            questions = self.questions[start : start + CHUNK_ROWS]
            path = self._chunk(start)
            missing = [layer for layer in layers if layer_name(layer) not in _names(path)]
            if missing:
                model, tokenizer = loaded = loaded or load_backbone(self.backbone, dtype=dtype)
                found = extract_features(model, questions, missing, batch_size, tokenizer=tokenizer)
                tensors = {
                    name: values.astype(np.float16 if fits_float16(values) else np.float32)
                    for name, values in found.items()
                }
                with atomic_path(path) as temporary:
                    save_file({**_read(path, _names(path)), **tensors}, temporary)
            done += len(questions)
            yield done

    def load(self, layers: Sequence[int]) -> Features:
        """All rows of the given layers, float32.

        Raises:
            ValueError: If a chunk has not been extracted.
        """
        names = [layer_name(layer) for layer in layers]
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(self.questions), CHUNK_ROWS):
            path = self._chunk(start)
            lacking = [name for name in names if name not in _names(path)]
            if lacking:
                raise ValueError(f"features {lacking} must be extracted first, but {path} lacks them")
            for name, values in _read(path, names).items():
                parts[name].append(values.astype(np.float32))
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _chunk(self, start: int) -> Path:
        return self.folder / f"rows_{start:07d}.safetensors"


def _names(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with safe_open(path, "np") as file:
        return list(file.keys())


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in names}


def fingerprint(backbone: str | Path) -> list[object]:
    """Names the backbone's content: new weights or prompts in the same folder must not meet old features."""
    path = Path(resolve_model(backbone))
    if not path.exists():
        return [str(backbone)]  # a Hub id
    # The weights, whatever their format, and with the tokenizer and its chat template what sets the prompts.
    files = sorted(f for f in path.iterdir() if f.suffix in CONTENT_SUFFIXES) if path.is_dir() else [path]
    return [str(path.resolve()), [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]]
