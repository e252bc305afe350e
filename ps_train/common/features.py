"""Features of a question known before generation, by name.

- `layer_<n>`: the *backbone's* (served model's) hidden state at the last prompt token, `hidden_states[n]` as
  transformers counts: the output of block n (1 … num_layers), for the last block after the final norm.
- `encoder_layer_<n>`: the same of the *encoder*, any other frozen language model, a small one for instance.
- `text`: counts of the question's text (`ps_train.common.text_features`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ps_train.common.blocks import (
    block_outputs,
    hidden_size,
    num_layers,
    takes_padding,
    transformer_blocks,
)
from ps_train.common.last_position import can_skip_others, for_last_tokens
from ps_train.common.loading import load_backbone
from ps_train.common.prompts import PromptFormat, PromptTooLongError, encode_prompts
from ps_train.common.text_batches import collate

TEXT = "text"
Features = dict[str, npt.NDArray[np.float32]]


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


def extract_features(
    backbone: str | Path | PreTrainedModel,
    questions: Sequence[str],
    layers: Iterable[int],
    batch_size: int = 32,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompt: PromptFormat | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
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
        prompt: What is put around each question.
        dtype: The type to compute in.
        device: Where to compute.
        progress: Called with the number of questions just read.

    Returns:
        `layer_<n>` to a float32 (N, D) array, layers ascending.

    Raises:
        ValueError: If a layer is out of range, no layer is asked for, the tokenizer is missing, or a prompt
            has no tokens or more than the model has positions for.
    """
    if isinstance(backbone, (str, Path)):
        model, tokenizer = load_backbone(backbone, dtype=dtype, device=device)
    else:
        model = backbone
    if tokenizer is None:
        raise ValueError("tokenizer must be given with a model that is already loaded, got None")
    wanted = check_layers(model, layers)

    prompts = encode_prompts(tokenizer, questions, prompt)
    check_lengths(model, prompts)
    features = {layer_name(n): np.empty((len(prompts), hidden_size(model)), np.float32) for n in wanted}
    lengths = [len(prompt) for prompt in prompts]
    padded = len(set(lengths)) > 1 and takes_padding(model, "right")
    for rows in _batches(lengths, batch_size, padded=padded):
        states = last_token_states(model, [prompts[row] for row in rows], wanted)
        for layer, values in states.items():
            features[layer_name(layer)][rows] = values.float().cpu().numpy()
        if progress:
            progress(len(rows))
    return features


def check_layers(model: PreTrainedModel, layers: Iterable[int]) -> list[int]:
    """The layer numbers, each once, ascending.

    Raises:
        ValueError: If one is out of range, or there is none.
    """
    wanted = sorted(set(layers))
    if not wanted or not 1 <= wanted[0] <= wanted[-1] <= num_layers(model):
        raise ValueError(f"layers must be between 1 and {num_layers(model)}, got {wanted}")
    return wanted


def check_lengths(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts without tokens, and those beyond the model's positions."""
    room = max_positions(model)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"a prompt must have at least one token, got none in row {row}")
        if room is not None and len(prompt) > room:
            raise PromptTooLongError(
                f"a prompt must fit the model's {room} positions, got {len(prompt)} tokens in row {row}"
            )


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model was made for; None where its configuration sets no limit."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(room) if isinstance(room, int) and room > 0 else None


def _batches(lengths: Sequence[int], batch_size: int, *, padded: bool) -> list[list[int]]:
    """Rows by length, at most `batch_size` together; of one length where they must not be padded."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        full = not batches or len(batches[-1]) == batch_size
        if full or (not padded and lengths[batches[-1][-1]] != lengths[row]):
            batches.append([])
        batches[-1].append(row)
    return batches


@torch.inference_mode()
def last_token_states(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    """One forward pass: layer number to (B, D) hidden states at each prompt's last token.

    Prompts are padded on the right: under causal attention no real token sees the padding, and the last real
    token is indexed by the prompt's own length.
    """
    device = model.device
    batch = collate(prompts)
    mask = batch["attention_mask"].to(device)
    rows, last = torch.arange(len(prompts), device=device), mask.sum(1) - 1
    deepest = max(layers)
    with ExitStack() as stack:
        if can_skip_others(model, deepest):
            stack.enter_context(for_last_tokens(transformer_blocks(model)[deepest - 1], last))
        states = block_outputs(
            model,
            layers,
            input_ids=batch["input_ids"].to(device),
            attention_mask=None if batch["attention_mask"].all() else mask,
        )
    return {layer: hidden[rows, last] for layer, hidden in states.items()}
