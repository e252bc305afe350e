"""Curve tables: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
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
        ({"budgets": 0}, "window must be at least 1 token, got 0"),
        ({"budgets": np.arange(1, 8)}, r"budgets must be one a column of curves \(8\), got 7"),
        ({"budgets": np.array([9, 8, 7])}, r"budgets must rise, got 8 after 9"),
        ({"use": np.ones((3, 7))}, r"use must have the curves' shape \(3, 8\), got \(3, 7\)"),
        (
            {"use": np.full((3, 8), 17.0)},
            r"use must lie between 0 and the budget .*, got 17.0 of 16 tokens at row 0",
        ),
        (
            {"use": np.tile([9.0] * 7 + [8.0], (3, 1))},
            r"not fall as it grows, got 8.0 of 128 tokens at row 0",
        ),
        ({"finished": np.full((3, 8), 2.0)}, r"finished must lie in \[0, 1\], got 2.0 at row 0, window 0"),
        ({"strict": np.full((3, 8), np.nan)}, r"strict must lie in \[0, 1\], got nan at row 0, window 0"),
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
        (whole.replace_schema_metadata({}), r"must name its 'budgets' \(tokens\) in the schema metadata"),
        (
            whole.replace_schema_metadata({"window": "x"}),
            r"'window' in the schema metadata must be whole tok",
        ),
        (whole.replace_schema_metadata({"budgets": "[16"}), r"'budgets' in the schema metadata: Expecting"),
        (whole.replace_schema_metadata({"budgets": "[2, 1]"}), r"'budgets' .*: budgets must rise"),
        (
            whole.replace_schema_metadata({"budgets": "[1, 2]"}),
            r"'budgets' must be one a value of 'curve' \(8\)",
        ),
        (whole.set_column(3, "curve", lists), r"column 'curve' must be fixed-size lists, got list<"),
    ):
        pq.write_table(damaged, path)
        with pytest.raises(ValueError, match=message):
            CurveTable.load(tmp_path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match=r"curves.parquet is a Git LFS pointer: fetch the file itself"):
        CurveTable.load(tmp_path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"curves.parquet must be a Parquet file, but"):
        CurveTable.load(tmp_path)


def with_use(table: CurveTable) -> CurveTable:
    """The table with what its traces would have used, on a geometric grid."""
    budgets = 16 * 2 ** np.arange(table.num_windows)
    ends = np.linspace(0.2, 0.9, table.num_windows, dtype=np.float32) * np.ones((len(table), 1), np.float32)
    use = np.cumsum(np.diff(budgets, prepend=0) * (1 - ends), axis=1).astype(np.float32)
    return replace(table, budgets=budgets, use=use, finished=ends, strict=table.curves * ends)


def test_a_table_on_any_grid_keeps_use_finished_and_strict(tmp_path: Path) -> None:
    table = with_use(make_table(5))
    table.save(tmp_path)
    loaded = CurveTable.load(tmp_path)
    assert loaded.budgets.tolist() == [16, 32, 64, 128, 256, 512, 1024, 2048]
    assert loaded.window is None
    for name in ("use", "finished", "strict"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
        np.testing.assert_array_equal(getattr(loaded.take([3, 1]), name), getattr(table, name)[[3, 1]])
        np.testing.assert_array_equal(getattr(loaded.on_grid([0, 2]), name), getattr(table, name)[:, [0, 2]])
    assert loaded.on_grid([0, 2]).budgets.tolist() == [16, 64]
    np.testing.assert_array_equal(loaded.expected_use, table.use)


def test_use_is_the_budget_where_it_was_not_recorded() -> None:
    table = make_table(2)
    np.testing.assert_array_equal(table.expected_use, np.tile(16 * np.arange(1, 9), (2, 1)))


def test_tables_written_with_a_window_are_read(tmp_path: Path) -> None:
    make_table(3).save(tmp_path)
    path = tmp_path / "curves.parquet"
    old = pq.read_table(path).replace_schema_metadata({"window": "16", "model": "made-up"})
    pq.write_table(old, path)
    loaded = CurveTable.load(tmp_path)
    assert (loaded.window, loaded.budgets.tolist()) == (16, [16 * k for k in range(1, 9)])
    assert loaded.metadata == {"model": "made-up"}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "n_traces",
            pa.array([8, None, 8], pa.int32()),
            r"column 'n_traces' must hold .*, got null at row 1",
        ),
        ("question", pa.array([None, "a", "b"]), r"column 'question' must hold .*, got null at row 0"),
        ("answer", pa.array(["1", "2", None]), r"column 'answer' must hold .*, got null at row 2"),
        ("id", pa.array(["a", None, "b"]), r"column 'id' must hold a value in every row, got null at row 1"),
        ("id", pa.array([0.5, 1, 2]), r"column 'id' must be texts, got double"),
        ("question", pa.array([["a"], ["b"], ["c"]]), r"column 'question' must be texts, got list<"),
        ("n_traces", pa.array([8, -1, 8]), r"column 'n_traces' must be whole numbers from 0 on, got int64"),
        (
            "n_traces",
            pa.array([8.5, 1, 8]),
            r"column 'n_traces' must be whole numbers from 0 on, got float64",
        ),
        ("n_traces", pa.array(["8"] * 3), r"column 'n_traces' must be whole numbers from 0 on, got object"),
        (
            "curve",
            pa.array([[0.5], None, [0.5]], pa.list_(pa.float32(), 1)),
            r"'curve' .*, got null at row 1",
        ),
        ("curve", pa.array([[0.5], [0.5], [None]], pa.list_(pa.float32(), 1)), r"'curve' .* null at row 2"),
        (
            "curve",
            pa.array([["a"], ["b"], ["c"]], pa.list_(pa.string(), 1)),
            r"must be lists of numbers, got",
        ),
    ],
)
def test_a_bad_column_is_named_with_its_row(
    tmp_path: Path, column: str, values: pa.Array, message: str
) -> None:
    table = make_table(3, num_windows=1)
    table.save(tmp_path)
    path = tmp_path / "curves.parquet"
    whole = pq.read_table(path)
    changed = whole.set_column(whole.column_names.index(column), column, values)
    pq.write_table(changed.replace_schema_metadata(whole.schema.metadata), path)
    with pytest.raises(ValueError, match=r"curves.parquet: .*" + message):
        CurveTable.load(tmp_path)


def test_whole_number_ids_are_read_as_text(tmp_path: Path) -> None:
    make_table(3).save(tmp_path)
    path = tmp_path / "curves.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.set_column(0, "id", pa.array([7, 8, 9])), path)
    assert CurveTable.load(tmp_path).ids == ["7", "8", "9"]


def test_bfloat16_features_are_read(tmp_path: Path) -> None:
    make_table(3).save(tmp_path)
    states = torch.randn(3, 8).bfloat16()
    save_file({"layer_2": states}, tmp_path / "features.safetensors")
    np.testing.assert_array_equal(CurveTable.load(tmp_path).features["layer_2"], states.float().numpy())


def test_features_beyond_float16_are_kept_as_bfloat16(tmp_path: Path) -> None:
    table = make_table(3)
    large = 1e6 * table.features["layer_2"]
    replace(table, features={**table.features, "layer_2": large}).save(tmp_path)
    stored = load_file(tmp_path / "features.safetensors")
    assert (stored["layer_2"].dtype, stored["layer_3"].dtype) == (torch.bfloat16, torch.float16)
    np.testing.assert_allclose(CurveTable.load(tmp_path).features["layer_2"], large, rtol=1 / 128)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"layer_2": torch.zeros(3)}, r"feature 'layer_2' must have the shape \(N, D\), .*, got \(3,\)"),
        ({"layer_2": torch.full((3, 2), torch.inf)}, r"'layer_2' must be finite, got inf at row 0, column 0"),
        ({"layer_2": torch.zeros(2, 2)}, r"layer_2 must have one row a question \(3\), got 2"),
    ],
)
def test_features_that_cannot_be_used_are_refused(tmp_path: Path, features: dict, message: str) -> None:
    make_table(3).save(tmp_path)
    save_file(features, tmp_path / "features.safetensors")
    with pytest.raises(ValueError, match=message):
        CurveTable.load(tmp_path)


def test_damaged_feature_files_are_refused(tmp_path: Path) -> None:
    make_table(3).save(tmp_path)
    path = tmp_path / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"features.safetensors must be a whole safetensors file, but"):
        CurveTable.load(tmp_path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"features.safetensors is a Git LFS pointer: fetch the file"):
        CurveTable.load(tmp_path)
    with pytest.raises(ValueError, match=r"feature 'layer_2' must be finite, got nan at row 0, column 0"):
        replace(make_table(1), features={"layer_2": np.full((1, 2), np.nan)}).save(tmp_path)
