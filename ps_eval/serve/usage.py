"""What a response says of the tokens it took, read without touching it."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

TAIL_CHUNKS = 8
"""Chunks kept of a stream's end: usage is in its last events."""


class StreamTail:
    """The end of an event stream."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque(maxlen=TAIL_CHUNKS)

    def add(self, chunk: bytes) -> None:
        """The next bytes."""
        self._chunks.append(chunk)

    def usage(self) -> dict[str, Any] | None:
        """The last `usage` in it, if any."""
        for line in reversed(b"".join(self._chunks).splitlines()):
            if line.startswith(b"data:") and b'"usage"' in line and (usage := usage_of(line[5:])):
                return usage
        return None


def usage_of(body: bytes) -> dict[str, Any] | None:
    """The `usage` of a JSON response, if it has one."""
    try:
        usage = json.loads(body).get("usage")
    except (ValueError, RecursionError, AttributeError):
        return None
    return usage if isinstance(usage, dict) else None


def reasoning_tokens(usage: dict[str, Any] | None) -> int | None:
    """Reasoning tokens of all sequences together; None where the server does not count them apart."""
    details = (usage or {}).get("completion_tokens_details")
    return _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None


def completion_tokens(usage: dict[str, Any] | None) -> int | None:
    """All generated tokens together, the answer's included."""
    return _count((usage or {}).get("completion_tokens"))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
