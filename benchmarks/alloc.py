"""How fast the allocator is, as ratios to copying its input once and to other ways of solving the problem.

    python benchmarks/alloc.py            # everything, a few minutes
    python benchmarks/alloc.py --quick    # a tenth of the queries, without the general solvers

Every ratio is the median over repeats of paired timings: both sides are timed in turn, in one process.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from ps_alloc import _hull, allocate, frontier

MEAN_WINDOWS = 6


def synthetic_curves(n: int, w: int, kind: str = "noisy") -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    if kind == "noisy":  # rising, with dips
        gains = np.abs(rng.normal(0, 0.96 / w, (n, w)))
        curves = gains.cumsum(axis=1) + rng.normal(0, 0.03, (n, w))
    elif kind == "S-shaped":
        k = np.arange(1, w + 1)
        middle = rng.uniform(0, w, (n, 1))
        curves = rng.uniform(0.2, 1, (n, 1)) / (1 + np.exp(-(k - middle) * 16 / w)) + rng.normal(
            0, 0.01, (n, w)
        )
    else:  # one curve for all
        curves = np.repeat(synthetic_curves(1, w), n, axis=0)
    return np.clip(curves, 0, 1).astype(np.float32)


@numba.njit(cache=True)
def numba_heap_greedy(curves: Any, total_windows: int) -> Any:
    """Plain heap greedy on next-window gains: what one would write first."""
    n, w = curves.shape
    windows = np.ones(n, np.int64)
    heap = [(np.float64(curves[i, 0]) - np.float64(curves[i, 1]), i) for i in range(n)]
    heapq.heapify(heap)
    left = total_windows - n
    while left > 0 and len(heap) > 0:
        _, i = heap[0]
        windows[i] += 1
        left -= 1
        k = windows[i]
        if k < w:
            heapq.heapreplace(heap, (np.float64(curves[i, k - 1]) - np.float64(curves[i, k]), i))
        else:
            heapq.heappop(heap)
    return windows


def python_heap_greedy(curves: npt.NDArray[np.float32], total_windows: int) -> list[int]:
    """The same in pure Python, as one would write it first: pop, push, index the array."""
    n, w = curves.shape
    windows = [1] * n
    heap = [(curves[i, 0] - curves[i, 1], i) for i in range(n)]
    heapq.heapify(heap)
    for _ in range(total_windows - n):
        if not heap:
            break
        _, i = heapq.heappop(heap)
        windows[i] += 1
        k = windows[i]
        if k < w:
            heapq.heappush(heap, (curves[i, k - 1] - curves[i, k], i))
    return windows


def tuned_python_heap_greedy(curves: npt.NDArray[np.float32], total_windows: int) -> list[int]:
    """The same, tuned: lists instead of the array, one heap operation a window."""
    rows = curves.tolist()
    w = len(rows[0])
    windows = [1] * len(rows)
    heap = [(row[0] - row[1], i) for i, row in enumerate(rows)]
    heapq.heapify(heap)
    for _ in range(total_windows - len(rows)):
        if not heap:
            break
        i = heap[0][1]
        windows[i] += 1
        k = windows[i]
        if k < w:
            heapq.heapreplace(heap, (rows[i][k - 1] - rows[i][k], i))
        else:
            heapq.heappop(heap)
    return windows


def python_hull_greedy(curves: npt.NDArray[np.float32], total_windows: int) -> list[int]:
    """What `allocate` does before its core, in pure Python: each row's envelope, then steepest step first."""
    rows = curves.tolist()
    envelopes = []
    for row in rows:
        corners = [0]
        for k in range(1, len(row)):
            if row[k] <= row[corners[-1]]:
                continue  # the envelope ends at the curve's top
            while len(corners) > 1:
                a, b = corners[-2:]
                if (row[k] - row[b]) * (b - a) < (row[b] - row[a]) * (k - b):
                    break
                corners.pop()
            corners.append(k)
        envelopes.append(corners)

    def step(i: int, j: int) -> tuple[float, int, int]:
        a, b = envelopes[i][j], envelopes[i][j + 1]
        return (rows[i][a] - rows[i][b]) / (b - a), i, j

    heap = [step(i, 0) for i, corners in enumerate(envelopes) if len(corners) > 1]
    heapq.heapify(heap)
    windows = [1] * len(rows)
    left = total_windows - len(rows)
    while heap:
        _, i, j = heap[0]
        a, b = envelopes[i][j], envelopes[i][j + 1]
        if b - a > left:
            break
        windows[i] = b + 1
        left -= b - a
        if j + 2 < len(envelopes[i]):
            heapq.heapreplace(heap, step(i, j + 1))
        else:
            heapq.heappop(heap)
    return windows


def highs(curves: npt.NDArray[np.float32], total_windows: int) -> float:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    n, w = curves.shape
    one_each = csr_array((np.ones(n * w), (np.repeat(np.arange(n), w), np.arange(n * w))))
    cost = csr_array(np.tile(np.arange(1.0, w + 1), n)[None])
    result = milp(
        -curves.astype(float).ravel(),
        integrality=np.ones(n * w),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost, -np.inf, total_windows)],
        options={"mip_rel_gap": 1e-6},
    )
    return float(-result.fun) / n


