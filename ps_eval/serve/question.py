"""From a request to the question that a predictor reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ps_eval.serve.bodies import Message
from ps_eval.serve.request_body import CompletionRequest, Prompt

if TYPE_CHECKING:  # a gateway with a light predictor needs neither transformers nor torch
    from transformers import PreTrainedTokenizerBase

Mode = Literal["last", "first", "conversation"]
SENTINELS = ("QUESTION", "ANSWER", "FOLLOWUP")
FEWEST_WORDS = 5
"""A chat's message of fewer words, without a number, is no question by itself: "yes", "go on", "why?"."""
LONGEST_FOLLOW_UP = 200
"""Characters; a longer message is none, and is not counted through."""
# Chinese, Japanese and Korean are written without spaces: each sign is counted as half a word.
WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
MOST_READ = 16
"""Prompts or chats of one body that are read: their mean curve decides for all."""
CHARACTERS_A_TOKEN = 16
"""No text has more on average: what is longer than that many a token need not be counted."""


class NoQuestion(ValueError):
    """The request has no question that a predictor should read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A key of `FALLBACKS`."""


class QuestionReader:
    """Find the question texts of a request: without chat tags, as `predict_curves` takes them.

    A completion prompt may have the chat template's text around its question, which is taken off where it is
    found; token ids are decoded first. A chat's question is, by `mode`:

    - `last`: its last user message; where that is only a follow-up, the latest before it that is none.
    - `first`: its first user message that is no follow-up.
    - `conversation`: all user messages, one after the other.

    Where there is none among the user's, a system message that asks something (`?`) is the question.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        mode: Mode = "last",
        max_tokens: int = 2048,
    ) -> None:
        """Prepare to read.

        Args:
            tokenizer: The served model's; without it, templates stay and token ids cannot be read.
            mode: Which message of a chat is the question.
            max_tokens: Longest question, in tokens; without a tokenizer a token is 4 characters.

        Raises:
            ValueError: If `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise ValueError(f"max_question_tokens must be at least 1, got {max_tokens}")
        self._mode = mode
        self._max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._tags = None if tokenizer is None else _Tags.of(tokenizer)

    def questions(self, request: CompletionRequest) -> list[str]:
        """The question of each chat, or of each prompt; of more than `MOST_READ`, of some evenly chosen.

        Slow for long ones: not for an event loop.

        Raises:
            NoQuestion: If a question cannot be found, is none by itself, or is too long to read.
        """
        if request.is_chat:
            found = [self._of_chat(chat) for chat in _evenly(request.chats)]
        else:
            found = [self._from_prompt(prompt) for prompt in _evenly(request.prompts)]
        if not found:
            name = "messages must hold a user message of text" if request.is_chat else _WANTED
            raise NoQuestion("unreadable", name)
        return [self._bounded(question) for question in found]

    def _bounded(self, question: str) -> str:
        most = self._max_tokens
        long = len(question) > most * (4 if self._tokenizer is None else CHARACTERS_A_TOKEN)
        if not long and self._tokenizer is not None and len(question) > most:
            long = len(self._tokenizer(question, add_special_tokens=False)["input_ids"]) > most
        if long:
            raise NoQuestion("too_long", f"a question must have at most {most} tokens")
        return question

    def _from_prompt(self, prompt: Prompt) -> str:
        if isinstance(prompt, list):
            if self._tokenizer is None:
                raise NoQuestion(
                    "unreadable", "token ids cannot be read without the served model's tokenizer"
                )
            if len(prompt) > 2 * self._max_tokens:
                raise NoQuestion("too_long", f"a question must have at most {self._max_tokens} tokens")
            prompt = str(self._tokenizer.decode(prompt))
        return prompt if self._tags is None else self._tags.taken_off(prompt)

    def _of_chat(self, messages: Sequence[Message]) -> str:
        messages = [m for m in messages if m.role or m.content]
        if messages and messages[-1].role in ("tool", "function"):
            raise NoQuestion("tool_turn", "a tool's result is no question")
        users = [text for m in messages if m.role == "user" and (text := _text(m))]
        if not any(m.role == "user" for m in messages[-1:]) and not users:
            raise NoQuestion("unreadable", "messages must hold a user message of text")
        if not users or not _text(next(m for m in reversed(messages) if m.role == "user")):
            raise NoQuestion("unreadable", "messages must hold a user message of text")
        full = [text for text in users if not is_follow_up(text)]
        if full:
            return {"last": full[-1], "first": full[0], "conversation": "\n".join(users)}[self._mode]
        system = [text for m in messages if m.role in ("system", "developer") and (text := _text(m))]
        asked = [text for text in system if "?" in text]
        if asked:
            return asked[-1]
        raise NoQuestion("follow_up", "a follow-up is no question by itself")


_WANTED = "prompt must be text or token ids"
T = TypeVar("T")


def _evenly(items: Sequence[T]) -> Sequence[T]:
    return items[:: -(-len(items) // MOST_READ)] if items else items


def is_follow_up(text: str) -> bool:
    """Whether a message says nothing of how hard its question is: a few words, no number among them."""
    if len(text) > LONGEST_FOLLOW_UP:
        return False
    return len(WORDS.findall(text)) < FEWEST_WORDS and not any(c.isdigit() for c in text)


class _Tags:
    """What a chat template writes around a user's message, whatever stands before it."""

    def __init__(self, before: str, opening: str, closing: str, ending: str) -> None:
        self._before, self._opening, self._closing, self._ending = before, opening, closing, ending

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> _Tags | None:
        """Learn them from renderings of the tokenizer's template; None where it has none."""
        if tokenizer.chat_template is None:
            return None

        def render(*contents: str) -> str:
            roles = ("user", "assistant")
            messages: list[Any] = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
            return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

        question, answer, follow_up = SENTINELS
        before, _, ending = render(question).partition(question)
        try:
            head, _, rest = render(*SENTINELS).partition(question)
            between, _, rest = rest.partition(answer)
            opening = _common(head[::-1], rest.partition(follow_up)[0][::-1])[::-1]
        except Exception:  # templates raise what they like where they want one turn alone
            between, opening = ending, before
        closing = _common(between, ending)
        return cls(before, opening, closing, ending)

    def taken_off(self, prompt: str) -> str:
        """The last user's message of a rendered chat; the whole text where it is none."""
        if not self._ending.strip() or self._ending not in prompt:
            return prompt
        if self._opening.strip() and self._closing.strip() and self._opening in prompt:
            question = prompt[prompt.rindex(self._opening) + len(self._opening) :]
            return question.partition(self._closing)[0]
        if prompt.endswith(self._ending):
            return prompt[: len(prompt) - len(self._ending)].removeprefix(self._before)
        return prompt


def _common(one: str, other: str) -> str:
    """The longest text that both begin with."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(one, other, key=len) if length is None else one[:length]


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if part.text is not None)
    return message.content or ""
