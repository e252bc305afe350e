"""What a response brought, read in passing: usage, how it ended, whether there is an answer in it."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ps_eval.serve.upstream_json import object_of
from ps_eval.serve.usage import Usage

TAIL_BYTES = 2**16
"""Kept of a stream's end: usage and the reason of its end are in its last events."""
WHOLE_BYTES = 2**26
"""Largest answer that is held whole, and, decompressed, that is read."""
READABLE = frozenset(("gzip", "x-gzip", "deflate", "identity"))
"""Codings of an answer that can be undone here."""
NOT_PLAIN = re.compile(r"identity\s*;\s*q=0(\.0*)?")
# A first character of content, or of a call; `"content":""` and `"content":null` bring nothing.
ANSWER = re.compile(
    rb'"(?:content|refusal|arguments|partial_json)"\s*:\s*"(?!")|"tool_calls"\s*:\s*\[\s*\{'
    rb'|"type"\s*:\s*"(?:text|input_json|output_text)_?\.?delta"'
)
LENGTH = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"(?:length|max_tokens)"')
REASON = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([a-z_]{1,32})"')


@dataclass(frozen=True, slots=True)
class Observed:
    """What became of a request, as its response tells."""

    usage: Usage = None
    finish_reason: str | None = None
    empty: bool | None = None
    """The tokens ran out before the first one of an answer; None where that cannot be told."""
    first_answer_seconds: float | None = None
    """From the sending on of a streamed request to the first chunk of its answer."""
    thought_share: float | None = None
    """Share of what was generated that is reasoning, by letters (of a stream: by events): an estimate for
    servers that do not count it. None where reasoning cannot be told from the answer."""


def readable(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A request's headers without codings that the answer could not be read in (br, zstd).

    A client that takes no others, and not even plain answers, gets what it asks for: it goes unread.
    """
    return [(name, _codings(value) if name == "accept-encoding" else value) for name, value in headers]


def _codings(value: str) -> str:
    asked = [part.strip() for part in value.lower().split(",")]
    if any(NOT_PLAIN.fullmatch(part) for part in asked):
        return value
    return ", ".join(part for part in asked if part.partition(";")[0].strip() in READABLE) or "identity"


def decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Undo a `Content-Encoding` chunk by chunk; None where it is not known here.

    What it returns is a copy to read: the client gets the bytes as they came.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda chunk: chunk
    if name not in READABLE:
        return None
    undo, left = None, b""
    room = WHOLE_BYTES

    def decode(chunk: bytes) -> bytes:
        nonlocal room, undo, left
        left, made = left + chunk, b""
        try:
            while room > 0 and (left if undo else len(left) > 1):
                undo = undo or zlib.decompressobj(_bits(left))
                made += (found := undo.decompress(left, room))
                room -= len(found)
                # After its end, gzip may have another member.
                left, undo = (undo.unused_data, None) if undo.eof else (b"", undo)
        except zlib.error:
            room = 0
        return made

    return decode


def _bits(begin: bytes) -> int:
    """Gzip or zlib, as the first bytes say; some servers' `deflate` is without either's head."""
    has_head = begin[:2] == b"\x1f\x8b" or (begin[0] & 15 == 8 and int.from_bytes(begin[:2]) % 31 == 0)
    return zlib.MAX_WBITS | 32 if has_head else -zlib.MAX_WBITS


class AnswerWatch:
    """Reads one response as it passes."""

    def __init__(self, encoding: str = "", *, think_end: str | None = None, mark: str = "</think>") -> None:
        """Begin to read.

        Args:
            encoding: The response's `Content-Encoding`.
            think_end: Ends the reasoning within a completion's text; None for chats, which have fields.
            mark: Ends the reasoning of a chat whose server does not take it apart.
        """
        self._mark = think_end or mark
        self._decode = decoder(encoding)
        self._think_end = None if think_end is None else json.dumps(think_end)[1:-1].encode()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._answered = False
        self._begin = time.monotonic()
        self._first: float | None = None
        self._events = self._events_before = 0

    def add(self, chunk: bytes) -> None:
        """The next bytes of an event stream."""
        if self._decode is None or not (chunk := self._decode(chunk)):
            return
        self._events += chunk.count(b"data:")
        if not self._answered:
            self._events_before = self._events - 1
            text = self._tail[-1] + chunk if self._tail else chunk  # what is looked for may be cut in two
            found = ANSWER.search(text) if self._think_end is None else self._think_end in text
            if found:
                self._answered, self._first = True, time.monotonic() - self._begin
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes - len(self._tail[0]) > TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())

    def streamed(self) -> Observed:
        """What the stream brought."""
        tail = b"".join(self._tail)
        reasons = REASON.findall(tail)
        empty = bool(LENGTH.search(tail)) and not self._answered if reasons else None
        # The last events bring no token: the reason of the end, usage, [DONE]. A few of many.
        before = self._events_before if self._answered else self._events
        share = before / self._events if before > 1 else None
        reason = reasons[-1].decode() if reasons else None
        return Observed(_last_usage(tail), reason, empty, self._first, share)

    def whole(self, content: bytes) -> Observed:
        """What a response that is no stream brought."""
        if self._decode is None or (response := object_of(self._decode(content))) is None:
            return Observed()
        usage = response.get("usage")
        choices = response.get("choices")
        choices = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else [response]
        reasons = [c.get("finish_reason", c.get("stop_reason")) for c in choices]
        reason = next((r for r in reasons if isinstance(r, str)), None)
        cut = [c for c, r in zip(choices, reasons, strict=True) if r in ("length", "max_tokens")]
        empty = any(self._is_empty(choice) for choice in cut) if reason else None
        share = self._thought_share(choices[0]) if len(choices) == 1 else None
        return Observed(usage if isinstance(usage, dict) else None, reason, empty, thought_share=share)

    def _thought_share(self, choice: dict[str, Any]) -> float | None:
        """By letters: of the field of the reasoning, or of what stands before its end mark."""
        message = choice.get("message")
        message = message if isinstance(message, dict) else choice
        answer = message.get("content", message.get("text"))
        thought = message.get("reasoning") or message.get("reasoning_content")
        if not isinstance(answer, str | None):
            return None
        answer = answer or ""
        if not isinstance(thought, str):
            thought, mark, _ = answer.partition(self._mark)
            if not mark:
                return None
            return len(thought.rstrip()) / len(answer)
        return len(thought) / max(1, len(thought) + len(answer))

    def _is_empty(self, choice: dict[str, Any]) -> bool:
        if isinstance(text := choice.get("text"), str):
            return self._think_end is not None and self._think_end.decode() not in text
        message = choice.get("message", choice)
        if not isinstance(message, dict):
            return False
        content = message.get("content")
        if isinstance(content, list):  # Anthropic's blocks
            return not any(isinstance(b, dict) and b.get("type") in ("text", "tool_use") for b in content)
        return not content and not message.get("tool_calls")


def _last_usage(tail: bytes) -> Usage:
    for line in reversed(tail.splitlines()):
        if line.startswith(b"data:") and b'"usage"' in line:
            event = object_of(line[5:]) or {}
            inner = event.get("response", event)  # of /v1/responses
            usage = inner.get("usage") if isinstance(inner, dict) else None
            if isinstance(usage, dict):
                return usage
    return None
