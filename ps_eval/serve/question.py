"""From a request to the question that a predictor reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from ps_eval.serve.request_body import CompletionRequest, Prompt

SENTINEL = "QUESTION"


class QuestionReader:
    """Find the question texts of a request: without chat tags, as `predict_curves` takes them.

    A chat's question is its last user message. A completion prompt has the chat template's text around its
    question, which is taken off where it is found; token ids are decoded first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Prepare to read.

        Args:
            tokenizer: The served model's; without it, templates stay and token ids cannot be read.
        """
        self._decode: Callable[[list[int]], str] | None = None
        self._before = self._after = ""
        if tokenizer is None:
            return
        self._decode = lambda ids: str(tokenizer.decode(ids))
        if tokenizer.chat_template is not None:
            message = [{"role": "user", "content": SENTINEL}]
            text = str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
            self._before, _, self._after = text.partition(SENTINEL)

    def questions(self, request: CompletionRequest) -> list[str]:
        """The question of a chat, or of each prompt.

        Raises:
            ValueError: If a question cannot be found: the request is not one, or not one of text.
        """
        if request.is_chat:
            return [_last_user_message(request.fields.get("messages"))]
        prompts = request.prompts
        if not prompts:
            raise ValueError("prompt must be text or token ids")
        return [self._from_prompt(prompt) for prompt in prompts]

    def _from_prompt(self, prompt: Prompt) -> str:
        if isinstance(prompt, list):
            if self._decode is None:
                raise ValueError("token ids cannot be read without the served model's tokenizer")
            prompt = self._decode(prompt)
        if not isinstance(prompt, str):
            raise ValueError("prompt must be text or token ids")
        if self._after and prompt.endswith(self._after) and prompt.startswith(self._before):
            return prompt[len(self._before) : len(prompt) - len(self._after)]
        return prompt


def _last_user_message(messages: Any) -> str:
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                parts = [part.get("text") for part in content if isinstance(part, dict)]
                content = "\n".join(part for part in parts if isinstance(part, str))
            if isinstance(content, str) and content:
                return content
            break
    raise ValueError("messages must hold a user message of text")