def cp_sat(curves: npt.NDArray[np.float32], total_windows: int) -> float:
    from ortools.sat.python import cp_model

    n, w = curves.shape
    scale = 1 << 24
    model = cp_model.CpModel()
    chosen = [[model.new_bool_var("") for _ in range(w)] for _ in range(n)]
    for row in chosen:
        model.add_exactly_one(row)
    variables = [v for row in chosen for v in row]
    model.add(
        cp_model.LinearExpr.weighted_sum(variables, [k + 1 for _ in range(n) for k in range(w)])
        <= total_windows
    )
    values = np.round(curves.astype(float) * scale).astype(int).ravel().tolist()
    model.maximize(cp_model.LinearExpr.weighted_sum(variables, values))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = os.cpu_count() or 1
    solver.parameters.relative_gap_limit = 1e-6
    solver.parameters.max_time_in_seconds = 120.0
    solver.solve(model)
    return solver.objective_value / scale / n


def paired(base: Callable[[], Any], contender: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median ratio contender / base, and both medians in seconds. Both run once before."""
    base()
    contender()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        base()
        middle = time.perf_counter()
        contender()
        times.append((middle - begin, time.perf_counter() - middle))
    ratio = statistics.median(b / a for a, b in times)
    return ratio, statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def pretty(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def copy_row(kind: str, n: int, w: int, repeats: int) -> str:
    curves = synthetic_curves(n, w, kind)
    copy = np.empty_like(curves)
    total = n * w * MEAN_WINDOWS // 16 * 16
    read, _, _ = paired(lambda: np.copyto(copy, curves), lambda: curves.sum(), repeats)
    ratio, base, ours = paired(lambda: np.copyto(copy, curves), lambda: allocate(curves, total), repeats)
    kept = allocate(curves, total, leftover="keep")
    gap = (kept.gap_bound or 0.0) * n / float(np.ptp(curves, axis=1).max())
    return (
        f"| {kind} {n:,} × {w} | {pretty(base)} | {read:.2f} | {pretty(ours)} | {pretty(ours / n)} "
        f"| **{ratio:.2f}** | {gap:.0e} |"
    )


def copy_ratios(shapes: list[tuple[str, int, int]], repeats: int) -> None:
    print("\n| curves | copyto | sum / copyto | allocate | a query | allocate / copyto | bound, steps |")
    print("|---|---|---|---|---|---|---|")
    for shape in shapes:
        print(copy_row(*shape, repeats), flush=True)


def grids_and_use(million: int, repeats: int) -> None:
    """Any token grid, costs that are expected use, and the whole frontier; the inputs are curves and use."""
    print("\n| | copyto of the inputs | seconds | ratio |")
    print("|---|---|---|---|")
    curves = synthetic_curves(million, 16)
    rng = np.random.default_rng(1)
    share = rng.random((million, 16), dtype=np.float32).cumsum(axis=1, dtype=np.float32)
    use = np.minimum(share * 16, 16 * np.arange(1, 17, dtype=np.float32))
    few = np.ascontiguousarray(curves[: million // 2, :7])
    grid = 512 * 2 ** np.arange(7)
    total = million * MEAN_WINDOWS * 16
    cases: list[tuple[str, list[Any], Callable[[], Any], Callable[[], Any] | None]] = [
        (f"{million:,} × 16, use (N, W)", [curves, use], lambda: allocate(curves, total, use=use), None),
        (
            f"{million // 2:,} × 7, budgets 512 … 32,768",
            [few],
            lambda: allocate(few, len(few) * 3_000, budgets=grid),
            None,
        ),
        (
            f"{million:,} × 16, frontier, against one allocate",
            [curves],
            lambda: frontier(curves),
            lambda: allocate(curves, total),
        ),
    ]
    for name, inputs, ours, base in cases:
        copies = [np.empty_like(array) for array in inputs]

        def copy(inputs: Any = inputs, copies: Any = copies) -> None:
            for array, to in zip(inputs, copies, strict=True):
                np.copyto(to, array)

        ratio, theirs, seconds = paired(base or copy, ours, repeats)
        print(f"| {name} | {pretty(theirs)} | {pretty(seconds)} | **{ratio:.2f}** |", flush=True)


def row(name: str, n: int, theirs: float, ours: float, ratio: float) -> str:
    return f"| {name} | {n:,} | {pretty(theirs)} | {pretty(ours)} | **{ratio:.0f}** |"


def other_ways(n: int, repeats: int) -> None:
    print("\n| against | queries | theirs | ours | theirs / ours |")
    print("|---|---|---|---|---|")
    curves = synthetic_curves(n, 16)
    windows = n * MEAN_WINDOWS
    ratio, ours, theirs = paired(
        lambda: allocate(curves, windows * 16), lambda: numba_heap_greedy(curves, windows), repeats
    )
    print(row("numba heap greedy (next gain only)", n, theirs, ours, ratio), flush=True)

    direct_rows = _hull.DIRECT_ROWS

    def every_envelope() -> None:
        _hull.DIRECT_ROWS = n
        allocate(curves, windows * 16)
        _hull.DIRECT_ROWS = direct_rows

    ratio, ours, theirs = paired(lambda: allocate(curves, windows * 16), every_envelope, max(3, repeats // 3))
    print(row("every envelope, sorted", n, theirs, ours, ratio), flush=True)

    batches = different_batches(1000, 30)
    windows = 1000 * MEAN_WINDOWS
    for name, greedy in (
        ("next gain only", python_heap_greedy),
        ("next gain only, tuned", tuned_python_heap_greedy),
        ("along the envelopes", python_hull_greedy),
    ):
        ours, theirs = [], []
        for batch in batches:
            begin = time.perf_counter()
            greedy(batch, windows)
            theirs.append(time.perf_counter() - begin)
        for batch in batches:
            begin = time.perf_counter()
            allocate(batch, windows * 16)
            ours.append(time.perf_counter() - begin)
        medians = statistics.median(theirs), statistics.median(ours)
        print(row(f"Python heapq greedy, {name}", 1000, *medians, medians[0] / medians[1]), flush=True)


def solver_row(kind: str) -> str:
    curves = synthetic_curves(1000, 16, kind)
    windows = 1000 * MEAN_WINDOWS
    times, values = [], []
    for solver in (highs, cp_sat):
        begin = time.perf_counter()
        values.append(solver(curves, windows))
        times.append(time.perf_counter() - begin)
    ours = allocate(curves, windows * 16, leftover="keep")
    _, _, warm = paired(lambda: None, lambda: allocate(curves, windows * 16, leftover="keep"), 15)
    return (
        f"| {kind} | {pretty(times[0])} | {pretty(times[1])} | {pretty(warm)} "
        f"| {values[0]:.7f} | {values[1]:.7f} | {ours.expected_accuracy:.7f} | {ours.gap_bound:.0e} |"
    )


def general_solvers() -> None:
    print("\n| 1,000 queries | HiGHS | CP-SAT | allocate | accuracy: HiGHS | CP-SAT | allocate | its bound |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("noisy", "S-shaped"):
        print(solver_row(kind), flush=True)


def different_batches(n: int, count: int) -> list[npt.NDArray[np.float32]]:
    """Batches of fresh curves: given one batch again and again, the processor learns its branches."""
    curves = synthetic_curves(n * count, 16)
    return [curves[begin : begin + n] for begin in range(0, n * count, n)]


def latencies() -> None:
    print("\n| small batches, all different | median of 300 | the same batch 300 times |")
    print("|---|---|---|")
    for n in (1, 16, 128, 1000):
        different = different_batches(n, 300)
        medians = []
        for batches in (different, different[:1] * 300):
            seconds = []
            for batch in batches:
                begin = time.perf_counter()
                allocate(batch, n * MEAN_WINDOWS * 16)
                seconds.append(time.perf_counter() - begin)
            medians.append(pretty(statistics.median(seconds)))
        print(f"| {n:,} × 16 | {medians[0]} | {medians[1]} |", flush=True)


def memory(n: int) -> None:
    curves = synthetic_curves(n, 16)
    total = n * MEAN_WINDOWS * 16
    allocate(curves, total)
    tracemalloc.start()
    allocate(curves, total)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\nextra memory at {n:,} × 16, the result included: {peak / curves.nbytes:.1%} of the curves")


def cold_start() -> None:
    script = (
        "import time; t = time.perf_counter(); import numpy as np; n = time.perf_counter(); "
        "import ps_alloc; i = time.perf_counter(); "
        "c = np.sort(np.random.default_rng(0).random((128, 16), np.float32)); "
        "b = time.perf_counter(); ps_alloc.allocate(c, 128 * 96); "
        "print(n - t, i - n, time.perf_counter() - b)"
    )

    def seconds(cache: str) -> list[float]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", script]
        out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        return [float(part) for part in out.split()]

    with tempfile.TemporaryDirectory() as cache:
        compiling = seconds(cache)[-1]
        runs = [seconds(cache) for _ in range(5)]
    numpy_seconds, import_seconds, first = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"\nnew process, kernels cached (median of 5): import numpy {pretty(numpy_seconds)}, then ps_alloc "
        f"{pretty(import_seconds)}, first allocation {pretty(first)}, or {pretty(compiling)} without a cache"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    million = 100_000 if arguments.quick else 1_000_000
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load average {load}; "
        f"numpy {np.__version__}, numba {numba.__version__}"
    )
    copy_ratios(
        [
            ("noisy", million // 4, 16),
            ("noisy", million // 2, 16),
            ("noisy", million, 16),
            ("noisy", 2 * million, 16),
            ("S-shaped", million, 16),
            ("noisy", million // 10, 128),
            ("one curve", million, 16),
        ],
        arguments.repeats,
    )
    latencies()
    grids_and_use(million, arguments.repeats)
    other_ways(million, 5)
    memory(million)
    cold_start()
    if not arguments.quick:
        general_solvers()


if __name__ == "__main__":
    main()
