"""Learning by watching: what predictors learned from a gateway's log are worth, beside one that was traced.

    python benchmarks/traffic_loop.py --vllm-python .venv-vllm/bin/python --output runs/loop

A real vLLM server with the embedded reasoner and a real `ps-eval serve` before it. In round 0 the gateway
watches (`--observe`) requests that bring the same budget all of them (a third is cut), a few a large one;
nobody grades anything. From the log alone (`ps-eval import-samples`, censored) two predictors are learned: an
MLP on the served model's states, as the shipped one, and a light one. Each further round serves fresh
problems under the budgets of the predictor (`--policy`) that the round before left, explores, and learns from
its own log alone. All are replayed on traced test problems at equal tokens used, beside the shipped
predictors, which learned from 2,560 traced and probed problems. What is there already is not done again, down
to single requests: `--minutes` ends a piece of the work, and the same command goes on.

`--simulate` needs no server: each problem is reasoned about once without a budget (transformers engine), cut
where it was granted less, as a server with the same random numbers would have been.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from gateway_process import running_gateway

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "real_vllm"))

from ps_alloc import Pacer  # noqa: E402
from ps_alloc.files import atomic_path, write_json  # noqa: E402
from ps_eval.demo import PREDICTOR, PREDICTOR_CONFIG, REASONER, TEMPERATURE, TOP_P  # noqa: E402
from ps_eval.engines import load_engine  # noqa: E402
from ps_eval.engines.base import Request, Sampling, stream_of  # noqa: E402
from ps_eval.fitting import fit_quietly  # noqa: E402
from ps_eval.logs.prepare import prepare  # noqa: E402
from ps_eval.logs.table import to_table  # noqa: E402
from ps_eval.measuring.probing import measure_curves  # noqa: E402
from ps_eval.reporting.frontier import EqualUse  # noqa: E402
from ps_eval.spending.replay import replay  # noqa: E402
from ps_eval.spending.replay_inputs import predict_table  # noqa: E402
from ps_train.curve_table import CURVES_FILE, CurveTable  # noqa: E402
from ps_train.embedded.problem_families import make_problems  # noqa: E402
from ps_train.light.fit import fit_light  # noqa: E402
from ps_train.load import load_predictor  # noqa: E402
from ps_train.questions import Question  # noqa: E402

MARKERS = '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'
LIGHT = PREDICTOR.parent / "tiny-light"
GRID = 16 * np.arange(1, 17)
RIGHT = 0.85
"""Stated share of finished answers that are right; of all questions the same, it decides nothing."""


def questions_of(name: str, number: int, seed: int) -> list[Question]:
    return [p.as_question(f"{name}-{i}") for i, p in enumerate(make_problems(number, seed))]


async def ask_all(
    url: str,
    questions: Sequence[Question],
    budgets: dict[str, int],
    arguments: argparse.Namespace,
) -> None:
    """Ask until `arguments.end`; a question's id is its request's."""
    todo = iter(questions)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def client() -> None:
            for question in todo:
                if time.monotonic() > arguments.end:
                    return
                body = {
                    "model": REASONER.name,
                    "messages": [{"role": "user", "content": question.question}],
                    "temperature": TEMPERATURE,
                    "top_p": TOP_P,
                    "seed": arguments.seed + stream_of(question.id, 0) % 2**40,
                    "max_tokens": 300,
                }
                if question.id in budgets:
                    body["thinking_token_budget"] = budgets[question.id]
                headers = {"x-request-id": question.id}
                async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                    text = await response.text()
                    if response.status != 200:
                        raise SystemExit(f"request {question.id}: {response.status} {text}")

        await asyncio.gather(*(client() for _ in range(arguments.concurrency)))


def serve_round(folder: Path, url: str, predictor: Path | None, arguments: argparse.Namespace) -> bool:
    """One round's traffic through a gateway, to `folder/decisions.jsonl`; whether it is complete."""
    asked, rng = questions_of_round(folder, arguments)
    log = folder / "decisions.jsonl.part"
    done = answered(log)
    todo = [question for question in asked if question.id not in done]
    flags = ["--upstream", url, "--decision-log", str(log), "--decision-questions", "text"]
    flags += ["--reasoning-format", str(REASONER), "--predict-timeout", "3600", "--timeout", "7200"]
    flags += ["--connect-timeout", "600"]
    budgets = {}
    if predictor is None:
        flags += ["--tokens-per-request", str(arguments.uniform), "--observe"]
        large = rng.random(len(asked)) < arguments.explore
        sizes = np.where(large, GRID[-1], arguments.uniform).tolist()
        budgets = dict(zip([question.id for question in asked], sizes, strict=True))
    else:
        flags += ["--tokens-per-request", str(arguments.target), "--explore", str(arguments.explore)]
        flags += ["--predictor", str(predictor), "--initial-price", "0.005"]
        flags += ["--explore-tokens", str(GRID[-1]), "--state", str(folder / "price.json")]
    with running_gateway(folder / "gateway.log", *flags) as gateway:
        asyncio.run(ask_all(gateway.url, todo, budgets, arguments))
    done = answered(log)
    print(f"{folder.name}: {len(done)} of {len(asked)} requests answered", flush=True)
    if len(done) < len(asked):
        return False
    log.rename(folder / "decisions.jsonl")
    return True


