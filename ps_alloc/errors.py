"""How every command of the project ends on bad input: one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run_command(command: Callable[[], object]) -> int:
    """Run `command` and turn a user's mistake into one sentence instead of a traceback.

    Only `ValueError` (bad input, the type every public function raises for it) and `OSError` (a file that
    cannot be read or written) are a user's; anything else is a defect and keeps its traceback.

    Returns:
        The exit code: 0, 2 after bad input, 130 after Ctrl-C.
    """
    try:
        command()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0
