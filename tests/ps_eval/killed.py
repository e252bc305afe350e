"""`ps-eval`, ended as by `kill -9` at a known moment: no watcher need be quick enough to see it come."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, sys
from ps_eval.cli import main

path, lines, *command = sys.argv[1:]

def opened(event, details):
    if event == "open" and str(details[0]) == path and details[2] & os.O_APPEND:
        with open(path, "rb") as file:
            if file.read().count(b"\\n") >= int(lines):
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(opened)
sys.exit(main(command))
"""


def lines_of_killed(command: list[str], path: Path, lines: int) -> list[bytes]:
    """Run a command until `path` is to be appended to though it has `lines` lines; what it then holds.

    A command that appends no more has ended by itself, with code 0.
    """
    program = [sys.executable, "-c", PROGRAM, str(path), str(lines), *command]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return path.read_bytes().splitlines()
