"""Live accuracy through the gateway at equal mean budgets: predicted and paced against uniform.

    .venv-vllm/bin/python benchmarks/gateway_accuracy.py --output runs/gateway

A real vLLM server with the embedded reasoner, a real `ps-eval serve` a cell, `--concurrency` clients, fresh
problems. The same problem has the same seed in every cell. The pacer starts from the price of allocating to
other problems (`--past-questions`). Every budget is checked by counting the response's tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from gateway_process import running_gateway
from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "real_vllm"))

from vllm_server import running_server  # noqa: E402

from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P  # noqa: E402
from ps_eval.grading import extract_answer, is_correct  # noqa: E402
from ps_eval.reporting.summary import PhaseTimer, Summary, collect_run_info, print_table  # noqa: E402
from ps_eval.spending.scoring import summarise  # noqa: E402
from ps_train.embedded.problem_families import make_problems  # noqa: E402
from ps_train.questions import Question, save_questions  # noqa: E402

THINK_END_ID = 4
MARKERS = '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'


@dataclass
class Answered:
    """One problem's way through the gateway."""

    budget: int
    reasoning_tokens: int
    answer_tokens: int
    forced: bool
    correct: bool


async def ask_all(url: str, model: str, questions: list[Question], concurrency: int) -> list[Answered]:
    """In the order of the questions."""
    answers: dict[int, Answered] = {}
    todo = iter(enumerate(questions))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def client() -> None:
            for number, question in todo:
                body = {
                    "model": model,
                    "messages": [{"role": "user", "content": question.question}],
                    "temperature": TEMPERATURE,
                    "top_p": TOP_P,
                    "seed": number,
                    "max_tokens": 300,
                    "return_token_ids": True,
                }
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    response.raise_for_status()
                    content = await response.json()
                    budget = int(response.headers["x-ps-budget"])
                    if "x-ps-fallback" in response.headers:
                        raise RuntimeError(f"no prediction: {response.headers['x-ps-fallback']}")
                choice = content["choices"][0]
                ids = choice["token_ids"]
                reasoned = ids.index(THINK_END_ID) if THINK_END_ID in ids else len(ids)
                if reasoned > budget:
                    raise RuntimeError(
                        f"{question.id} reasoned for {reasoned} tokens, its budget was {budget}"
                    )
                text = choice["message"]["content"].partition("</think>")[2]
                correct = is_correct(extract_answer(text), question.answer)
                answers[number] = Answered(budget, reasoned, len(ids) - reasoned, reasoned == budget, correct)

        await asyncio.gather(*(client() for _ in range(concurrency)))
    return [answers[number] for number in range(len(questions))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gateway")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--targets", type=int, nargs="+", default=[40, 48, 64, 96])
    parser.add_argument("--pace", choices=("granted", "used"), default="granted")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=50_000)
    arguments = parser.parse_args()
    folder, timer = arguments.output, PhaseTimer()
    folder.mkdir(parents=True, exist_ok=True)
    problems = make_problems(arguments.problems, arguments.seed)
    questions = [problem.as_question(f"gateway-{i}") for i, problem in enumerate(problems)]
    past = make_problems(1000, arguments.seed + 1)
    save_questions(
        folder / "past.jsonl", [problem.as_question(f"past-{i}") for i, problem in enumerate(past)]
    )

    cells: dict[tuple[str, int], list[Answered]] = {}
    with running_server(REASONER, folder / "vllm.log", "--reasoning-config", MARKERS) as server:
        for target in arguments.targets:
            for policy in ("uniform", "paced"):
                flags = ["--upstream", server.url, "--tokens-per-request", str(target)]
                flags += ["--pace", arguments.pace, "--predict-timeout", "3600", "--timeout", "7200"]
                if policy == "paced":
                    flags += ["--predictor", str(PREDICTOR), "--past-questions", str(folder / "past.jsonl")]
                with (
                    running_gateway(folder / f"{policy}-{target}.log", *flags) as gateway,
                    timer.phase("generate"),
                ):
                    asked = ask_all(gateway.url, server.model, questions, arguments.concurrency)
                    cells[policy, target] = asyncio.run(asked)
                    paced = gateway.metric("ps_gateway_paced_tokens_mean")
                answers = cells[policy, target]
                granted = float(np.mean([a.budget for a in answers]))
                used = float(np.mean([a.reasoning_tokens for a in answers]))
                right = 100 * float(np.mean([a.correct for a in answers]))
                print(
                    f"{policy:8s} target {target}: granted {granted:.2f} "
                    f"({100 * (granted / target - 1):+.2f}%), used {used:.2f}, as paced {paced:.2f}, "
                    f"right {right:.1f}%",
                    flush=True,
                )
    rows = summarise(
        "live",
        {cell: np.array([a.correct for a in found], dtype=float) for cell, found in cells.items()},
        reasoning_tokens={
            c: float(np.mean([a.reasoning_tokens for a in found])) for c, found in cells.items()
        },
        answer_tokens={c: float(np.mean([a.answer_tokens for a in found])) for c, found in cells.items()},
        forced={c: float(np.mean([a.forced for a in found])) for c, found in cells.items()},
    )
    config = {name: str(value) for name, value in vars(arguments).items()}
    Summary(rows, collect_run_info(config, arguments.seed, timer.seconds)).save(folder)
    print_table(rows, Console())


if __name__ == "__main__":
    main()
