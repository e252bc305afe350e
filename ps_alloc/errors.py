"""How every command of the project speaks and ends: text any console takes, one sentence on bad input."""

from __future__ import annotations

import difflib
import os
import select
import sys
from collections.abc import Callable, Iterable


def run_command(command: Callable[[], object]) -> int:
    """Run `command` and turn a user's mistake into one sentence instead of a traceback.

    Only `ValueError` (bad input, the type every public function raises for it) and `OSError` (a file that
    cannot be read or written) are a user's; anything else is a defect and keeps its traceback.

    Returns:
        The exit code: 0, 2 after bad input, 130 after Ctrl-C. Where the reader of stdout has gone (`| head`):
        141, as the shell has it.
    """
    accept_any_text()
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError as error:
        return 141 if _stdout_has_gone() else _refuse(error)
    except (ValueError, OSError) as error:
        return _refuse(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def accept_any_text() -> None:
    r"""Write characters that the console's encoding has not as `\xe9`, `\u2192`, instead of failing.

    A result's path or an answer in another script must not end a command whose work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # notebooks and tests put streams of their own there
            stream.reconfigure(errors="backslashreplace")


def _refuse(error: Exception) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 2


def _stdout_has_gone() -> bool:
    """Whether it was stdout's reader that went; then nothing more is said to it, not even at exit."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        gone = any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, ValueError, OSError):  # no polling on this system, or no file behind stdout
        return False
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'greedy'?`, or nothing where no word comes near."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def missing_package(command: str, error: ModuleNotFoundError, extra: str) -> str:
    """One sentence on what to install; a missing module of this project is a defect and is raised again.

    Args:
        command: Such as `ps-eval serve`.
        error: What importing it raised.
        extra: Of the distribution, that brings what the command needs.

    Raises:
        ModuleNotFoundError: `error`, if one of the project's own modules is missing.
    """
    package = (error.name or "").split(".")[0]
    if package in ("", "ps_alloc", "ps_train", "ps_eval"):
        raise error
    return (
        f"{command} needs the package {package}, which is not installed: "
        f"pip install 'predictive-scheduling[{extra}]'"
    )
