"""How this package compiles its kernels: cached on disk, without the GIL, with strict floating point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` at its first call and keep the machine code for the next process.

    numba keeps it beside the source, or in the user's cache folder where the installation is read-only
    (NUMBA_CACHE_DIR names another). Where neither can be written, as in a locked-down container without a
    home, it refuses to decorate at all; the code is then compiled in each process: seconds at the first call,
    but no import error.

    fastmath stays off: kernels compare infinities and break ties, and reordered sums would change answers.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
