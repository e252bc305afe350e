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
    def of(cls, body: bytes, max_tokens: int) -> Completion:
        """Read a reply's body.

        Raises:
            NotACompletionError: If it is not JSON, says there was an error, has no choice or several, or no
                text, keeps its reasoning apart, its `finish_reason` is neither stop nor length, or it met
                its limit before `max_tokens`.
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
        if len(choices) > 1:
            raise BrokenCompletionError(f"the server's reply must have one choice, got {len(choices)}")
        completion, usage = cls._of_choice(choices[0]), reply.get("usage")
        number = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if completion.token_ids is not None:
            number = len(completion.token_ids)
        # Counts of 0 and other nonsense are no counts: some servers send them.
        if not completion.stopped and isinstance(number, int) and 0 < number < max_tokens:
            raise BrokenCompletionError(
                f"the server ended after {number} tokens, max_tokens was {max_tokens}: its own limit is lower"
            )
        return completion

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
        if apart := [name for name in ("reasoning", "reasoning_content") if choice.get(name)]:
            raise BrokenCompletionError(
                f"the server's reply must be one text, got its reasoning apart, in {apart[0]!r}: "
                "switch its reasoning parser off"
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


def _start(body: bytes | str) -> str:
    text = body[: 8 * SHOWN].decode(errors="replace") if isinstance(body, bytes) else body
    return repr(" ".join(text.split())[:SHOWN])
