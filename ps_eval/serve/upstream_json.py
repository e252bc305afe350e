"""An upstream's JSON, which may be anything."""

from __future__ import annotations

import json
from typing import Any


def object_of(data: bytes) -> dict[str, Any] | None:
    """The JSON object; None where it is none, or nested beyond reading."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
