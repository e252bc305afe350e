"""The menu table: what each schedule of diffusion decoding brings and costs, question by question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from ps_alloc.files import atomic_path

MENU_FILE, FEATURES_FILE = "menu.parquet", "features.safetensors"
COSTS = ("rows", "passes")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MenuTable:
    """N questions under S schedules."""

    ids: list[str]
    questions: list[str]
    answers: list[str]
    schedules: list[str]
    """(S,) names, in the order of the columns."""
    accuracy: FloatArray
    """(N, S) share of runs answered correctly."""
    rows: FloatArray
    """(N, S) rows computed for a response, mean over runs."""
    passes: FloatArray
    """(N, S) forward passes for a response."""
    tokens: FloatArray
    """(N, S) tokens of a response, before its end."""
    right: FloatArray | None = None
    """(N, S, R) 1 where a run was right, of R runs; None where there was one."""
    features: dict[str, FloatArray] = field(default_factory=dict)
    """Name to (N, D): states of the prompt in the model's first pass."""
    metadata: dict[str, str] = field(default_factory=dict)
    """`model`, `gen_length`, `grader`, `temperature`."""

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.schedules))
        for name in ("accuracy", *COSTS, "tokens"):
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(
                    f"{name} must be finite and not negative, of shape {shape}, got {values.shape}"
                )
        if self.right is not None and (self.right.ndim != 3 or self.right.shape[:2] != shape):
            raise ValueError(f"right must have shape {(*shape, 'R')}, got {self.right.shape}")
        for name, values in self.features.items():
            if values.ndim != 2 or len(values) != len(self.ids) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite, of shape ({len(self.ids)}, D), got {values.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    def cost(self, name: str) -> FloatArray:
        """(N, S) of one of `COSTS`.

        Raises:
            ValueError: If it is none of them.
        """
        if name not in COSTS:
            raise ValueError(f"cost must be one of {COSTS}, got {name!r}")
        values: FloatArray = getattr(self, name)
        return values

    def save(self, folder: str | Path) -> None:
        """Write the folder; the table last."""
        folder = Path(folder)
        if self.features:
            with atomic_path(folder / FEATURES_FILE) as temporary:
                save_file({name: np.ascontiguousarray(x) for name, x in self.features.items()}, temporary)
        columns: dict[str, Any] = {"id": self.ids, "question": self.questions, "answer": self.answers}
        for name in ("accuracy", *COSTS, "tokens"):
            columns[name] = list(getattr(self, name))
        if self.right is not None:
            columns["right"] = self.right.reshape(len(self), -1).tolist()
        table = pa.table(columns).replace_schema_metadata(
            {**self.metadata, "schedules": json.dumps(self.schedules)}
        )
        with atomic_path(folder / MENU_FILE) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, folder: str | Path) -> MenuTable:
        """Read what `save` wrote.

        Raises:
            ValueError: If the folder holds no menu table, or a damaged one.
        """
        path = Path(folder) / MENU_FILE
        if not path.is_file():
            raise ValueError(f"a menu table must be a folder with {MENU_FILE}, got {folder}")
        try:
            table = pq.read_table(path)
            metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
            named = {key.decode(): value.decode() for key, value in metadata.items()}
            features = Path(folder) / FEATURES_FILE
            schedules = json.loads(named.pop("schedules"))
            right = None
            if "right" in table.column_names:
                flat = np.array(table["right"].to_pylist(), np.float32)
                right = flat.reshape(len(flat), len(schedules), -1)
            return cls(
                ids=table["id"].to_pylist(),
                questions=table["question"].to_pylist(),
                answers=table["answer"].to_pylist(),
                schedules=schedules,
                right=right,
                features=load_file(features) if features.is_file() else {},
                metadata={key: value for key, value in named.items() if key != "ARROW:schema"},
                **{
                    name: np.array(table[name].to_pylist(), np.float32)
                    for name in ("accuracy", *COSTS, "tokens")
                },
            )
        except (pa.ArrowException, KeyError, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} must hold a menu table, but {str(error).splitlines()[0]}") from error
