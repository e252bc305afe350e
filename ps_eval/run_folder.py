"""What makes an interrupted run safe to continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ps_alloc.files import read_json, write_json

ALLOCATIONS_FOLDER = "allocations"
"""Holds `<policy>-<budget>.json` of each cell of a live run or a replay."""


def remember_settings(path: str | Path, settings: dict[str, Any]) -> None:
    """Write a run's settings beside its results, or check that a run that goes on has the same.

    Args:
        path: The JSON file of the settings.
        settings: All that a result depends on.

    Raises:
        ValueError: If the file holds other settings; the message names each that differs.
    """
    path = Path(path)
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json(path)
    different = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
    if different:
        changes = ", ".join(f"{k} was {before.get(k)!r} and is {settings.get(k)!r}" for k in different)
        raise ValueError(
            f"{path.parent} must be continued with the settings it was begun with, but {changes}"
        )
