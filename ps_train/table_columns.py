"""The columns of `curves.parquet` (docs/formats.md), read with every fault named by file, column and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ps_alloc.predictions import check_budgets, uniform_budgets
from ps_train.feature_file import refuse_lfs_pointer

if TYPE_CHECKING:
    from ps_train.curve_table import CurveTable

REQUIRED_COLUMNS = ("id", "question", "answer", "curve", "n_traces")
CURVE_COLUMNS = {"curve": "curves", "use": "use", "finished": "finished", "strict": "strict"}
"""Columns that hold a number for each budget, and what `CurveTable` calls them."""
KNOWN_COLUMNS = {*REQUIRED_COLUMNS, *CURVE_COLUMNS}


def write_columns(table: CurveTable) -> dict[str, pa.Array]:
    """The columns of a table, in the order in which they are written."""
    curves = {column: getattr(table, name) for column, name in CURVE_COLUMNS.items()}
    lists = {
        column: pa.FixedSizeListArray.from_arrays(
            pa.array(values.astype(np.float32).ravel()), table.num_windows
        )
        for column, values in curves.items()
        if values is not None
    }
    return {
        "id": pa.array(table.ids, pa.string()),
        "question": pa.array(table.questions, pa.string()),
        "answer": pa.array(table.answers, pa.string()),
        "curve": lists.pop("curve"),
        "n_traces": pa.array(table.n_traces.astype(np.int32)),
        **lists,
        **{name: pa.array(values) for name, values in table.extra.items()},
    }


def read_columns(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What `CurveTable` is made from, without budgets and features; and the schema's metadata.

    Raises:
        ValueError: If the file is no Parquet file, lacks a column, or a value is null or of a wrong type.
    """
    refuse_lfs_pointer(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} must be a Parquet file, but {error}") from error
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} must have the columns {REQUIRED_COLUMNS}, but lacks {missing}")
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    for name in KNOWN_COLUMNS & set(table.column_names):
        if table[name].null_count:
            row = table[name].to_pylist().index(None)
            raise ValueError(f"{path}: column {name!r} must hold a value in every row, got null at row {row}")
    columns = {
        "ids": _texts(table, "id", path),
        "questions": _texts(table, "question", path),
        "answers": _texts(table, "answer", path),
        "n_traces": _counts(table, path),
        "extra": {n: table[n].to_numpy() for n in table.column_names if n not in KNOWN_COLUMNS},
        **{
            name: _lists(table, column, path)
            for column, name in CURVE_COLUMNS.items()
            if column in table.column_names
        },
    }
    return columns, {k: v for k, v in metadata.items() if not k.startswith("ARROW:")}


def read_budgets(metadata: dict[str, str], width: int, path: Path) -> npt.NDArray[np.int64]:
    """Take the (W,) budgets out of a table's metadata: `budgets`, or in older tables `window`.

    Raises:
        ValueError: If there are none, or they are no rising token counts, one a column.
    """
    window, listed = metadata.pop("window", None), metadata.pop("budgets", None)
    if listed is None and window is None:
        raise ValueError(f"{path} must name its 'budgets' (tokens) in the schema metadata")
    if listed is None:
        if not str(window).isdecimal() or int(str(window)) < 1:
            raise ValueError(f"{path}: 'window' in the schema metadata must be whole tokens, got {window!r}")
        return uniform_budgets(int(str(window)), width)
    try:
        budgets = check_budgets(json.loads(listed)) if width else np.empty(0, np.int64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: 'budgets' in the schema metadata: {error}") from error
    if len(budgets) != width:
        raise ValueError(f"{path}: 'budgets' must be one a value of 'curve' ({width}), got {len(budgets)}")
    return budgets


def _texts(table: pa.Table, name: str, path: Path) -> list[str]:
    """A column of texts; whole numbers, as pandas writes ids, are read as their digits."""
    kind = table[name].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ValueError(f"{path}: column {name!r} must be texts, got {kind}")
    return [str(value) for value in table[name].to_pylist()]


def _counts(table: pa.Table, path: Path) -> npt.NDArray[np.int32]:
    values = table["n_traces"].to_numpy()
    whole = values.dtype.kind in "iuf" and bool(np.all(values == np.floor(values)))
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(
            f"{path}: column 'n_traces' must be whole numbers from 0 on, got {values.dtype} "
            f"{values.tolist()!r:.60}"
        )
    return values.astype(np.int32)


def _lists(table: pa.Table, name: str, path: Path) -> npt.NDArray[np.float32]:
    kind = table[name].type
    if not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"{path}: column {name!r} must be fixed-size lists, got {kind}")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ValueError(f"{path}: column {name!r} must be lists of numbers, got {kind}")
    values = table[name].combine_chunks().flatten()
    if values.null_count:
        row = values.to_pylist().index(None) // kind.list_size
        raise ValueError(f"{path}: column {name!r} must hold a value in every row, got null at row {row}")
    rows = values.to_numpy(zero_copy_only=False).reshape(len(table), kind.list_size)
    return np.ascontiguousarray(rows, dtype=np.float32)
