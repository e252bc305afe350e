"""The gateway's log: text or JSON lines, and no flood of the same warning."""

from __future__ import annotations

import json
import logging
import time
from typing import Literal

REPEAT_SECONDS = 10.0
"""A warning is logged once in so long; the next says how many were left out."""
ALWAYS = {"always": True}
"""As `extra` of a record that is never left out."""


class OnceInAWhile(logging.Filter):
    """Lets each warning through once in a while. Which it is: its text before values are put in.

    What answers somebody's signal always passes.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record."""
        if record.levelno < logging.WARNING or getattr(record, "always", False):
            return True
        kind, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._last.get(kind, -self._seconds) < self._seconds:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._last[kind] = now
        if left_out := self._left_out.pop(kind, 0):
            record.msg = f"{record.msg} ({left_out} more like this were not logged)"
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextLines(logging.Formatter):
    """Time, logger, message, and fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        fields = getattr(record, "fields", {})
        return super().format(record) + "".join(f" {name}={value}" for name, value in fields.items())


def set_up(*, format: Literal["text", "json"], level: str, access: bool) -> None:
    """Log to the standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    handler.addFilter(OnceInAWhile())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger().setLevel(level.upper())
    logging.getLogger("ps_eval.serve.access").setLevel(logging.INFO if access else logging.ERROR)
