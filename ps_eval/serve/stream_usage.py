"""A stream's usage for the decision log: asked for where the client did not, and taken out again."""

from __future__ import annotations

import re

from ps_eval.serve.upstream_json import object_of

EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
MOST_HELD = 2**16
"""Bytes of an event that are held until it is complete; one that brings nothing but usage is shorter."""


class TakenUsage:
    """Passes events on as they are, but for the one that holds usage and no choice."""

    def __init__(self) -> None:
        """Begin with nothing held."""
        self.rest = b""
        """Of an event that is not complete."""

    def without(self, chunk: bytes) -> bytes:
        """The complete events that this chunk ends, without that one."""
        passed, held = [], self.rest + chunk
        known = max(0, len(self.rest) - 3)
        while end := EVENT_END.search(held, known):
            event, held, known = held[: end.end()], held[end.end() :], 0
            if not _is_usage(event):
                passed.append(event)
        if len(held) > MOST_HELD:
            passed.append(held)
            held = b""
        self.rest = held
        return b"".join(passed)


def _is_usage(event: bytes) -> bool:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return False
    fields = object_of(event[5:]) or {}
    return fields.get("choices") == [] and isinstance(fields.get("usage"), dict)
