"""How this package compiles its kernels: cached on disk, without the GIL, with strict floating point."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit


def _sources() -> str:
    """A hash of all files of this folder.

    Kernels inline each other across files, and numba looks at a kernel's own file only: without this, a
    change of one file would leave the others' machine code as it was.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` at its first call and keep the machine code for the next process.

    numba keeps it beside the source, or in the user's cache folder where the installation is read-only
    (NUMBA_CACHE_DIR names another). Where neither can be written, as in a locked-down container without a
    home, or where the sources cannot be read, as in a zip, the code is compiled in each process: seconds at
    the first call, but no import error.

    fastmath stays off: kernels compare infinities and break ties, and reordered sums would change answers.
    """
    if not config.DISABLE_JIT and SOURCES is not None:
        try:
            compiled = njit(cache=True, nogil=True)(function)
            index = compiled._cache._cache_file
            index._source_stamp = (index._source_stamp, SOURCES)
            return compiled
        except (RuntimeError, AttributeError):  # nowhere to write; another numba inside
            pass
    return njit(nogil=True)(function)


try:
    SOURCES: str | None = _sources()
except OSError:
    SOURCES = None
