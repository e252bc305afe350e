"""Counts of a text's bytes: how long it is and what it is made of, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ps_train.light.hashing import KINDS, SYMBOL, WORD

MAX_TEXT = 100_000
"""Letters counted of one text."""
GROUPS = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "=+*/^<>\\_-", "()[]{}", ".?!;:", ",", "?", "\n")
COUNTS = ("bytes", "words", "symbols", "numbers", "beyond_ascii", "word_length", *GROUPS)


def text_counts(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Logarithms of one plus each count of `COUNTS`: (N, len(COUNTS)) float64."""
    if not len(texts):
        return np.empty((0, len(COUNTS)))
    contents = [text[:MAX_TEXT].encode("utf-8", "replace") + b" " for text in texts]
    text = np.frombuffer(b"".join(contents), np.uint8)
    sizes = np.array([len(content) for content in contents])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    columns = np.add.reduceat(_indicators(text), starts, axis=1).astype(np.float64)
    words = columns[0]
    word_length = columns[-1] / np.maximum(words, 1)
    return np.log1p(np.vstack([sizes - 1, columns[:4], word_length, columns[4:-1]])).T


def _indicators(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """One row a count, its columns the bytes: 1 where the byte adds to it."""
    kinds = KINDS[text]
    word = kinds == WORD
    digit = _MEMBERS[0][text]
    rows = [_begins(word), kinds == SYMBOL, _begins(digit), text >= 128]
    rows += [members[text] for members in _MEMBERS]
    return np.array([*rows, word], np.int32)


def _begins(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return inside & ~np.concatenate([[False], inside[:-1]])


def _members(group: str) -> npt.NDArray[np.bool_]:
    members = np.zeros(256, np.bool_)
    members[list(group.encode())] = True
    return members


_MEMBERS = [_members(group) for group in GROUPS]
