"""The one piece of explicit vector code: best windows of sixteen queries at two prices.

LLVM does not find this form by itself: it vectorises along a row, where every step of a search for the
largest value waits for the one before. Sixteen rows side by side have no such chain. LLVM lowers the 16-wide
vectors to whatever the processor has (one AVX-512 register, two AVX2, four SSE or NEON).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
ONE_BITS = 0x3F800000  # 1.0f; as unsigned bits, exactly the floats in [0, 1] are not above it (-0.0 is)


def _best_of_sixteen_python(
    block: Any, start: Any, low_step: Any, high_step: Any, low_windows: Any, high_windows: Any
) -> bool:
    """What the compiled form computes, used where numba is switched off and as its reference in the tests.

    Args:
        block: (16, W) float32 values of 1 .. W windows; W a multiple of 16.
        start: (16,) float32 value of zero windows; minus infinity where that is no choice.
        low_step: (16,) float32 price of one window, the lower one.
        high_step: (16,) float32 the higher one.
        low_windows: (16,) int32 receives the fewest windows that maximise value - windows * low_step.
        high_windows: (16,) int32 the same at the higher price.

    Returns:
        Whether a value may lie outside [0, 1] (NaN included, and -0.0 although it does not).
    """
    ks = np.arange(1, block.shape[1] + 1).astype(np.float32)
    for step, windows in ((low_step, low_windows), (high_step, high_windows)):
        reduced = np.concatenate((start[:, None], block - step[:, None] * ks), axis=1)
        windows[:] = np.argmax(reduced, axis=1)
    return bool((block.view(np.uint32) > ONE_BITS).any())


@intrinsic
def _best_of_sixteen_compiled(
    typing_context: Any,
    block: Any,
    start: Any,
    low_step: Any,
    high_step: Any,
    low_windows: Any,
    high_windows: Any,
) -> Any:
    signature = types.boolean(block, start, low_step, high_step, low_windows, high_windows)
    return signature, _emit


def _emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    arrays = [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    values, width = arrays[0].data, cgutils.unpack_tuple(builder, arrays[0].shape)[1]
    start, low_step, high_step = (_load(builder, array.data, FLOATS) for array in arrays[1:4])
    best = [cgutils.alloca_once_value(builder, start) for _ in range(2)]
    windows = [cgutils.alloca_once_value(builder, ir.Constant(INTS, [0] * LANES)) for _ in range(2)]
    outside = cgutils.alloca_once_value(
        builder, ir.Constant(ir.VectorType(ir.IntType(1), LANES), [0] * LANES)
    )

    block_size = builder.mul(width, ir.Constant(width.type, LANES))
    blocks = builder.udiv(width, ir.Constant(width.type, LANES))
    with cgutils.for_range(builder, blocks) as loop:
        column = builder.mul(loop.index, ir.Constant(width.type, LANES))
        rows = []
        for row in range(LANES):
            offset = builder.add(builder.mul(ir.Constant(width.type, row), width), column)
            rows.append(_load(builder, builder.gep(values, [offset]), FLOATS))
            _prefetch(builder, builder.gep(values, [builder.add(offset, block_size)]))
        flags = builder.load(outside)
        for row in rows:
            bits = builder.bitcast(row, INTS)
            flags = builder.or_(
                flags, builder.icmp_unsigned(">", bits, ir.Constant(INTS, [ONE_BITS] * LANES))
            )
        builder.store(flags, outside)
        first = builder.trunc(column, ir.IntType(32))
        for j, value in enumerate(_transpose(builder, rows)):
            k = _splat(builder, builder.add(first, ir.Constant(ir.IntType(32), j + 1)), INTS)
            k_float = builder.sitofp(k, FLOATS)
            for step, best_slot, windows_slot in zip((low_step, high_step), best, windows, strict=True):
                reduced = builder.fsub(value, builder.fmul(step, k_float))
                so_far = builder.load(best_slot)
                better = builder.fcmp_ordered(">", reduced, so_far)
                builder.store(builder.select(better, reduced, so_far), best_slot)
                builder.store(builder.select(better, k, builder.load(windows_slot)), windows_slot)
    for array, slot in zip(arrays[4:], windows, strict=True):
        pointer = builder.bitcast(array.data, INTS.as_pointer())
        builder.store(builder.load(slot), pointer, align=4)
    mask = builder.bitcast(builder.load(outside), ir.IntType(LANES))
    return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))


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


best_of_sixteen = _best_of_sixteen_python if config.DISABLE_JIT else _best_of_sixteen_compiled
