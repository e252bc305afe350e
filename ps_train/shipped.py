"""Models and predictors that come with the package, by name: `embedded:tiny-reasoner`."""

from __future__ import annotations

from pathlib import Path

SCHEME = "embedded:"
FOLDER = Path(__file__).parent / "checkpoints"
"""In a checkout a link to `checkpoints/`; an installed package holds copies."""


def embedded_names() -> list[str]:
    """What can stand after `embedded:`, sorted."""
    return sorted(folder.name for folder in FOLDER.glob("*") if (folder / "config.json").is_file())


def resolve_embedded(path: str | Path) -> str | Path:
    """The folder of a shipped model or predictor; any other path comes back as it is.

    Args:
        path: `embedded:<name>`, a path or a name on a hub.

    Raises:
        ValueError: If nothing of that name is shipped; the message lists what is.
    """
    text = str(path)
    if not text.startswith(SCHEME):
        return path
    name = text.removeprefix(SCHEME)
    if name not in embedded_names():  # so no name can leave the folder
        raise ValueError(f"{SCHEME}<name> must name one of {embedded_names()}, got {text}")
    return str(FOLDER / name)
