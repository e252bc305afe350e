"""From a question to the tokens after which the model starts to reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "{question}"
"""Where a template takes the question."""


class PromptTooLongError(ValueError):
    """A prompt has more tokens than the model has positions for."""


@dataclass(frozen=True)
class PromptFormat:
    """What is put around a question. The defaults put nothing: the question is the user's message."""

    template: str = QUESTION
    """The user's message; `{question}` stands for the question."""
    suffix: str = ""
    """Appended to the user's message, such as a wish for the answer's form."""
    system: str | None = None
    """The system message; None for none."""
    chat_template: str | None = None
    """A Jinja chat template instead of the tokenizer's own; "" for none: the message as plain text."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, such as `enable_thinking: true`."""

    def __post_init__(self) -> None:
        if QUESTION not in self.template:
            raise ValueError(f"prompt.template must hold {QUESTION}, got {self.template!r}")
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ValueError(
                f"prompt.chat_template_kwargs must be names with values, got {self.chat_template_kwargs!r}"
            )

    @classmethod
    def of(cls, value: PromptFormat | Mapping[str, Any] | None) -> PromptFormat:
        """A format as it is given on a command line or in a file: by its fields; None for the defaults.

        Raises:
            ValueError: If a field is unknown, or `value` is none of these.
        """
        return value if isinstance(value, cls) else cls(**known_fields(cls, value, "prompt"))

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them: what settings are recorded and compared by."""
        return asdict(self) | {"chat_template_kwargs": dict(self.chat_template_kwargs)}


def known_fields(cls: type, value: object, name: str) -> dict[str, Any]:
    """The fields of a dataclass that `value` sets; none where it is None.

    Raises:
        ValueError: If `value` is no mapping, or a field is unknown.
    """
    allowed = [f.name for f in fields(cls)]
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be fields among {allowed} with values, got {value!r}")
    if unknown := sorted(set(value) - set(allowed)):
        raise ValueError(f"{name} may set {allowed}, got {unknown}")
    return dict(value)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], prompt: PromptFormat | None = None
) -> list[list[int]]:
    """Turn questions into the tokens after which the model starts to reason.

    Everything that reads or extends a prompt (feature extraction, the engines) calls this, so that features
    and generation see the same tokens. The chat template's generation prompt ends the list (for reasoning
    models usually with `<think>`); a tokenizer without a chat template gets the plain text, without the end
    of sequence that some tokenizers append.

    Args:
        tokenizer: The model's tokenizer.
        questions: Question texts without chat tags.
        prompt: What is put around each.

    Returns:
        One list of token ids a question, without padding.

    Raises:
        ValueError: If the chat template refuses the messages, or there is a system message but no template.
    """
    prompt = prompt or PromptFormat()
    template = tokenizer.chat_template if prompt.chat_template is None else prompt.chat_template
    messages = [prompt.template.replace(QUESTION, question) + prompt.suffix for question in questions]
    if not template:
        if prompt.system is not None:
            raise ValueError("prompt.system needs a chat template, but the tokenizer has none")
        return [_without_end(tokenizer, message) for message in messages]
    # The template writes the special tokens itself.
    return [
        tokenizer(_from_template(tokenizer, message, prompt), add_special_tokens=False)["input_ids"]
        for message in messages
    ]


def _from_template(tokenizer: PreTrainedTokenizerBase, message: str, prompt: PromptFormat) -> str:
    from jinja2 import TemplateError  # with torch and transformers, which the tokenizer has brought

    chat = [{"role": "user", "content": message}]
    if prompt.system is not None:
        chat.insert(0, {"role": "system", "content": prompt.system})
    try:
        text = tokenizer.apply_chat_template(
            chat,
            chat_template=prompt.chat_template,
            add_generation_prompt=True,
            tokenize=False,
            **prompt.chat_template_kwargs,
        )
    except (TemplateError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the chat template must take these messages, but: {reason}") from error
    return str(text)


def _without_end(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens, with what the tokenizer puts before it and without what it puts behind."""
    ids: list[int] = tokenizer(text)["input_ids"]
    if ids and ids[-1] in tokenizer.all_special_ids:
        plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(len(ids) - len(plain) + 1):
            if ids[start : start + len(plain)] == plain:
                return ids[: start + len(plain)]
    return ids
