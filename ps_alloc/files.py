"""Files shared by all floors: written whole or not at all, refused with one clear sentence."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@contextmanager
def atomic_path(path: str | Path, *, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there when the block succeeds, delete it when it fails.

    Readers see the old file or the new one, never a half-written one. Parent folders are made. Through a
    symbolic link the file that it names is written, and the link stays. A file that was there keeps its mode;
    a new one gets that of any file its user creates.

    Args:
        path: The file to write.
        inputs: Files the content is made of: `path` must be none of them.

    Yields:
        The path to write to instead, with the same suffix.

    Raises:
        ValueError: As `check_output`.
        OSError: If it cannot be written, whatever the writer in the block raises for that; it names the file.
    """
    target = check_output(path, inputs=inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_file(target)
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        # The writer may have put another file in its place: safetensors does, with mode 0600.
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else mode)
        temporary.replace(target)
    except Exception as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(target)) from error
        # Writers of other languages have types of their own for a full disk, such as safetensors.
        if "I/O error" in str(error) and not isinstance(error, OSError | ValueError):
            raise OSError(f"{target} cannot be written: {error}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, *, inputs: Iterable[str | Path] = ()) -> Path:
    """Refuse a path that no file can be written to without harm. Commands ask before they begin to work.

    Args:
        path: The file to write.
        inputs: Files that are read for it.

    Returns:
        The file that will be written: `path`, or what it links to.

    Raises:
        ValueError: If it is there and is no regular file (a folder, pipe or device), or is one of `inputs`.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} must be a regular file or none yet, but it is {_kind(mode)}")
    for name in inputs:
        if Path(name).exists() and path.samefile(name):
            raise ValueError(f"{path} must be another file than the input, but it is {name}")
    return Path(os.path.realpath(path))


def write_json(path: str | Path, content: Any, *, inputs: Iterable[str | Path] = ()) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity are refused with a `ValueError`."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_path(path, inputs=inputs) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file: UTF-8, with or without a byte order mark, or UTF-16.

    Raises:
        ValueError: If the file is missing or is not JSON; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} must be an existing JSON file, but there is no such file")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # a syntax error, bytes that are no text, a number of thousands of digits
        raise ValueError(f"{path} must hold valid JSON, but {error}") from error
    except RecursionError:
        raise ValueError(f"{path} must hold valid JSON, but it is nested too deeply") from None


def read_object(path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON file that is an object with these fields.

    Raises:
        ValueError: If the file is missing, is not JSON, is no object, or lacks a field.
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(name not in content for name in names):
        raise ValueError(f"{path} must be a JSON object with the fields {names}")
    return content


def finite_field(content: dict[str, Any], path: str | Path, name: str) -> npt.NDArray[np.float64]:
    """A field of finite numbers, whatever its shape.

    Args:
        content: What `read_object` returned.
        path: The file, for the message.
        name: The field.

    Raises:
        ValueError: If it holds anything else.
    """
    try:
        values = np.array(content[name], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        values = np.array(np.nan)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} must be finite numbers, got {content[name]!r:.60}")
    return values


def _new_file(target: Path) -> Path:
    """An empty file beside `target`, with the mode that the process' umask gives to new files."""
    while True:
        temporary = target.parent / f".{secrets.token_hex(8)}{target.suffix}"
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return temporary


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
