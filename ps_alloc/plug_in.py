"""Code of the user's own, named `module:attribute` where a name of this package could stand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any


def is_plug_in(name: object) -> bool:
    """Whether a name is of the form `module:attribute`."""
    if not isinstance(name, str):
        return False
    module, colon, attribute = name.partition(":")
    return bool(module and colon and attribute)


def load_plug_in(
    name: str, what: str, own: Collection[str], needs: str, form: str = "module:function"
) -> Any:
    """Import what `module:attribute` names.

    The module may lie in the working directory. It is imported, so name only code that you trust.

    Args:
        name: Such as `my_code:MyEngine`.
        what: What it is to be, such as `engine`, for messages.
        own: The names of this package, for messages.
        needs: What it must be, such as `a function of (text, reference)`, for messages.
        form: How such a name is written, for messages.

    Raises:
        ValueError: If it is no such name, cannot be imported, or cannot be called.
    """
    if not is_plug_in(name):
        raise ValueError(f"{what} must be one of {tuple(own)} or {form}, got {name!r}")
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:  # TypeError: a relative name
        raise ValueError(f"{what} must be importable, but {name!r} is not: {error}") from error
    if not callable(found):
        raise ValueError(f"{what} must be {needs}, but {name!r} is a {type(found).__name__}")
    return found
