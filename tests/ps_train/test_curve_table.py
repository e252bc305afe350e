"""Curve tables: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_curves import make_table

from ps_train.curve_table import CurveTable


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    table = replace(make_table(6), extra={"mean_length": np.arange(6.0)})
    table.save(tmp_path)
    loaded = CurveTable.load(tmp_path)
    assert (loaded.ids, loaded.questions, loaded.answers) == (table.ids, table.questions, table.answers)
    assert (loaded.window, loaded.metadata) == (16, {"model": "made-up"})
    np.testing.assert_array_equal(loaded.curves, table.curves)
    np.testing.assert_array_equal(loaded.n_traces, table.n_traces)
    np.testing.assert_array_equal(loaded.extra["mean_length"], np.arange(6.0))
    for name, values in table.features.items():
        np.testing.assert_array_equal(loaded.features[name], values.astype(np.float16).astype(np.float32))
    assert CurveTable.load(tmp_path, features=[]).features == {}


def test_rows_are_taken_by_index_and_by_mask() -> None:
    table = make_table(4)
    assert table.take([2, 0]).ids == ["q2", "q0"]
    np.testing.assert_array_equal(
        table.take(np.array([0, 1, 0, 1], bool)).features["layer_2"], table.features["layer_2"][[1, 3]]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curves": np.zeros((2, 8), np.float32)}, r"curves must be an array of shape \(3, W\), got shape"),
        ({"curves": np.full((3, 8), np.nan)}, r"curves must lie in \[0, 1\], got nan at row 0, window 0"),
        ({"window": 0}, "window must be at least 1 token, got 0"),
        ({"ids": ["a", "b", "a"]}, "ids must be unique, got 'a' more than once"),
        ({"answers": ["1"]}, r"answers must have one row a question \(3\), got 1"),
        ({"features": {"layer_2": np.zeros((1, 4))}}, r"layer_2 must have one row a question \(3\), got 1"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_table(3), **changes)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table must be a folder with curves.parquet, got .*nowhere"):
        CurveTable.load(tmp_path / "nowhere")
    replace(make_table(3), features={}).save(tmp_path)
    with pytest.raises(ValueError, match=r"features \['layer_2'\] must be in .*, but there is no such file"):
        CurveTable.load(tmp_path, features=["layer_2"])
    make_table(3).save(tmp_path)
    with pytest.raises(ValueError, match=r"feature 'layer_9' must be one of \['layer_2', 'layer_3'\] in"):
        CurveTable.load(tmp_path, features=["layer_9"])

    path = tmp_path / "curves.parquet"
    whole = pq.read_table(path)
    lists = whole["curve"].cast(pa.list_(pa.float32()))
    for damaged, message in (
        (whole.drop_columns(["n_traces"]), r"must have the columns .*, but lacks \['n_traces'\]"),
        (whole.replace_schema_metadata({}), r"must name its 'window' \(tokens\) in the schema metadata"),
        (whole.set_column(3, "curve", lists), r"column 'curve' must be fixed-size lists, got list<"),
    ):
        pq.write_table(damaged, path)
        with pytest.raises(ValueError, match=message):
            CurveTable.load(tmp_path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"curves.parquet must be a Parquet file, but"):
        CurveTable.load(tmp_path)
