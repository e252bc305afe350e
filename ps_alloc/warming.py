"""Compile ahead: a new installation's first calls take seconds each, a service's first request must not."""

from __future__ import annotations

import numpy as np


def warm_up() -> None:
    """Compile all that `allocate`, `allocate_options` and `frontier` may call, for float32 and float64.

    Takes some ten to thirty seconds the first time, and then, from numba's cache on disk, some tenths of one:
    call it when a container is built (with `NUMBA_CACHE_DIR` inside it) and when a service starts.
    """
    from ps_alloc._hull import DIRECT_ROWS
    from ps_alloc.allocate import allocate
    from ps_alloc.allocation import Allocation
    from ps_alloc.frontier import frontier
    from ps_alloc.options import OptionMenus, allocate_options

    n, w = DIRECT_ROWS + 1, 2
    for dtype in (np.float32, np.float64):
        curves = (np.arange(n * w).reshape(n, w) % 97 / 97).astype(dtype)  # some ties: every path is taken
        few = np.repeat(curves[:2], n // 2 + 1, axis=0)[:n]
        use = np.tile(np.array([9.0, 17.0], dtype), (n, 1))
        small = curves[:9]
        for total in (24 * n, 31 * n):
            allocate(curves, total, leftover="all")
            allocate(few, total)
            allocate(curves, total // 2, use=use)
        allocate(small, 9 * 24, leftover="all", invalid="clip")
        allocate(small, 9 * 40, leftover="all", use=use[:9])
        allocate(small, 9 * 24, method="myopic")
        allocate(small, 9 * 24, method="uniform")
        allocate(small, 9 * 12, use=use[:9], method="myopic")
        frontier(small)
        frontier(small, use=use[:9])
        Allocation(np.ones(9, np.int64), 16, 144, 144, "uniform").accuracy_on(small)
    allocate_options(OptionMenus.from_lists([[1, 2, 5], [3, 4, 9]], [[0.1, 0.2, 0.6], [0.1, 0.5, 0.6]]), 9)
