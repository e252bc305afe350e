"""A server's reply to one completion request, read with care: 200 does not mean that it is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SHOWN = 80
"""Characters shown of a reply that is none."""


class NotACompletionError(ValueError):
    """The reply is no completion that stopped or met its limit of tokens."""


class BrokenCompletionError(NotACompletionError):
    """The reply is a completion, but one that was ended otherwise, or holds no text: another may be whole."""


@dataclass(frozen=True)
class Completion:
    """What a model generated after a prompt."""

    text: str
    stopped: bool
    """It ended by itself, not by its limit."""
    token_ids: list[int] | None
    """The tokens, where the server returns them."""

    @classmethod
    def of(cls, body: str) -> Completion:
        """Read a reply's body.

        Raises:
            NotACompletionError: If it is not JSON, says there was an error, has no choice or no text, or its
                `finish_reason` is neither stop nor length.
        """
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise NotACompletionError(f"the server's reply is not JSON: {_start(body)}") from error
        if not isinstance(reply, dict):
            raise NotACompletionError(f"the server's reply is no completion: {_start(body)}")
        if reply.get("error"):
            raise NotACompletionError(f"the server's reply is an error: {_message(reply['error'])}")
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise NotACompletionError("the server's reply has no choices")
        return cls._of_choice(choices[0])

    @classmethod
    def _of_choice(cls, choice: dict[str, Any]) -> Completion:
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise BrokenCompletionError(
                f"the server's reply must have ended by stop or length, got finish_reason {reason!r}"
            )
        ids = choice.get("token_ids")
        if ids is not None and not (
            isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**31 for i in ids)
        ):
            raise BrokenCompletionError(
                f"the server's token_ids must be whole numbers, got {_start(str(ids))}"
            )
        text = choice.get("text")
        if text is None and ids is not None:
            text = ""
        if not isinstance(text, str):
            raise BrokenCompletionError(f"the server's reply has no text, got {_start(str(text))}")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a character: the tokenizer would refuse it
            raise BrokenCompletionError(f"the server's reply is no valid text: {text!r:.{SHOWN}}") from error
        return cls(text, reason == "stop", ids)


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _start(body: str) -> str:
    return repr(" ".join(body.split())[:SHOWN])
