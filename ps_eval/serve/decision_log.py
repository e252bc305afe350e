"""Every decision in a file, where somebody asked for it: what was predicted, granted and used.

JSON lines, local, rotated and bounded in size; written by a thread of its own, so that a slow disk holds up
nobody. Off by default: with `text` it holds the clients' questions.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ps_eval.serve.exchange import REQUEST_ID, Exchange
from ps_eval.serve.forecast import grid_of
from ps_eval.serve.usage import completion_tokens

logger = logging.getLogger(__name__)
Questions = Literal["text", "hash"]
MOST_WAITING = 10_000
LONGEST_MODEL = 256
"""Characters of a model's name: what a client writes must not push older lines out of the log."""
FORMAT = 1


class DecisionLog:
    """An append-only file of decisions."""

    def __init__(
        self,
        path: Path,
        *,
        questions: Questions = "hash",
        max_bytes: int = 64 * 2**20,
        files: int = 4,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the file.

        Args:
            path: The file; older ones get `.1`, `.2` … after their name.
            questions: `text` writes the questions, `hash` a keyed hash of each and what can be counted of it;
                the key stays in `<path>.key`, readable by the owner alone.
            max_bytes: Of one file.
            files: Older files kept.
            on_lost: Called for every line that could not be taken.

        Raises:
            ValueError: If a bound is out of range, or the file cannot be written.
        """
        if max_bytes < 4096 or files < 0:
            raise ValueError(
                f"decision_log_mb must be at least 0.004 and decision_log_files at least 0, "
                f"got {max_bytes / 2**20:g} and {files}"
            )
        self._text = questions == "text"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _OwnersFile(path, maxBytes=max_bytes, backupCount=max(1, files))
            path.chmod(0o600)
            self._key = b"" if self._text else _key(path.with_name(path.name + ".key"))
        except OSError as error:
            message = f"decision_log must be a file that can be written, {path}: {error.strerror}"
            raise ValueError(message) from None
        self._on_lost = on_lost
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="decision-log", daemon=True)
        self._thread.start()

    def decided(self, exchange: Exchange) -> None:
        """A request with a budget has ended."""
        grant, observed = exchange.grant, exchange.observed
        assert grant is not None
        line: dict[str, Any] = {
            "format": FORMAT,
            "time": round(time.time(), 3),
            "request_id": exchange.id,
            "model": exchange.model and exchange.model[:LONGEST_MODEL],
            "rule": None if exchange.lane is None else exchange.lane.budgets.name,
            "route": exchange.route.name,
            "outcome": exchange.outcome,
            "questions": [self._question(question) for question in grant.questions],
            "sequences": grant.sequences,
            "granted": grant.tokens,
            "explored": grant.explored,
            "unlike": grant.unlike,
            "enforced": exchange.enforced,
            "own_budget": exchange.own_budget,
            "fallback": grant.fallback,
            "price": grant.price,
            "used": exchange.used,
            "completion_tokens": completion_tokens(observed.usage),
            "thought_share": None if observed.thought_share is None else round(observed.thought_share, 4),
            "finish_reason": observed.finish_reason,
            "empty": observed.empty,
            "first_answer_seconds": observed.first_answer_seconds,
            "seconds": round(exchange.seconds, 4),
        }
        if grant.curve is not None and grant.account is not None:
            line["budgets"] = grid_of(grant.account.pacer, len(grant.curve)).tolist()
            line["curve"] = np.round(grant.curve, 4).tolist()
        self._put(line)

    def feedback(self, body: bytes) -> None:
        """A client says how good an answer was.

        Raises:
            ValueError: If the body is not `{"request_id": …, "correct": 0 … 1}`.
        """
        try:
            fields = json.loads(body)
            request, correct = fields["request_id"], fields["correct"]
            valid = REQUEST_ID.fullmatch(request.encode()) and 0 <= float(correct) <= 1
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            valid = None
        if not valid:
            raise ValueError('feedback must be {"request_id": of x-ps-request-id, "correct": 0 to 1}')
        self._put(
            {
                "format": FORMAT,
                "time": round(time.time(), 3),
                "request_id": request,
                "correct": float(correct),
            }
        )

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._queue.put(None)
        self._thread.join(10)
        self._handler.close()

    def _question(self, text: str) -> dict[str, Any]:
        features = {
            "characters": len(text),
            "words": len(text.split()),
            "digits": sum(map(str.isdigit, text)),
        }
        if self._text:
            return {"text": text, **features}
        digest = hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return {"hash": digest.hexdigest()[:32], **features}

    def _put(self, line: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._on_lost()

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            record = logging.LogRecord("decision", logging.INFO, "", 0, json.dumps(line), None, None)
            try:
                self._handler.emit(record)
            except (OSError, ValueError) as error:
                self._on_lost()
                logger.error("a decision could not be logged: %s", error)


class _OwnersFile(RotatingFileHandler):
    """Each of its files is its owner's alone, and what cannot be written is an error."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        raise


def _key(path: Path) -> bytes:
    """The hashes' key, made once: the same question has the same hash over restarts."""
    if not path.is_file() or not path.stat().st_size:
        path.touch(0o600)
        path.write_bytes(secrets.token_hex(32).encode())
    return path.read_bytes()
