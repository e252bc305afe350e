"""Peak memory of probing long traces on the transformers engine, by their length.

    python benchmarks/probing_memory.py

Each length is probed in a process of its own, on a random model of the embedded reasoner's width; the memory
before probing is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KIB_A_GIB = 2**20


def probe_once(folder: str, length: int, rows: int, cuts: int) -> dict[str, float]:
    import numpy as np

    from ps_eval.engines.base import Reasoning
    from ps_eval.engines.transformers import TransformersEngine
    from ps_train.embedded.problem_families import make_problems

    engine = TransformersEngine(folder, batch_size=rows, device="cpu")
    words = np.random.default_rng(0).integers(10, 200, size=(rows, length)).tolist()
    traces = [Reasoning(tuple(row), finished=False) for row in words]
    questions = [p.question for p in make_problems(rows, seed=1)]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    engine.probe(questions, traces, [length * (k + 1) // cuts for k in range(cuts)])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"GiB": grown / KIB_A_GIB, "seconds": time.perf_counter() - start}


def save_model(folder: str, longest: int) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from ps_eval.demo import REASONER

    tokenizer = AutoTokenizer.from_pretrained(REASONER)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=longest + 1024,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of probing, by the length of the traces.")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--cuts", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder, length = arguments.one
        print(json.dumps(probe_once(folder, int(length), arguments.rows, arguments.cuts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, max(arguments.lengths))
        print(
            f"{arguments.rows} traces probed at {arguments.cuts} lengths each; 2 layers, width 128, float32"
        )
        for length in arguments.lengths:
            command = [sys.executable, str(Path(__file__)), "--one", folder, str(length)]
            options = ["--rows", str(arguments.rows), "--cuts", str(arguments.cuts)]
            output = subprocess.run(command + options, capture_output=True, text=True, check=True).stdout
            found = json.loads(output.splitlines()[-1])
            print(f"{length:6} tokens: {found['GiB']:.2f} GiB more, {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
