"""What a language model is, wherever it lies: a hash of its files' content, cheap for large ones."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from transformers import AutoConfig

from ps_train.common.loading import resolve_model

CONTENT_SUFFIXES = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}
"""Of the files in a model's folder that decide its hidden states: weights, tokenizer, chat template."""

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Of a large file so many pieces are read: two trainings of one architecture differ in all of them."""


def model_identity(path: str | Path) -> str | None:
    """A language model's content in 16 hex digits: the same after a move, another after a training.

    Args:
        path: What `load_backbone` takes. Of a Hub id it is the commit that is loaded.

    Returns:
        The identity; None where nothing is there to look at.
    """
    located = Path(resolve_model(path))
    if not located.exists():
        return _hub_identity(str(path))
    files = [located]
    if located.is_dir():
        files = sorted(file for file in located.iterdir() if file.suffix in CONTENT_SUFFIXES)
    return _content(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache
def _content(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, size, _ in files:  # the time of change only tells the cache when to look again
        digest.update(f"{Path(name).name}:{size};".encode())
        with Path(name).open("rb") as file:
            if size <= SAMPLES * SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for number in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@lru_cache
def _hub_identity(name: str) -> str | None:
    try:
        commit = getattr(AutoConfig.from_pretrained(name), "_commit_hash", None)
    except (OSError, ValueError):
        return None
    return f"{name}@{commit}" if commit else None
