"""The one piece of explicit vector code: best windows of sixteen queries at two prices.

LLVM does not find this form by itself: it vectorises along a row, where every step of a search for the
largest value waits for the one before. Sixteen rows side by side have no such chain. LLVM lowers the 16-wide
vectors to whatever the processor has (one AVX-512 register, two AVX2, four SSE or NEON).

What it buys is in docs/allocation.md, under Speed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

LANES = 16
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
FLAGS = ir.VectorType(ir.IntType(1), LANES)
ONE_BITS = 0x3F800000  # 1.0f; as unsigned bits, exactly the floats in [0, 1] are not above it (-0.0 is)


def _best_of_sixteen_python(values: Any, use: Any, grid: Any, lanes: Any, windows: Any) -> bool:
    """What the compiled form computes, used where numba is switched off and as its reference in the tests.

    Args:
        values: (16, W) float32 values of 1 .. W windows.
        use: (16, W) float32 costs of 1 .. W windows; (0, W) where the grid is the cost of every row.
        grid: (V,) float32, V the next multiple of 16 from W: cost of 1 .. W windows, or the most a use may
            be.
        lanes: (4, 16) float32 of each row: the value of zero windows, minus infinity where that is no choice;
            the price of one unit of cost, the lower and the higher one; and the tolerance, values that differ
            by no more may be equal.
        windows: (2, 16) int32 receives the most windows that may maximise value - cost * price at the lower
            price, and the fewest that may do so at the higher one.

    Returns:
        Whether a value may lie outside [0, 1], or a use below the one before it, below 0 or above the grid
        (NaN included, and -0.0 although it does not).
    """
    start, low_step, high_step, tolerance = lanes
    outside = bool((np.ascontiguousarray(values).view(np.uint32) > ONE_BITS).any())
    low_best, high_best = start.copy(), start.copy()
    windows[:] = 0
    before = np.zeros(LANES, np.float32)
    for k in range(values.shape[1]):
        if len(use):
            cost = use[:, k]
            outside |= not bool(((cost >= before) & (cost <= grid[k])).all())
            before = cost
        else:
            cost = np.full(LANES, grid[k])
        low, high = values[:, k] - low_step * cost, values[:, k] - high_step * cost
        windows[0, low >= low_best - tolerance] = k + 1
        windows[1, high > high_best + tolerance] = k + 1
        low_best = np.where(low > low_best, low, low_best)
        high_best = np.where(high > high_best, high, high_best)
    return outside


@intrinsic
def _by_grid(typing_context: Any, values: Any, use: Any, grid: Any, lanes: Any, windows: Any) -> Any:
    return types.boolean(values, use, grid, lanes, windows), partial(_emit, used=False)


@intrinsic
def _by_use(typing_context: Any, values: Any, use: Any, grid: Any, lanes: Any, windows: Any) -> Any:
    return types.boolean(values, use, grid, lanes, windows), partial(_emit, used=True)


def _emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, used: bool) -> ir.Value:
    arrays = [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    values, use, grid, settings, chosen = (array.data for array in arrays)
    width = cgutils.unpack_tuple(builder, arrays[0].shape)[1]

    def row_of(array: ir.Value, row: int) -> ir.Value:
        return builder.gep(array, [ir.Constant(width.type, row * LANES)])

    start, low_step, high_step, tolerance = (_load(builder, row_of(settings, j), FLOATS) for j in range(4))
    best = [cgutils.alloca_once_value(builder, start) for _ in range(2)]
    windows = [cgutils.alloca_once_value(builder, ir.Constant(INTS, [0] * LANES)) for _ in range(2)]
    outside = cgutils.alloca_once_value(builder, ir.Constant(FLAGS, [0] * LANES))
    before = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * LANES))
    nothing = ir.Constant(FLOATS, [float("-inf")] * LANES)

    integer = width.type
    lanes = ir.Constant(integer, LANES)
    full = builder.udiv(width, lanes)

    def block(column: ir.Value, ragged: bool) -> None:
        """Sixteen columns from `column` on; of a ragged block some lie behind the rows' ends."""
        columns = _columns(builder, values, width, column)
        costs = _columns(builder, use, width, column) if used else []
        flags = builder.load(outside)
        for j, value in enumerate(columns):
            here = builder.add(column, ir.Constant(integer, j))
            k = _splat(
                builder, builder.trunc(builder.add(here, ir.Constant(integer, 1)), ir.IntType(32)), INTS
            )
            limit = _splat(builder, builder.load(builder.gep(grid, [here]), align=4), FLOATS)
            bits = builder.bitcast(value, INTS)
            bad = builder.icmp_unsigned(">", bits, ir.Constant(INTS, [ONE_BITS] * LANES))
            inside = None
            if ragged:  # what lies behind a row's end belongs to the next row
                inside = _splat(builder, builder.icmp_unsigned("<", here, width), FLAGS)
                value = builder.select(inside, value, nothing)
            cost = limit
            if used:
                cost = costs[j]
                last = builder.load(before)
                rises = builder.and_(
                    builder.fcmp_ordered(">=", cost, last), builder.fcmp_ordered("<=", cost, limit)
                )
                bad = builder.or_(bad, builder.not_(rises))
                builder.store(cost if inside is None else builder.select(inside, cost, last), before)
            flags = builder.or_(flags, bad if inside is None else builder.and_(bad, inside))
            for which, step in enumerate((low_step, high_step)):
                reduced = builder.fsub(value, builder.fmul(step, cost))
                so_far = builder.load(best[which])
                if which == 0:
                    takes = builder.fcmp_ordered(">=", reduced, builder.fsub(so_far, tolerance))
                    takes = takes if inside is None else builder.and_(takes, inside)
                else:
                    takes = builder.fcmp_ordered(">", reduced, builder.fadd(so_far, tolerance))
                better = builder.fcmp_ordered(">", reduced, so_far)
                builder.store(builder.select(better, reduced, so_far), best[which])
                builder.store(builder.select(takes, k, builder.load(windows[which])), windows[which])
        builder.store(flags, outside)

    with cgutils.for_range(builder, full) as loop:
        block(builder.mul(loop.index, lanes), ragged=False)
    whole = builder.mul(full, lanes)
    with builder.if_then(builder.icmp_unsigned("<", whole, width)):
        block(whole, ragged=True)
    for j, slot in enumerate(windows):
        pointer = builder.bitcast(row_of(chosen, j), INTS.as_pointer())
        builder.store(builder.load(slot), pointer, align=4)
    mask = builder.bitcast(builder.load(outside), ir.IntType(LANES))
    return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))


