"""Extracted features on disk, written chunk by chunk: a killed extraction resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ps_alloc.files import atomic_path
from ps_train.common.features import Features, extract_features, layer_name
from ps_train.common.identity import model_identity
from ps_train.common.loading import load_backbone, load_tokenizer
from ps_train.common.prompts import encode_prompts
from ps_train.feature_file import fits_float16

CHUNK_ROWS = 256
"""Questions a chunk: what a kill can cost, and what processes divide among themselves."""


class FeatureCache:
    """The hidden states of one list of questions under one backbone, in chunks of `CHUNK_ROWS` questions.

    The key is all that they depend on (`state_key`). Chunks are files of their own, moved into place whole,
    so that machines that share a disk can share the work.

    Args:
        root: The cache's folder; each key gets its own folder inside.
        backbone: What `load_backbone` takes.
        questions: N question texts.
        dtype: What the language model computes in.
        max_length: Most tokens of a prompt; None for no limit but the model's.

    Raises:
        ValueError: If a prompt is longer.
    """

    def __init__(
        self,
        root: str | Path,
        backbone: str | Path,
        questions: Sequence[str],
        *,
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
    ) -> None:
        self.backbone, self.questions, self.dtype = backbone, list(questions), dtype
        prompts = encode_prompts(load_tokenizer(backbone), self.questions)
        for row, prompt in enumerate(prompts):
            if max_length is not None and len(prompt) > max_length:
                raise ValueError(
                    f"a prompt must have at most {max_length} tokens, got {len(prompt)} in row {row}"
                )
        self.folder = Path(root) / state_key(backbone, prompts, dtype)

    def extract(
        self,
        layers: Sequence[int],
        *,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
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
                if loaded is None:
                    loaded = load_backbone(self.backbone, dtype=self.dtype, device=device)
                model, tokenizer = loaded
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
    try:
        with safe_open(path, "np") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and it is extracted again") from error


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in names}


def state_key(
    backbone: str | Path, tokens: Sequence[Sequence[int]], dtype: torch.dtype, blocks: int | None = None
) -> str:
    """The folder of kept states: a hash of all that they depend on.

    The model's content (with the commit of a Hub id), the tokens (so the texts, the template and the date
    that a template may write), the type computed in and, where a file holds one layer only, how many blocks
    ran.
    """
    digest = hashlib.sha256(json.dumps([model_identity(backbone), str(dtype), blocks]).encode())
    for ids in tokens:
        digest.update(np.asarray([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()[:16]
