"""The pacer's state on disk: a restart does not forget the price."""

from __future__ import annotations

from pathlib import Path

from ps_alloc import Pacer
from ps_alloc.files import read_json, write_json

SETTINGS = ("tokens_per_request", "window", "min_windows", "max_windows", "step")


def save_pacer(path: Path, pacer: Pacer) -> None:
    """Write the state, whole or not at all."""
    write_json(path, pacer.state_dict())


def restore_pacer(path: Path, pacer: Pacer) -> Pacer:
    """The pacer that goes on where `path` was written, or `pacer` itself where there is no such file.

    Raises:
        ValueError: If the file is damaged, or was written with other settings than the pacer's.
    """
    if not path.is_file():
        return pacer
    state = read_json(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a pacer's state, got a {type(state).__name__}")
    try:
        restored = Pacer.from_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} must hold a pacer's state: {error}") from error
    mine = pacer.state_dict()
    for name in SETTINGS:
        if state[name] != mine[name]:
            raise ValueError(
                f"{path} was written with {name} {state[name]}, but it is {mine[name]} now: "
                f"remove the file to begin anew"
            )
    return restored
