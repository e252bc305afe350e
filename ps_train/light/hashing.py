"""Text to hashed n-grams of words and letters, a batch at a time in numpy.

Bytes are hashed, so that any language and any symbol is read and no vocabulary is kept. A word's hash is a
difference of running sums: sum of byte_i * P**i over the word, divided by P**start (all modulo 2**64).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRIME = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
INVERSE = pow(PRIME, -1, 2**64)
SEPARATOR, WORD, SYMBOL = 0, 1, 2
CHUNK_BYTES = 1 << 16
"""Bytes hashed at once; what stays in the cache of a core."""

U64 = npt.NDArray[np.uint64]
Grams = Iterator[tuple[U64 | None, U64]]
"""Texts that n-grams are of (None: all of one), and their hashes."""


def _byte_kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(256, SYMBOL, np.uint8)
    kinds[:33] = SEPARATOR
    kinds[127] = SEPARATOR
    letters = [b for b in range(128) if chr(b).isalnum() or chr(b) == "_"]
    kinds[letters] = WORD
    kinds[128:] = WORD  # parts of letters beyond ASCII
    return kinds


KINDS = _byte_kinds()


@dataclass(frozen=True)
class HashedText:
    """The n-grams of N texts as a sparse matrix (N, 2**bits) in rows; M n-grams in all, each once a text."""

    starts: npt.NDArray[np.int64]
    """(N + 1,). Text i's n-grams are entries `starts[i]` to `starts[i + 1]`."""
    columns: npt.NDArray[np.int32]
    """(M,). Hashes; the upper half of the range are words, the lower letters."""
    counts: npt.NDArray[np.float32]
    """(M,). How often the text holds the n-gram."""

    def take(self, rows: npt.NDArray[np.bool_]) -> HashedText:
        """Some of the texts."""
        lengths = np.diff(self.starts)
        mine = np.repeat(rows, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[rows])])
        return HashedText(starts, self.columns[mine], self.counts[mine])


@dataclass(frozen=True)
class TextHasher:
    """Which n-grams of a text are hashed, and how finely."""

    bits: int = 17
    """2**bits different hashes."""
    words: int = 2
    """Runs of 1 … this many words (or single symbols)."""
    letters: tuple[int, int] = (3, 5)
    """Shortest and longest run of bytes; (0, 0) for none."""
    max_bytes: int = 4000
    """A longer text is read at its two ends, half of this at each."""

    def __call__(self, texts: Sequence[str]) -> HashedText:
        """Hash N texts; letter case and the kind of white space do not matter."""
        parts = [self._chunk(chunk) for chunk in self._chunks(texts)]
        if not parts:
            return HashedText(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        return HashedText(
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([part.columns for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )

    def _chunks(self, texts: Sequence[str]) -> Iterator[list[bytes]]:
        chunk: list[bytes] = []
        size = 0
        for text in texts:
            half = self.max_bytes // 2
            if len(text) > 8 * self.max_bytes:  # before any work on it: a request may be a book
                text = text[: 4 * half] + text[-4 * half :]
            content = " ".join(text.lower().replace("\0", " ").split()).encode("utf-8", "replace")
            if len(content) > self.max_bytes:
                content = content[:half] + b" " + content[-half:]
            chunk.append(content)
            size += len(content) + 1
            if size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _chunk(self, chunk: list[bytes]) -> HashedText:
        text = np.frombuffer(b"\0".join(chunk) + b"\0", np.uint8)
        row = None  # of one text; a request is one, and every call of numpy is felt
        if len(chunk) > 1:
            row = np.repeat(np.arange(len(chunk), dtype=np.uint64), [len(content) + 1 for content in chunk])
        half = np.uint64(1 << (self.bits - 1))
        keys = [np.empty(0, np.uint64)]
        for grams, block in ((self._word_grams, half), (self._letter_grams, np.uint64(0))):
            for rows, hashes in grams(text, row):
                key = hashes & (half - np.uint64(1)) | block
                keys.append(key if rows is None else rows << np.uint64(self.bits) | key)
        return _count(np.concatenate(keys), len(chunk), self.bits)

    def _word_grams(self, text: npt.NDArray[np.uint8], row: U64 | None) -> Grams:
        kinds = KINDS[text]
        word = kinds == WORD
        begins_here = kinds == SYMBOL
        begins_here[0] |= word[0]
        begins_here[1:] |= word[1:] & ~word[:-1]
        begins = begins_here.nonzero()[0]
        if not begins.size:
            return
        ends = begins + 1
        # The text ends in a separator, so every word has an end.
        ends[word[begins]] = (word[:-1] & ~word[1:]).nonzero()[0] + 1
        powers, inverses = _powers(len(text))
        sums = np.zeros(len(text) + 1, np.uint64)
        np.cumsum((text + np.uint64(1)) * powers, out=sums[1:])
        single = _mix((sums[ends] - sums[begins]) * inverses[begins])
        rows = None if row is None else row[begins]
        grams = single
        for length in range(1, self.words + 1):
            if length > 1:
                grams = _mix(grams[:-1] * np.uint64(3) + single[length - 1 :])
            if rows is None:
                yield None, grams
            else:
                last = len(rows) - length + 1
                same = rows[:last] == rows[length - 1 :]
                yield rows[:last][same], grams[same]

    def _letter_grams(self, text: npt.NDArray[np.uint8], row: U64 | None) -> Grams:
        shortest, longest = self.letters
        if not longest:
            return
        letters = text + np.uint64(1)
        grams = letters
        found, places = [], []
        for length in range(1, longest + 1):
            if length > 1:
                grams = grams[:-1] * np.uint64(PRIME) + letters[length - 1 :]
            # A run may not go over a text's end, which the separator marks.
            last = len(text) - length
            if length >= shortest and last > 0:
                same = slice(None) if row is None else row[:last] == row[length : length + last]
                found.append(grams[:last][same])
                if row is not None:
                    places.append(row[:last][same])
        if found:  # mixed together: for a short text, calls are what costs
            yield None if row is None else np.concatenate(places), _mix(np.concatenate(found))


def _count(keys: U64, n_texts: int, bits: int) -> HashedText:
    """Sorted, each once, with how often."""
    keys.sort()
    is_first = np.ones(keys.size, np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    first = is_first.nonzero()[0]
    counts = np.empty(first.size, np.float32)
    counts[:-1] = first[1:] - first[:-1]
    counts[-1:] = keys.size - first[-1:]
    keys = keys[first]
    if n_texts == 1:
        return HashedText(np.array([0, keys.size]), keys.astype(np.int32), counts)
    starts = np.searchsorted(keys, np.arange(n_texts + 1, dtype=np.uint64) << np.uint64(bits))
    return HashedText(starts, (keys & np.uint64((1 << bits) - 1)).astype(np.int32), counts)


def _mix(hashes: U64) -> U64:
    """Spread every bit over all (the finaliser of splitmix64)."""
    hashes = (hashes ^ hashes >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ hashes >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return hashes ^ hashes >> np.uint64(31)


_POWERS: list[tuple[U64, U64]] = []


def _powers(size: int) -> tuple[U64, U64]:
    """(size,) PRIME**i and its inverse modulo 2**64; computed once, and again only for more."""
    if not _POWERS or len(_POWERS[0][0]) < size:
        length = max(size, 1 << 14)
        tables = []
        for base in (PRIME, INVERSE):
            factors = np.full(length, base, np.uint64)
            factors[0] = 1
            tables.append(np.cumprod(factors))
        _POWERS[:] = [(tables[0], tables[1])]
    powers, inverses = _POWERS[0]
    return powers[:size], inverses[:size]
