"""Server-sent events of completions: read, written, and where their usage is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ps_eval.serve.errors import Refusal
from ps_eval.serve.upstream_json import object_of

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
            if (event := _event(line)) is not None:
                yield event
    if (event := _event(rest)) is not None:  # some servers end without an empty line
        yield event


def _event(line: bytes) -> dict[str, Any] | None:
    data = line[5:].strip() if line.startswith(b"data:") else b""
    if not data or data == b"[DONE]":
        return None
    if (event := object_of(data)) is None:
        raise Refusal(502, "failed", "the upstream server's events must be JSON objects")
    return event


def write_event(event: dict[str, Any]) -> bytes:
    """One event's bytes."""
    return b"data: " + json.dumps(event).encode() + b"\n\n"
