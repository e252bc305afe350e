"""Language models and tokenizers, from folders, hubs, GGUF files and packages; devices and number types."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ps_train.common.blocks import text_decoder
from ps_train.shipped import resolve_embedded

DTYPES = ("float32", "bfloat16", "float16", "float64")


def resolve_model(path: str | Path) -> str:
    """A language model's path: `package:<name>/<file>` is a file of an installed Python package.

    `embedded:<name>` is a model that comes with this one.

    Raises:
        ValueError: If the package is not installed or lacks the file, or the path leaves the package.
    """
    path = resolve_embedded(path)
    scheme, _, inside = str(path).partition(":")
    if scheme != "package":
        return str(path)
    name, _, file = inside.partition("/")
    if not name.isidentifier() or ".." in Path(file).parts or Path(file).is_absolute():
        raise ValueError(f"a package's file must be package:<name>/<file> without dots before it, got {path}")
    spec = importlib.util.find_spec(name)  # finds it without running its code
    if spec is None or spec.origin is None:
        raise ValueError(f"{path} needs the package {name}, which is not installed")
    found = Path(spec.origin).parent / file
    if not found.is_file():
        raise ValueError(f"{path} must name a file of the package {name}, got {file!r}")
    return str(found)


def load_backbone(
    path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen language model without its output head, and its tokenizer.

    Of a model that also reads images or sound, the part that reads text.

    Args:
        path: A transformers folder, a Hub id, or a `.gguf` file (needs the `gguf` package), also as
            `package:<name>/<file>`.
        dtype: The type to compute in.
        device: Where to compute.

    Raises:
        ValueError: If nothing loadable is there; the message names the path.
    """
    tokenizer = load_tokenizer(path)
    with _loading(path) as source:
        model = AutoModel.from_pretrained(**source, dtype=dtype)
    decoder: nn.Module = text_decoder(model).to(device)  # type: ignore[arg-type]  # its decorator hides `self`
    return cast(PreTrainedModel, decoder.eval().requires_grad_(False)), tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model, from where `load_backbone` finds the model.

    Raises:
        ValueError: As `load_backbone`.
    """
    with _loading(path) as source:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source)
    return tokenizer


@contextmanager
def _loading(path: str | Path) -> Iterator[dict[str, str]]:
    """Yield the arguments of `from_pretrained` for a path; failures name it."""
    located = Path(resolve_model(path))
    source = {"pretrained_model_name_or_path": str(located)}
    if located.suffix == ".gguf":
        source = {"pretrained_model_name_or_path": str(located.parent), "gguf_file": located.name}
    try:
        yield source
    except (OSError, ImportError, ValueError, KeyError) as error:
        raise ValueError(
            "backbone must be a language model's folder, .gguf file or Hub id, "
            f"got {path}: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, as one line: its first, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def torch_device(name: str) -> torch.device:
    """A device by its name; `auto` takes a GPU where there is one.

    Raises:
        ValueError: If this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"device must be auto or a torch device of this machine, got {name!r}: {first_line(error)}"
        ) from error
    return device


def torch_dtype(name: str | torch.dtype) -> torch.dtype:
    """A type of numbers by its name.

    Raises:
        ValueError: If there is no such type.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {name!r}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
