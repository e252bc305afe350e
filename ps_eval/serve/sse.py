"""Server-sent events of completions: read, written, and where their usage is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ps_eval.serve.errors import Refusal

DONE = b"data: [DONE]\n\n"


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream's `data:` lines, without the closing `[DONE]`.

    Raises:
        Refusal: If a line holds something else.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if not data or data == b"[DONE]":
                continue
            try:
                event = json.loads(data)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise Refusal(502, "failed", "the upstream server's events must be JSON objects")
            yield event


def write_event(event: dict[str, Any]) -> bytes:
    """One event's bytes."""
    return b"data: " + json.dumps(event).encode() + b"\n\n"
