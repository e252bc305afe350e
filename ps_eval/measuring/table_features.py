"""Prompt features of a curve table's questions, extracted in parts: a killed extraction goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ps_alloc.files import atomic_path
from ps_eval.engines.pool import EnginePool, OneEngine
from ps_eval.run_folder import remember_settings
from ps_train.common.blocks import text_decoder
from ps_train.common.features import Features, extract_features
from ps_train.common.loading import load_backbone, torch_device, torch_dtype
from ps_train.common.prompts import PromptFormat
from ps_train.feature_file import save_features
from ps_train.shipped import resolve_embedded

PARTS_FOLDER = "features.parts"
PART_ROWS = 256
"""Questions a part: what a kill can cost."""


def check_layers_of(model: str | Path, layers: Sequence[int]) -> None:
    """Refuse layers that a model has not, from its config alone, before anything is generated.

    Raises:
        ValueError: If a layer is out of range, or there is no such model.
    """
    if str(model).endswith(".gguf"):  # its config is inside; extraction checks it
        return
    try:
        config = AutoConfig.from_pretrained(resolve_embedded(model))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"layers need a language model that transformers can load, got {model}: {reason}; "
            "--feature-model names one"
        ) from error
    number = int(config.get_text_config().num_hidden_layers)
    if wrong := [n for n in layers if not 1 <= n <= number]:
        raise ValueError(f"layers must be between 1 and {number}, the blocks of {model}, got {wrong[0]}")


def language_model(
    pool: EnginePool, model: str | Path, dtype: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that reads the prompts: the engine's own where it is here and nothing else is asked for.

    Args:
        pool: What generated.
        model: A folder or name.
        dtype: auto takes the engine's own model, or else float32; or a type's name.
        device: auto takes a GPU where there is one.

    Raises:
        ValueError: If there is no such model, type or device.
    """
    engine = pool.engine if isinstance(pool, OneEngine) else None
    loaded = getattr(engine, "model", None)
    if (
        loaded is not None
        and pool.name == str(resolve_embedded(model))
        and (dtype, device) == ("auto", "auto")
    ):
        return text_decoder(loaded.base_model), engine.tokenizer  # type: ignore[union-attr]
    chosen = torch_dtype("float32" if dtype == "auto" else dtype)
    return load_backbone(model, dtype=chosen, device=torch_device(device))


def write_features(
    folder: str | Path,
    questions: Sequence[str],
    layers: Sequence[int],
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    *,
    model: str,
    prompt: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write the hidden states of a table's questions as its `features.safetensors`.

    Parts that an earlier call left are kept, as long as they are of the same model, layers and prompt.

    Args:
        folder: The table's.
        questions: N texts, in the table's order.
        layers: Blocks, from 1.
        load: Brings the model and its tokenizer, when a part is missing.
        model: Its name, for the record.
        prompt: What is put around each question.
        batch_size: Prompts in one forward pass.
        progress: Called with the number of questions just read.

    Raises:
        ValueError: If a layer is out of range or a prompt too long, or the parts are of other settings.
    """
    parts = Path(folder) / PARTS_FOLDER
    settings = {"model": model, "layers": list(layers), "prompt": dict(prompt or {}), "rows": len(questions)}
    remember_settings(parts / "settings.json", settings)
    loaded = None
    found: list[Features] = []
    dtype = "unknown"
    for start in range(0, len(questions), PART_ROWS):
        texts = questions[start : start + PART_ROWS]
        path = parts / f"rows_{start:07d}.safetensors"
        if not path.is_file():
            loaded = loaded or load()
            dtype = str(loaded[0].dtype).removeprefix("torch.")
            states = extract_features(
                loaded[0],
                texts,
                layers,
                batch_size,
                tokenizer=loaded[1],
                prompt=PromptFormat.of(prompt),
                progress=progress,
            )
            with atomic_path(path) as temporary:
                save_file(states, temporary)
        elif progress:
            progress(len(texts))
        found.append(load_file(path))
    features = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    save_features(folder, features, {"model": model, "dtype": dtype})
    with suppress(OSError):  # what is left of it does no harm
        shutil.rmtree(parts)
