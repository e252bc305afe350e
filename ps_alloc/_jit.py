"""How this package compiles its kernels: cached on disk, without the GIL, with strict floating point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile `function` at its first call and keep the machine code for the next process.

    numba keeps it beside the source, or in the user's cache folder where the installation is read-only. Where
    neither can be written (a locked-down container without a home) it refuses to decorate at all; then the
    code is compiled anew in each process, which costs seconds once instead of an import error.
    NUMBA_CACHE_DIR names a folder to use instead.

    fastmath stays off: kernels compare infinities and break ties, and reordered sums would change answers.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