def questions_of_round(
    folder: Path, arguments: argparse.Namespace
) -> tuple[list[Question], np.random.Generator]:
    number = int(folder.name.partition("-")[2])
    seed = arguments.seed + 1000 * (number + 1)
    return questions_of(folder.name, arguments.requests, seed), np.random.default_rng(seed)


def answered(log: Path) -> set[str]:
    """Ids of a log's answered requests; lines of others, and one that was cut, are taken out."""
    rows = {}
    for line in log.read_text("utf-8").splitlines() if log.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["outcome"] == "ok":
            rows[row["request_id"]] = row
    write_jsonl(log, list(rows.values()))
    return set(rows)


def simulate_round(folder: Path, predictor: Path | None, arguments: argparse.Namespace) -> None:
    """The same lines from whole traces, cut at the grants that the gateway's pacer decides."""
    asked, rng = questions_of_round(folder, arguments)
    engine = load_engine("transformers", REASONER, batch_size=256)
    requests = [Request(q.question, int(GRID[-1]), stream_of(q.id, 0)) for q in asked]
    traces = engine.reason(requests, Sampling(TEMPERATURE, TOP_P, arguments.seed))
    rows: list[dict[str, Any]] = []
    curves = None
    if predictor is not None:
        curves = load_predictor(predictor).predict([q.question for q in asked]).curves
        pacer = Pacer(arguments.target, window=16, max_windows=16, step=0.01, initial_price=0.005)
    for place, (question, trace) in enumerate(zip(asked, traces, strict=True)):
        explored = bool(rng.random() < arguments.explore)
        granted = int(GRID[-1]) if explored else arguments.uniform
        row = {"request_id": question.id, "questions": [{"text": question.question}], "sequences": 1}
        if curves is not None:
            row |= {"curve": np.round(curves[place], 4).tolist(), "budgets": GRID.tolist()}
            if explored:
                pacer.charge(granted, 1)
            else:
                granted = int(pacer.decide(curves[place]))
        cut = trace.cut(granted)
        row |= {"granted": granted, "explored": explored, "enforced": True, "used": len(cut.token_ids)}
        rows.append(row | {"finish_reason": "stop", "model": REASONER.name})
    write_jsonl(folder / "decisions.jsonl", rows)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def learn(folder: Path, kinds: Sequence[str]) -> None:
    """From the log to a table and the predictors of these kinds."""
    found = prepare([str(folder / "decisions.jsonl")], right=RIGHT)
    (samples,) = found.groups.values()
    if not (folder / "table" / CURVES_FILE).is_file():
        to_table(samples, budgets=GRID, metadata={"model": str(REASONER)}).save(folder / "table")
    table = CurveTable.load(folder / "table", features=[])
    if not (folder / "light" / "config.json").is_file():
        fit_light(table).save(folder / "light")
    if "mlp" in kinds and not (folder / "mlp" / "predictor" / "config.json").is_file():
        shutil.rmtree(folder / "mlp", ignore_errors=True)
        flags = ["--config", str(PREDICTOR_CONFIG), "--trainer.default_root_dir", str(folder / "mlp")]
        flags += ["--data.train", str(folder / "table"), "--data.backbone", str(REASONER)]
        fit_quietly([*flags, "--data.extraction.cache", str(folder / "features")], folder.name)


