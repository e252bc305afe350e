"""Text files as people have them: UTF-8 with or without a byte-order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def text_encoding(path: Path) -> str:
    """`utf-16` where the file says so, else `utf-8-sig`, which reads UTF-8 with a mark and without.

    Raises:
        ValueError: If the file is compressed.
    """
    with path.open("rb") as file:
        start = file.read(5)
    for mark, kind in _COMPRESSED.items():
        if start.startswith(mark):
            raise ValueError(f"{path} must be a text file, but it is compressed by {kind}: unpack it first")
    return "utf-16" if start.startswith(_UTF16) else "utf-8-sig"


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers (from 1).

    Raises:
        ValueError: If a line is in another encoding; the message names file and line.
    """
    path = Path(path)
    encoding = text_encoding(path)
    if encoding == "utf-16":
        try:
            # Only a line feed ends a line: JSON strings may hold what `splitlines` takes for ends, as U+2028.
            with path.open(encoding=encoding, newline="\n") as lines:
                yield from ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
        except UnicodeError as error:
            raise ValueError(f"{path} must be UTF-16 throughout, as it begins, but {error}") from error
        return
    with path.open("rb") as raw_lines:
        for number, raw in enumerate(raw_lines, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"byte {error.start} is {raw[error.start]:#04x}"
                raise ValueError(
                    f"{path} line {number} must be UTF-8, but {reason}: save it as UTF-8"
                ) from error
            if line.strip():
                yield number, line


def read_records(path: str | Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The objects of a JSONL file: where each stands (`FILE line N`), its line number, and its fields.

    Raises:
        ValueError: If a line is not a JSON object, or not in UTF-8; the message names file and line.
    """
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a syntax error, or a number of thousands of digits
            raise ValueError(f"{where} must be a JSON object, but {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} must be a JSON object, got {type(record).__name__}")
        yield where, number, record


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can hold: half of a surrogate pair it cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
