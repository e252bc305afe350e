"""What makes an interrupted run safe to continue."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ps_alloc.files import atomic_path, read_json, write_json
from ps_eval.engines.base import RequestsFailedError
from ps_train.questions import Question, load_questions, save_questions

ALLOCATIONS_FOLDER = "allocations"
"""Holds `<policy>-<budget>.json` of each cell of a live run or a replay."""
QUESTIONS_FILE = "asked_questions.jsonl"
"""The questions of a trace or a live run: an id alone does not say whose result it is."""

BLOCK = 1 << 16
FAILURES_FILE = "failed.jsonl"
"""What a server would not answer, with the reason; gone once all of it is answered."""


def remember_settings(path: str | Path, settings: dict[str, Any]) -> None:
    """Write a run's settings beside its results, or check that a run that goes on has the same.

    Args:
        path: The JSON file of the settings.
        settings: All that a result depends on.

    Raises:
        ValueError: If the file holds other settings; the message names each that differs.
    """
    path = Path(path)
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json(path)
    names = (before.keys() | settings.keys()) - {"hash"}  # which is theirs together
    different = sorted(k for k in names if before.get(k) != settings.get(k))
    if different:
        changes = ", ".join(f"{k} was {before.get(k)!r} and is {settings.get(k)!r}" for k in different)
        beside = path.name.removesuffix(".settings.json")  # one file's, or its whole folder's
        begun = path.parent if beside == path.name else path.with_name(beside)
        raise ValueError(f"{begun} must be continued with the settings it was begun with, but {changes}")


def remember_questions(folder: str | Path, questions: Sequence[Question]) -> None:
    """Write a run's questions beside its results, or check that an id still means what it did.

    A run that goes on may ask more questions, fewer or others, but none under an id that is taken.

    Args:
        folder: The run's folder.
        questions: N questions, ids unique.

    Raises:
        ValueError: If an id was asked with another text or another answer; nothing is changed then.
    """
    path = Path(folder) / QUESTIONS_FILE
    known = {q.id: q for q in load_questions(path)} if path.is_file() else {}
    for question in questions:
        if known.get(question.id, question) != question:
            raise ValueError(
                f"{folder} must be continued with the questions it was begun with, "
                f"but {question.id!r} has another text or answer now"
            )
    if added := [q for q in questions if q.id not in known]:
        save_questions(path, [*known.values(), *added])


def repair_last_line(path: str | Path) -> None:
    """Take away a last line that a kill cut off an append-only file; make the file where it is not there."""
    path = Path(path)
    if not path.is_file():
        path.touch()
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:  # backwards in blocks, until the last line's end
            start = max(0, position - BLOCK)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position < end:
            file.truncate(position)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, each in one write: what ends the process loses one at most.

    Raises:
        OSError: If the file cannot be written; it names it.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                file.flush()
    except OSError as error:
        said = f"{error.strerror} (what is there is kept, and the same command goes on)"
        raise OSError(error.errno, said, str(path)) from error


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[Path]:
    """Keep a folder for this process while the block runs: two that write in it would mix their lines.

    The lock belongs to the process and goes with it, however it ends.

    Args:
        folder: Made where it is not there.

    Yields:
        The folder.

    Raises:
        ValueError: If another process has it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """`locked_folder` for a file or folder that is there."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{path} must be written by one process at a time, but another one is at work in it: "
                    "wait for it, or choose another output"
                ) from None
            # Some network file systems lock no folder: there, as before locks, the user must take care.
        yield
    finally:
        os.close(handle)


def report_failures(
    folder: str | Path, failures: Mapping[str, str], total: int, *, skip: bool = False
) -> None:
    """Write what failed, so that no result hides it; without failures, remove what an earlier run wrote.

    Args:
        folder: The run's folder, or the file to write.
        failures: Names of what failed, with the reasons.
        total: How many were asked for.
        skip: Go on without what failed, as long as anything is left.

    Raises:
        RequestsFailedError: If there are failures, and they are not skipped or nothing else is left.
    """
    path = Path(folder)
    path = path if path.suffix == ".jsonl" else path / FAILURES_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name, reason in failures.items():
            file.write(json.dumps({"id": name, "reason": reason}, ensure_ascii=False) + "\n")
    if skip and len(failures) < total:
        return
    name, reason = next(iter(failures.items()))
    raise RequestsFailedError(
        f"{len(failures)} of {total} failed, {name} first: {reason}. They are in {path}; the rest is kept: "
        "run the same command again to ask for them again, or with --skip-failed to go on without them"
    )
