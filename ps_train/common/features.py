"""Features of a question known before generation, by name.

- `layer_<n>`: the *backbone's* (served model's) hidden state at the last prompt token, `hidden_states[n]` as
  transformers counts: the output of block n (1 … num_layers), for the last block after the final norm.
- `encoder_layer_<n>`: the same of the *encoder*, any other frozen language model, a small one for instance.
- `text`: counts of the question's text (`ps_train.common.text_features`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

TEXT = "text"
Features = dict[str, npt.NDArray[np.float32]]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
    """Turn questions into the tokens after which the model starts to reason.

    Everything that reads or extends a prompt (feature extraction, the engines) calls this, so that features
    and generation see the same tokens. The chat template's generation prompt ends the list (for reasoning
    models usually with `<think>`); a tokenizer without a chat template gets the plain text.

    Args:
        tokenizer: The model's tokenizer.
        questions: Question texts without chat tags.

    Returns:
        One list of token ids a question, without padding.
    """
    if tokenizer.chat_template is None:
        return [tokenizer(question)["input_ids"] for question in questions]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in questions
    ]
    # The template writes the special tokens itself.
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]


def layer_name(layer: int) -> str:
    """The feature's name: `layer_<n>`."""
    return f"layer_{layer}"


def layers_by_model(names: Iterable[str]) -> dict[str, list[int]]:
    """The layers that feature names ask for: `{"backbone": [...], "encoder": [...]}`, empty lists left out.

    Raises:
        ValueError: If a name has none of the forms that this file's head lists.
    """
    layers: dict[str, list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(encoder_)?layer_([1-9]\d*)", name)
        if match is not None:
            layers.setdefault("encoder" if match[1] else "backbone", []).append(int(match[2]))
        elif name != TEXT:
            raise ValueError(
                f"a feature must be named layer_<n>, encoder_layer_<n> (n from 1) or text, got {name!r}"
            )
    return layers


def named_for(source: str, features: Features) -> Features:
    """Give what `extract_features` returned the names of its source: `encoder_layer_<n>` for the encoder."""
    prefix = "encoder_" if source == "encoder" else ""
    return {prefix + name: values for name, values in features.items()}


def resolve_model(path: str | Path) -> str:
    """A language model's path: `package:<name>/<file>` is a file of an installed Python package.

    Raises:
        ValueError: If the package is not installed or lacks the file.
    """
    scheme, _, inside = str(path).partition(":")
    if scheme != "package":
        return str(path)
    name, _, file = inside.partition("/")
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
    return model.to(device).eval().requires_grad_(False), tokenizer


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
    except (OSError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"backbone must be a language model's folder, .gguf file or Hub id, got {path}: {reason}"
        ) from error


def num_layers(model: PreTrainedModel) -> int:
    """How many blocks the model has: the largest n of `layer_<n>`."""
    return int(model.config.get_text_config().num_hidden_layers)


def extract_features(
    backbone: str | Path | PreTrainedModel,
    questions: Sequence[str],
    layers: Iterable[int],
    batch_size: int = 32,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Features:
    """Hidden states at the last prompt token of each question.

    Only the blocks up to the deepest layer asked for are run, each prompt once whatever the number of layers.
    Questions are batched by length; rows come back in the order given.

    Args:
        backbone: What `load_backbone` takes, or a model already loaded (then `tokenizer` is needed, and
            `dtype` and `device` are the model's own).
        questions: N question texts.
        layers: Layer numbers, 1 … num_layers.
        batch_size: Prompts in one forward pass.
        tokenizer: The tokenizer of a loaded model.
        dtype: The type to compute in.
        device: Where to compute.

    Returns:
        `layer_<n>` to a float32 (N, D) array, layers ascending.

    Raises:
        ValueError: If a layer is out of range, no layer is asked for, or the tokenizer is missing.
    """
    if isinstance(backbone, (str, Path)):
        model, tokenizer = load_backbone(backbone, dtype=dtype, device=device)
    else:
        model = backbone
    if tokenizer is None:
        raise ValueError("tokenizer must be given with a model that is already loaded, got None")
    wanted = sorted(set(layers))
    if not wanted or not 1 <= wanted[0] <= wanted[-1] <= num_layers(model):
        raise ValueError(f"layers must be between 1 and {num_layers(model)}, got {wanted}")

    prompts = encode_prompts(tokenizer, questions)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    width = int(model.config.get_text_config().hidden_size)
    features = {layer_name(n): np.empty((len(prompts), width), np.float32) for n in wanted}
    for start in range(0, len(prompts), batch_size):
        rows = by_length[start : start + batch_size]
        states = last_token_states(model, [prompts[row] for row in rows], wanted)
        for layer, values in states.items():
            features[layer_name(layer)][rows] = values.float().cpu().numpy()
    return features


class _DeepestLayerReached(Exception):
    """Leaves the forward pass once no deeper block is needed."""


@torch.inference_mode()
def last_token_states(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    """One forward pass: layer number to (B, D) hidden states at each prompt's last token.

    Prompts are padded on the right: under causal attention no real token sees the padding, and the last real
    token is indexed by the prompt's own length.
    """
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    rows, last = torch.arange(len(prompts), device=device), (lengths - 1).to(device)

    states: dict[int, torch.Tensor] = {}
    deepest = max(layers)
    decoder: Any = model.base_model
    blocks = transformer_blocks(model)

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            states[layer] = hidden[rows, last]
            if layer == deepest:
                raise _DeepestLayerReached

        return hook

    # The last layer is read after the final norm, from the model's output, as transformers reports it.
    hooks = [blocks[n - 1].register_forward_hook(keep(n)) for n in layers if n < len(blocks)]
    try:
        output = decoder(
            input_ids=tokens.to(device), attention_mask=mask.long().to(device), use_cache=False
        ).last_hidden_state
        states[len(blocks)] = output[rows, last]
    except _DeepestLayerReached:
        pass
    finally:
        for handle in hooks:
            handle.remove()
    return {layer: states[layer] for layer in layers}


def transformer_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks, whatever the architecture calls them."""
    count = num_layers(model)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"backbone must hold its {count} blocks in one module list, got {type(model).__name__}")
