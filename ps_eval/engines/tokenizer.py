"""What an engine asks of a model's tokenizer: to load, where generation ends, whether a marker is known."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ps_train.common.loading import first_line, resolve_model

TOKENIZER_FILE = "tokenizer.json"


def load_engine_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; a folder may hold nothing else.

    Raises:
        ValueError: If there is none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve_model(model))
        return tokenizer
    except (OSError, ValueError, KeyError, ImportError) as error:
        if (Path(model) / TOKENIZER_FILE).is_file():  # without a config.json nothing says which class it is
            plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(model)
            return plain
        raise ValueError(
            f"model must be a folder or a model name transformers can load, got {model}: {first_line(error)}"
        ) from error


def end_of_sequence_ids(model: str | Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where the model's generation ends: as its generation config or else its config says, and its tokenizer.

    The model's own come first.
    """
    try:
        config = GenerationConfig.from_pretrained(model)
    except OSError:
        try:
            config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))
        except (OSError, ValueError, KeyError):  # a tokenizer's folder
            config = GenerationConfig()
    eos = config.eos_token_id
    own = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
    return list(dict.fromkeys(int(i) for i in own if i is not None))


def marker_ids(tokenizer: PreTrainedTokenizerBase, marker: str) -> list[int]:
    """A marker's tokens: the one that it is, or those it is written with."""
    known = tokenizer.get_vocab().get(marker)
    return tokenizer.encode(marker, add_special_tokens=False) if known is None else [known]


def knows_marker(tokenizer: PreTrainedTokenizerBase, marker: str) -> bool:
    """The marker is a token of its own, or the chat template writes it."""
    template = tokenizer.chat_template or ""
    written = "\n".join(template.values()) if isinstance(template, dict) else str(template)
    return marker in tokenizer.get_vocab() or marker in written
