"""Configs that come with the package: `--config curve_mlp` names one from any folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """What can stand after `--config` beside files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def with_presets(args: Sequence[str]) -> list[str]:
    """The arguments with the names of presets after `--config` turned to their files; files go first.

    Raises:
        ValueError: If neither a file nor a preset has such a name.
    """
    found = list(args)
    for place, argument in enumerate(found):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            continue
        if equals:
            found[place] = f"{flag}={_resolved(value)}"
        elif place + 1 < len(found):
            found[place + 1] = _resolved(found[place + 1])
    return found


def _resolved(value: str) -> str:
    if Path(value).exists() or value in ("null", "None"):
        return value
    if value in preset_names():
        return str(FOLDER / f"{value}.yaml")
    raise ValueError(f"--config must be a file or one of {preset_names()}, got {value}")
