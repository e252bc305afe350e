"""What is written or logged of settings: no passwords, no keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "…"
_IN_ADDRESS = re.compile(r"(?<=://)[^/?#\s]*@")
_NAMES = re.compile(r"(?i)api_?key|^key$|keys$|passw|secret|authorization|bearer|(access|auth)_?token")


def redacted(value: Any) -> Any:
    """A setting without `user:password@` in addresses, and without what stands under a name of a secret."""
    if isinstance(value, str):
        return _IN_ADDRESS.sub(f"{HIDDEN}@", value)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(name, str) and _NAMES.search(name) and one else redacted(one)
            for name, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(redacted(one) for one in value) if type(value) in (list, tuple) else value
    return value
