"""The curve table: measured accuracy curves of a question set, and prompt features where there are any.

On disk a folder with `curves.parquet` and, optionally, `features.safetensors` (docs/formats.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from ps_alloc.files import atomic_path

CURVES_FILE = "curves.parquet"
FEATURES_FILE = "features.safetensors"
REQUIRED_COLUMNS = ("id", "question", "answer", "curve", "n_traces")


@dataclass(frozen=True)
class CurveTable:
    """Questions and how the served model's accuracy on each grows with reasoning tokens.

    N questions, W windows, D feature size.
    """

    ids: list[str]
    questions: list[str]
    answers: list[str]
    curves: npt.NDArray[np.float32]
    """(N, W). `curves[i, k]` is the share of traces answered correctly after `(k + 1) * window` tokens."""
    n_traces: npt.NDArray[np.int32]
    """(N,). How many traces each curve averages: its sampling noise is `sqrt(p (1 - p) / n_traces)`."""
    window: int
    """Tokens a window."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What made the table: `model`, sampling settings, source. `window` is kept apart."""
    extra: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """Further columns, (N,) each, kept as they are."""
    features: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """`layer_<n>` to (N, D): hidden states of the last prompt token after block n. Held as float32."""

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.curves.ndim != 2 or len(self.curves) != n:
            raise ValueError(f"curves must be an array of shape ({n}, W), got shape {self.curves.shape}")
        inside = (self.curves >= 0) & (self.curves <= 1)  # False for NaN as well
        if not inside.all():
            row, column = np.argwhere(~inside)[0]
            raise ValueError(
                f"curves must lie in [0, 1], got {self.curves[row, column]} at row {row}, window {column}"
            )
        if self.window < 1:
            raise ValueError(f"window must be at least 1 token, got {self.window}")
        if len(set(self.ids)) != n:
            duplicate = next(i for i in self.ids if self.ids.count(i) > 1)
            raise ValueError(f"ids must be unique, got {duplicate!r} more than once")
        columns: dict[str, Sized] = {
            "questions": self.questions,
            "answers": self.answers,
            "n_traces": self.n_traces,
        }
        for name, values in {**columns, **self.extra, **self.features}.items():
            if len(values) != n:
                raise ValueError(f"{name} must have one row a question ({n}), got {len(values)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_windows(self) -> int:
        """W: the largest budget, in windows."""
        return int(self.curves.shape[1])

    def take(self, rows: npt.ArrayLike) -> CurveTable:
        """The table of the given rows (indices or a boolean mask), in that order."""
        index = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            questions=[self.questions[i] for i in index],
            answers=[self.answers[i] for i in index],
            curves=self.curves[index],
            n_traces=self.n_traces[index],
            extra={name: values[index] for name, values in self.extra.items()},
            features={name: values[index] for name, values in self.features.items()},
        )

    def save(self, folder: str | Path) -> None:
        """Write the folder, each file atomically. Features are stored as float16."""
        folder = Path(folder)
        n_windows = self.num_windows
        columns: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "question": pa.array(self.questions, pa.string()),
            "answer": pa.array(self.answers, pa.string()),
            "curve": pa.FixedSizeListArray.from_arrays(
                pa.array(self.curves.astype(np.float32).ravel()), n_windows
            ),
            "n_traces": pa.array(self.n_traces.astype(np.int32)),
            **{name: pa.array(values) for name, values in self.extra.items()},
        }
        table = pa.table(columns).replace_schema_metadata({**self.metadata, "window": str(self.window)})
        if self.features:
            save_features(folder, self.features, {"model": self.metadata.get("model", "unknown")})
        with atomic_path(folder / CURVES_FILE) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, folder: str | Path, features: Iterable[str] | None = None) -> CurveTable:
        """Read a curve table.

        Args:
            folder: The table's folder.
            features: Names of the feature tensors to read, such as `["layer_16"]`; None reads all, `[]` none.

        Raises:
            ValueError: If a file, a column, the window or a requested feature is missing, or a value is out
                of range.
        """
        folder = Path(folder)
        path = folder / CURVES_FILE
        if not path.is_file():
            raise ValueError(f"a curve table must be a folder with {CURVES_FILE}, got {folder}")
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} must be a Parquet file, but {error}") from error
        missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
        if missing:
            raise ValueError(f"{path} must have the columns {REQUIRED_COLUMNS}, but lacks {missing}")
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        metadata = {k: v for k, v in metadata.items() if not k.startswith("ARROW:")}
        if "window" not in metadata:
            raise ValueError(f"{path} must name its 'window' (tokens) in the schema metadata")
        if not pa.types.is_fixed_size_list(table["curve"].type):
            raise ValueError(f"{path}: column 'curve' must be fixed-size lists, got {table['curve'].type}")
        curve_lists = table["curve"].combine_chunks()
        width = curve_lists.type.list_size
        curves = curve_lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        try:
            return cls(
                ids=table["id"].to_pylist(),
                questions=table["question"].to_pylist(),
                answers=table["answer"].to_pylist(),
                curves=np.ascontiguousarray(curves, dtype=np.float32),
                n_traces=table["n_traces"].to_numpy().astype(np.int32),
                window=int(metadata.pop("window")),
                metadata=metadata,
                extra={n: table[n].to_numpy() for n in table.column_names if n not in REQUIRED_COLUMNS},
                features=load_features(folder, features),
            )
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error


def feature_names(folder: str | Path) -> list[str]:
    """Names of the feature tensors that a table's folder holds."""
    path = Path(folder) / FEATURES_FILE
    if not path.is_file():
        return []
    with safe_open(path, "np") as file:
        return list(file.keys())


def score_windows(
    curves: npt.NDArray[np.floating], windows: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Read what each query scored under its windows off measured curves.

    Args:
        curves: (N, W) measured curves.
        windows: (N,) windows of each query, 0 to W.

    Returns:
        (N,) accuracies; a query without reasoning scores 0.
    """
    reached = np.take_along_axis(curves, np.maximum(windows - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(windows > 0, reached, 0.0).astype(np.float64)


def load_features(
    folder: str | Path, names: Iterable[str] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Read `features.safetensors` of a table's folder as float32 (N, D) arrays.

    Args:
        folder: The table's folder.
        names: The tensors to read; None reads all there are (none without the file).

    Raises:
        ValueError: If a requested tensor is not there; the message lists those that are.
    """
    path = Path(folder) / FEATURES_FILE
    wanted = None if names is None else list(names)
    if wanted == [] or (wanted is None and not path.is_file()):
        return {}
    if not path.is_file():
        raise ValueError(f"features {wanted} must be in {path}, but there is no such file")
    with safe_open(path, "np") as file:
        available = list(file.keys())
        for name in wanted or ():
            if name not in available:
                raise ValueError(f"feature {name!r} must be one of {available} in {path}")
        return {n: file.get_tensor(n).astype(np.float32) for n in (available if wanted is None else wanted)}


def save_features(
    folder: str | Path, features: dict[str, npt.NDArray[np.float32]], metadata: dict[str, str] | None = None
) -> None:
    """Write `features.safetensors` (float16) into a table's folder, atomically."""
    tensors = {name: np.ascontiguousarray(values, dtype=np.float16) for name, values in features.items()}
    with atomic_path(Path(folder) / FEATURES_FILE) as temporary:
        save_file(tensors, temporary, metadata={"position": "last_prompt_token", **(metadata or {})})
