"""How a model marks the end of its reasoning, and how it is made to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ps_alloc.files import read_json
from ps_train.common.prompts import known_fields


@dataclass(frozen=True)
class ReasoningFormat:
    """How a model marks the end of its reasoning, and how to make it answer.

    The defaults fit DeepSeek-R1 and its distillations. A model may bring its own in `reasoning_format.json`.
    """

    think_end: str = "</think>"
    """Ends the reasoning, in one token or several; "" for a model that does not mark it: its whole reply is
    then its reasoning, under the budget, and the answer is read from it."""
    forced_prefix: str = "\n</think>\n\n**Final Answer**\n\\boxed{"
    """Appended where the budget ends the reasoning."""
    max_forced_tokens: int = 16
    """Most tokens decoded after `forced_prefix`."""
    max_answer_tokens: int = 512
    """Most tokens decoded after the model ended its reasoning itself."""

    FILE = "reasoning_format.json"

    def __post_init__(self) -> None:
        for name in ("think_end", "forced_prefix"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"format.{name} must be text, got {getattr(self, name)!r}")
        for name in ("max_forced_tokens", "max_answer_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"format.{name} must be a whole number, at least 1, got {value!r}")

    @classmethod
    def of(
        cls, value: ReasoningFormat | Mapping[str, Any] | None, model: str | Path | None = None
    ) -> ReasoningFormat:
        """A format as it is given on a command line: by the fields that differ from the model's own.

        Args:
            value: A whole format, fields of one, or None.
            model: Whose own format gives the other fields; None for the defaults.

        Raises:
            ValueError: If a field is unknown or has no such value.
        """
        if isinstance(value, cls):
            return value
        own = cls() if model is None else cls.of_model(model)
        return cls(**{**asdict(own), **known_fields(cls, value, "format")})

    @classmethod
    def of_model(cls, model: str | Path) -> ReasoningFormat:
        """The format a model's folder or hub page declares, or the default.

        Raises:
            ValueError: If its file is not a JSON object, or a field is unknown or has no such value.
        """
        path = declared_format(model)
        if path is None:
            return cls()
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError(f"{path} must hold a JSON object, got a {type(fields).__name__}")
        return cls(**known_fields(cls, fields, str(path)))

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them: what settings are recorded and compared by."""
        return asdict(self)


def declared_format(model: str | Path) -> Path | None:
    """The file in which a model's folder or hub page declares its format; None where there is none."""
    path = Path(model) / ReasoningFormat.FILE
    if path.is_file():
        return path
    if Path(model).exists():
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(model), ReasoningFormat.FILE, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # no such page, or none can be reached: loading the model will say so
        return None
    return Path(found) if found else None
