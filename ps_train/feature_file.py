"""Prompt features on disk: `features.safetensors` of a curve table's folder (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ps_alloc.files import atomic_path

FEATURES_FILE = "features.safetensors"
LFS_POINTER = b"version https://git-lfs"
"""How the text begins that a checkout without Git LFS holds in a file's place."""
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)

Features = Mapping[str, npt.NDArray[np.float32]]


def feature_names(folder: str | Path) -> list[str]:
    """Names of the feature tensors that a table's folder holds.

    Raises:
        ValueError: If there is a file, but it is damaged.
    """
    path = Path(folder) / FEATURES_FILE
    if not path.is_file():
        return []
    with _opened(path, "np") as file:
        return list(file.keys())


def load_features(
    folder: str | Path, names: Iterable[str] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Read `features.safetensors` of a table's folder as float32 (N, D) arrays; bfloat16 is read too.

    Args:
        folder: The table's folder.
        names: The tensors to read; None reads all there are (none without the file).

    Raises:
        ValueError: If the file is damaged, a requested tensor is not there (the message lists those that
            are), or is not of shape (N, D) or not finite.
    """
    path = Path(folder) / FEATURES_FILE
    wanted = None if names is None else list(names)
    if wanted == [] or (wanted is None and not path.is_file()):
        return {}
    if not path.is_file():
        raise ValueError(f"features {wanted} must be in {path}, but there is no such file")
    available = feature_names(folder)
    for name in wanted or ():
        if name not in available:
            raise ValueError(f"feature {name!r} must be one of {available} in {path}")
    found = {}
    with _opened(path, "np") as file:
        for name in available if wanted is None else wanted:
            if file.get_slice(name).get_dtype() in ("F64", "F32", "F16"):
                values = file.get_tensor(name).astype(np.float32)
            else:  # numpy does not know bfloat16 and smaller; torch does
                with _opened(path, "pt") as other:
                    values = other.get_tensor(name).float().numpy()
            _check(f"{path}: feature {name!r}", values)
            found[name] = values
    return found


def save_features(folder: str | Path, features: Features, metadata: dict[str, str] | None = None) -> None:
    """Write `features.safetensors` into a table's folder, atomically.

    Tensors are float16; those with values beyond it (65,504), as Gemma's residual stream has, are bfloat16.

    Raises:
        ValueError: If a feature is not of shape (N, D) or not finite.
    """
    for name, values in features.items():
        _check(f"feature {name!r}", values)
    described = {"position": "last_prompt_token", **(metadata or {})}
    with atomic_path(Path(folder) / FEATURES_FILE) as temporary:
        if all(fits_float16(values) for values in features.values()):
            tensors = {name: np.ascontiguousarray(v, dtype=np.float16) for name, v in features.items()}
            save_file(tensors, temporary, metadata=described)
        else:
            import torch
            from safetensors.torch import save_file as save_tensors

            save_tensors(
                {
                    name: torch.tensor(v).to(torch.float16 if fits_float16(v) else torch.bfloat16)
                    for name, v in features.items()
                },
                temporary,
                metadata=described,
            )


def fits_float16(values: npt.NDArray[np.floating]) -> bool:
    """Whether no value would become infinite as float16."""
    return bool(np.abs(values).max(initial=0) <= LARGEST_FLOAT16)


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse what a checkout without Git LFS holds instead of a file.

    Raises:
        ValueError: Saying so.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a Git LFS pointer: fetch the file itself (git lfs pull)")


def _opened(path: Path, framework: str) -> Any:
    refuse_lfs_pointer(path)
    try:
        return safe_open(path, framework)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, but {error}") from error


def _check(what: str, values: npt.NDArray[np.floating]) -> None:
    if values.ndim != 2:
        raise ValueError(f"{what} must have the shape (N, D), one row a question, got {values.shape}")
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"{what} must be finite, got {values[row, column]} at row {row}, column {column}")
