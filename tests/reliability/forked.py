"""Commands in forked children, which can be killed: what is slow to import is imported once."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Work = Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int | None
    """Exit code; None where it was killed."""
    seconds: float
    printed: str
    """What it said on both streams."""

    @property
    def refused(self) -> bool:
        """It said in a sentence what is wrong, and nothing broke."""
        return self.code == 2 and "error:" in self.printed and "Traceback" not in self.printed


def start(work: Work, log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a child that runs `before`, then `work`, and ends with its code; returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        # Not what the parent may have put in their places, such as a test's capture.
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
        before()
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def ended(child: int, log: Path, since: float) -> Ended | None:
    """How it ended, or None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    if not found:
        return None
    seconds = time.monotonic() - since
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    return Ended(code, seconds, log.read_text(encoding="utf-8", errors="replace"))


def run(
    work: Work,
    log: Path,
    *,
    kill_after: float | None = None,
    before: Callable[[], None] = lambda: None,
    timeout: float = 300.0,
) -> Ended:
    """Run to the end, or until `kill -9` after so many seconds.

    Raises:
        TimeoutError: If it takes longer than `timeout` seconds.
    """
    since = time.monotonic()
    child = start(work, log, before)
    while True:
        if (how := ended(child, log, since)) is not None:
            return how
        waited = time.monotonic() - since
        if (kill_after is not None and waited >= kill_after) or waited >= timeout:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if waited >= timeout:
                raise TimeoutError(log.read_text(encoding="utf-8", errors="replace")[-2000:])
            return Ended(None, waited, log.read_text(encoding="utf-8", errors="replace"))
        time.sleep(0.002)
