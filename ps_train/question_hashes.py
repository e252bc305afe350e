"""Which questions a predictor learned from, kept as hashes: told again, never read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc.files import atomic_path

HASHES_FILE = "training_questions.npy"
"""In a predictor's folder: sorted uint64, one a different question text."""


def hash_question(text: str) -> int:
    """A question text's 64-bit hash (BLAKE2b); case and white space make no difference."""
    words = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def hash_questions(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hashes of the different ones among question texts, ascending."""
    return np.array(sorted({hash_question(text) for text in texts}), dtype=np.uint64)


def save_question_hashes(folder: str | Path, questions: Iterable[str] | npt.NDArray[np.uint64]) -> None:
    """Write the hashes of training questions, or of their texts, into a predictor's folder, atomically."""
    hashes = questions if isinstance(questions, np.ndarray) else hash_questions(questions)
    with atomic_path(Path(folder) / HASHES_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, hashes)


def load_question_hashes(folder: str | Path) -> npt.NDArray[np.uint64] | None:
    """What `save_question_hashes` wrote, or None where there is nothing.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(folder) / HASHES_FILE
    if not path.is_file():
        return None
    try:
        hashes = np.load(path, allow_pickle=False)
    except Exception as error:  # a cut header raises whatever its remains parse to
        raise ValueError(f"{path} must be a .npy file of hashes, but {error}") from error
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError(f"{path} must hold uint64 hashes, got {hashes.dtype} of shape {hashes.shape}")
    return hashes


def seen_in_training(folder: str | Path, texts: Sequence[str]) -> int:
    """How many of `texts` a predictor learned from; 0 where its folder does not say."""
    hashes = load_question_hashes(folder)
    if hashes is None:
        return 0
    asked = np.array([hash_question(text) for text in texts], dtype=np.uint64)
    return int(np.isin(asked, hashes).sum())
