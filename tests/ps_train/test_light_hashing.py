from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps_train.light.hashing import INVERSE, PRIME, TextHasher

MASK = 2**64 - 1
TEXTS = ["How many eggs?  How MANY eggs?", "x_1 = 3.5*y", "", "naïve Größe — 数学", "a", "?!"]


def mixed(value: int) -> int:
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def naive(text: str, hasher: TextHasher) -> Counter[int]:
    """The slow twin: n-grams of one text by loops over Python numbers."""
    content = " ".join(text.lower().replace("\0", " ").split()).encode("utf-8", "replace")
    if len(content) > hasher.max_bytes:
        half = hasher.max_bytes // 2
        content = content[:half] + b" " + content[-half:]
    found: Counter[int] = Counter()
    low = (1 << (hasher.bits - 1)) - 1
    words = []
    for word in re.findall(rb"[0-9A-Za-z_\x80-\xff]+|[^0-9A-Za-z_\x80-\xff\x00-\x20\x7f]", content):
        words.append(mixed(sum((byte + 1) * pow(PRIME, i, 2**64) for i, byte in enumerate(word)) & MASK))
    grams = words
    for length in range(1, hasher.words + 1):
        if length > 1:
            grams = [
                mixed((grams[i] * 3 + words[i + length - 1]) & MASK) for i in range(len(words) - length + 1)
            ]
        found.update((gram & low) | (1 << (hasher.bits - 1)) for gram in grams)
    shortest, longest = hasher.letters
    for length in range(shortest, longest + 1) if longest else ():
        for start in range(len(content) - length + 1):
            value = 0
            for byte in content[start : start + length]:
                value = (value * PRIME + byte + 1) & MASK
            found[mixed(value) & low] += 1
    return found


def read(hashed, row: int) -> dict[int, float]:
    part = slice(hashed.starts[row], hashed.starts[row + 1])
    return dict(zip(hashed.columns[part].tolist(), hashed.counts[part].tolist(), strict=True))


def test_the_prime_is_inverted() -> None:
    assert PRIME * INVERSE % 2**64 == 1


@pytest.mark.parametrize(
    "hasher", [TextHasher(), TextHasher(bits=10, words=3, letters=(2, 3)), TextHasher(letters=(0, 0))]
)
def test_a_batch_is_hashed_as_each_text_alone_and_as_the_slow_twin_says(hasher: TextHasher) -> None:
    together = hasher(TEXTS)
    for row, text in enumerate(TEXTS):
        assert read(together, row) == read(hasher([text]), 0) == naive(text, hasher)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_any_text_is_hashed_as_the_slow_twin_says(texts: list[str]) -> None:
    hashed = TextHasher()(texts)
    for row, text in enumerate(texts):
        assert read(hashed, row) == naive(text, TextHasher())


def test_letter_case_and_white_space_make_no_difference_but_one_letter_does() -> None:
    hasher = TextHasher()
    hashed = hasher(["How many  EGGS?\n", "how many eggs?", "how many legs?"])
    assert read(hashed, 0) == read(hashed, 1) != read(hashed, 2)


def test_a_long_text_is_read_at_its_two_ends() -> None:
    hasher = TextHasher(max_bytes=100)
    start, end = "start " * 20, " end" * 20
    texts = [start + middle + end for middle in ("x" * 1000, "y" * 5000, "z " * 2000)]
    hashed = hasher(texts)
    assert read(hashed, 0) == read(hashed, 1) == read(hashed, 2) == naive(texts[0], hasher)


def test_many_chunks_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TextHasher()(TEXTS)
    monkeypatch.setattr("ps_train.light.hashing.CHUNK_BYTES", 8)
    parts = TextHasher()(TEXTS)
    for name in ("starts", "columns", "counts"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_no_text_has_no_grams() -> None:
    assert TextHasher()([]).starts.tolist() == [0]
    assert TextHasher()(["", ""]).starts.tolist() == [0, 0, 0]