def _columns(builder: ir.IRBuilder, data: ir.Value, width: ir.Value, column: ir.Value) -> list[ir.Value]:
    """Sixteen columns of sixteen rows from `column` on; the next sixteen rows are asked for meanwhile."""
    block_size = builder.mul(width, ir.Constant(width.type, LANES))
    rows = []
    for row in range(LANES):
        offset = builder.add(builder.mul(ir.Constant(width.type, row), width), column)
        rows.append(_load(builder, builder.gep(data, [offset]), FLOATS))
        _prefetch(builder, builder.gep(data, [builder.add(offset, block_size)]))
    return _transpose(builder, rows)


def _load(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.VectorType) -> ir.Value:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)


def _prefetch(builder: ir.IRBuilder, pointer: ir.Value) -> None:
    """Ask for the next sixteen rows while these are worked on: hardware does not follow sixteen streams."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
    builder.call(prefetch, [builder.bitcast(pointer, byte), read, keep, data])


def _splat(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * LANES))


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose a 16 x 16 block by swapping its off-diagonal 8 x 8 blocks, then 4 x 4, 2 x 2 and 1 x 1."""
    rows = list(rows)
    for distance in (8, 4, 2, 1):
        upper = [j if not j & distance else LANES + j - distance for j in range(LANES)]
        lower = [j + distance if not j & distance else LANES + j for j in range(LANES)]
        for i in range(LANES):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(INTS, upper))
                rows[i + distance] = builder.shuffle_vector(a, b, ir.Constant(INTS, lower))
    return rows


best_by_grid = _best_of_sixteen_python if config.DISABLE_JIT else _by_grid
best_by_use = _best_of_sixteen_python if config.DISABLE_JIT else _by_use


@register_jitable(inline="always")  # a call would pass forty arguments, for every sixteen rows
def best_of_sixteen(values: Any, use: Any, grid: Any, lanes: Any, windows: Any) -> bool:
    """See `_best_of_sixteen_python`."""
    if len(use):
        return bool(best_by_use(values, use, grid, lanes, windows))
    return bool(best_by_grid(values, use, grid, lanes, windows))
