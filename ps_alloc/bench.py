"""How long an allocation takes here, against copying its input: `ps-alloc bench`."""

from __future__ import annotations

import time

import numpy as np

from ps_alloc.allocate import allocate


def time_allocator(n_queries: int, num_windows: int, repeats: int) -> dict[str, float]:
    """Medians over `repeats` allocations of N noisy curves at 6 windows a query.

    Returns:
        `queries`, `windows`, `milliseconds` of an allocation, and `copies`: its ratio to copying the curves.
    """
    rng = np.random.default_rng(0)
    gains = np.abs(rng.normal(0, 0.06, (n_queries, num_windows)))
    curves = np.clip(gains.cumsum(axis=1) + rng.normal(0, 0.03, gains.shape), 0, 1).astype(np.float32)
    copy = np.empty_like(curves)
    total = n_queries * 6 * 16
    allocate(curves, total)  # compiles, or loads the compiled kernels
    seconds, ratios = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        np.copyto(copy, curves)
        middle = time.perf_counter()
        allocate(curves, total)
        end = time.perf_counter()
        seconds.append(end - middle)
        ratios.append((end - middle) / (middle - begin))
    return {
        "queries": n_queries,
        "windows": num_windows,
        "milliseconds": float(np.median(seconds)) * 1e3,
        "copies": float(np.median(ratios)),
    }
