"""A model's states along kept traces: one more reading of prompts and traces, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ps_alloc.files import atomic_path
from ps_eval.measuring.trace_file import TRACES_FILE, read_traces
from ps_train.common.blocks import block_outputs, hidden_size
from ps_train.common.features import check_layers, layer_name
from ps_train.common.prompts import PromptFormat, encode_prompts
from ps_train.curve_table import CurveTable
from ps_train.forecast.kept_traces import STATES_FILE, stored_states


def write_trace_states(
    folder: str | Path,
    layers: Sequence[int],
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    *,
    prompt: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write blocks' states after 0 tokens and each budget of every kept trace, in float16.

    Nothing is read where they are there; blocks that are there already are kept beside new ones.

    Args:
        folder: A curve table's, of traces whose tokens were kept.
        layers: Blocks, from 1.
        load: Brings the model and its tokenizer.
        prompt: What was put around each question.
        batch_size: Traces in one forward pass.
        progress: Called with the number of traces just read.

    Raises:
        ValueError: If a layer is out of range, or the tokens were not kept.
    """
    table = CurveTable.load(folder)
    asked = dict(zip(table.ids, table.questions, strict=True))
    kept = [t for t in read_traces(Path(folder) / TRACES_FILE) if t.id in asked]
    names = [f"{t.id}#{number}" for t in kept for number in range(len(t.lengths))]
    held, of = stored_states(folder)
    if set(layers) <= set(held) and set(names) <= set(of):
        return
    if unkept := [t.id for t in kept if len(t.token_ids) != len(t.lengths)]:
        raise ValueError(
            f"{folder} must hold the traces' token ids, but those of {unkept[0]!r} were not kept"
        )
    model, tokenizer = load()
    wanted = check_layers(model, sorted({*layers, *held}))
    prompts = encode_prompts(tokenizer, [asked[t.id] for t in kept], PromptFormat.of(prompt))
    rows = [(p, ids) for p, t in zip(prompts, kept, strict=True) for ids in t.token_ids]
    grid = [0, *table.budgets.tolist()]
    states = {n: np.zeros((len(rows), len(grid), hidden_size(model)), np.float16) for n in wanted}
    order = np.argsort([len(p) + len(ids) for p, ids in rows], kind="stable")
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        for layer, found in _read(model, [rows[r] for r in batch], grid, wanted).items():
            states[layer][batch] = found
        if progress:
            progress(len(batch))
    with atomic_path(Path(folder) / STATES_FILE) as part, Path(part).open("wb") as file:
        np.savez(file, traces=np.array(names), **{layer_name(n): s for n, s in states.items()})  # type: ignore[arg-type]  # arrays


@torch.inference_mode()
def _read(
    model: PreTrainedModel,
    rows: Sequence[tuple[list[int], list[int]]],
    grid: Sequence[int],
    layers: list[int],
) -> dict[int, npt.NDArray[np.float16]]:
    """Layer to (B, W + 1, D) states of B traces (prompt, tokens) at each point they reach."""
    width = max(len(p) + len(ids) for p, ids in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, (prompt, tokens) in enumerate(rows):  # padded behind, where nothing before sees it
        whole = [*prompt, *tokens]
        ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
    found = {}
    for layer, hidden in block_outputs(model, layers, input_ids=ids, attention_mask=mask).items():
        taken = np.zeros((len(rows), len(grid), hidden.shape[2]), np.float16)
        for row, (prompt, tokens) in enumerate(rows):
            reached = [point for point in grid if point <= len(tokens)]
            places = [len(prompt) - 1 + point for point in reached]
            taken[row, : len(reached)] = hidden[row, places].float().cpu().numpy()
        found[layer] = taken
    return found