def gains(predictor: Path, test: Path, measured: CurveTable, used: Sequence[float]) -> list[EqualUse]:
    """At equal tokens used: `uniform` and the allocation priced by predicted use."""
    predicted, _ = predict_table(predictor, test)
    replayed = replay(
        measured,
        budgets=[16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160],
        policies=["uniform", "use"],
        predictions=predicted,
        used_levels=used,
        min_windows=0,
    )
    return [row for row in replayed.equal_use if row.policy == "use"]


def traffic(folder: Path) -> str:
    lines = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    found = prepare([str(folder / "decisions.jsonl")], right=RIGHT)
    (samples,) = found.groups.values()
    cut = float(np.mean([not sample.finished for sample in samples]))
    budgets = [line["granted"] if line["enforced"] else line["own_budget"] for line in lines]
    granted = float(np.mean(budgets))
    explored = sum(line["explored"] or line.get("own_budget") == GRID[-1] for line in lines)
    used = float(np.mean([sample.tokens for sample in samples]))
    return f"{len(samples)} | {granted:.1f} | {used:.1f} | {100 * cut:.0f}% | {explored}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm-python", default=sys.executable)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--policy", choices=("mlp", "light"), default="mlp")
    parser.add_argument("--kinds", nargs="+", default=["light", "mlp"], help="learned in every round")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further predictors to replay")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "loop")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uniform", type=int, default=96)
    parser.add_argument("--target", type=int, default=64)
    parser.add_argument("--explore", type=float, default=0.02)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--used", type=float, nargs="+", default=[32, 48, 64])
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no request is begun")
    parser.add_argument("--seed", type=int, default=70_000)
    arguments = parser.parse_args()
    arguments.end = time.monotonic() + 60 * arguments.minutes
    output = arguments.output.resolve()
    rounds = [output / f"round-{number}" for number in range(arguments.rounds + 1)]
    for folder in rounds:
        folder.mkdir(parents=True, exist_ok=True)

    measured = measure_curves(
        questions_of("test", arguments.test, 202),
        load_engine("transformers", REASONER, batch_size=256),
        output / "test",
        num_traces=4,
        sampling=Sampling(TEMPERATURE, TOP_P, 0),
    )
    others = {"shipped mlp": PREDICTOR, "shipped light": LIGHT} | {f"also {p}": p for p in arguments.also}
    found = {name: gains(p, output / "test", measured, arguments.used) for name, p in others.items()}
    said = {}
    folders = {"mlp": lambda folder: folder / "mlp" / "predictor", "light": lambda folder: folder / "light"}
    with ExitStack() as stack:
        url = None
        for number, folder in enumerate(rounds):
            if not (folder / "decisions.jsonl").is_file():
                before = folders[arguments.policy](rounds[number - 1]) if number else None
                if arguments.simulate:
                    simulate_round(folder, before, arguments)
                elif url is None:
                    from vllm_server import running_server

                    server = running_server(
                        REASONER,
                        output / "vllm.log",
                        *("--reasoning-config", MARKERS),
                        python=arguments.vllm_python,
                    )
                    url = stack.enter_context(server).url
                if url is not None and not serve_round(folder, url, before, arguments):
                    raise SystemExit("the time is over; the same command goes on")
            kinds = sorted({*arguments.kinds, arguments.policy})
            learn(folder, kinds)
            said[folder.name] = traffic(folder)
            for kind in kinds:
                rows = gains(folders[kind](folder), output / "test", measured, arguments.used)
                found[f"{folder.name} {kind}"] = rows
                line = ", ".join(f"{r.used:.0f}: {100 * r.gains['uniform'][0]:+.1f}" for r in rows)
                print(f"{folder.name} {kind}: {line}", flush=True)

    write_json(output / "loop.json", {name: [vars(row) for row in rows] for name, rows in found.items()})
    levels = [f"{level:g}" for level in arguments.used]
    print(f"| round | requests | granted | used | cut | explored | predictor | {' | '.join(levels)} |")
    print("|" + "---|" * (7 + len(levels)))
    for name, rows in found.items():
        at, _, kind = name.partition(" ")
        cells = []
        for row in rows:
            gain, low, high = (100 * value for value in row.gains["uniform"])
            cells.append(f"{100 * row.accuracy:.1f} (+{gain:.1f} [{low:.1f}, {high:.1f}])")
        print(f"| {at} | {said.get(at, '– | – | – | – | –')} | {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
