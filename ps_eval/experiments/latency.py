"""What deciding costs beside generating, by batch size, and from how many saved tokens on it pays."""

from __future__ import annotations

import time

import numpy as np

from ps_alloc import allocate
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P
from ps_eval.engines import load_engine
from ps_eval.engines.base import Sampling
from ps_eval.engines.pool import OneEngine
from ps_eval.engines.shared_prefill import shared_prefill
from ps_eval.reporting.record import Outcome
from ps_eval.reporting.tables import Cell, ResultTable, number
from ps_eval.spending.live import LiveAnswer, answer_within
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor


def latency(
    *,
    engines: list[str],
    batch_sizes: list[int],
    budget: int,
    num_repeats: int = 3,
    seed: int = 0,
) -> Outcome:
    """Seconds by phase on the embedded reasoner: predict, allocate, generate; medians of repeats.

    On the transformers engine prompts are read once for both, which counts as generating.

    Args:
        engines: Names of engines, such as transformers, vllm.
        batch_sizes: Queries predicted, allocated and answered together.
        budget: Mean tokens per query allowed.
        num_repeats: Fresh batches a cell.
        seed: Of the problems.
    """
    predictor = load_predictor(PREDICTOR)
    rows: list[list[str]] = []
    shares = []
    for name in engines:
        engine = load_engine(name, REASONER)
        for size in batch_sizes:
            measured = []
            for repeat in range(num_repeats + 1):  # the first warms up
                problems = make_problems(size, seed + repeat)
                asked = [p.as_question(f"latency-{repeat}-{i}") for i, p in enumerate(problems)]
                texts = [q.question for q in asked]
                start = time.perf_counter()
                with shared_prefill(predictor, OneEngine(engine), texts) as features:
                    read = (
                        time.perf_counter()
                    )  # what generation would have read itself is no cost of deciding
                    curves = predictor.predict_curves(texts if features is None else features)
                    predicted = time.perf_counter()
                    allocation = allocate(curves, budget * size, window=predictor.window)
                    allocated = time.perf_counter()
                    sampling = Sampling(TEMPERATURE, TOP_P, seed)
                    answers = answer_within(asked, allocation.tokens.tolist(), engine, sampling)
                generated = time.perf_counter()
                given = [a for a in answers if isinstance(a, LiveAnswer)]
                tokens = sum(a.reasoning_tokens + a.answer_tokens for a in given)
                seconds = predicted - read, allocated - predicted, generated - allocated + read - start
                measured.append((*seconds, tokens))
            predict, choose, generate, tokens_median = np.median(measured[1:], axis=0)
            share = (predict + choose) / (predict + choose + generate)
            even = (predict + choose) / (generate / tokens_median) / size
            shares.append(share)
            rows.append(
                [
                    f"{name}, {size}",
                    number(1000 * predict, ".1f", "milliseconds"),
                    number(1000 * choose, ".2f", "milliseconds"),
                    number(1000 * generate, ".0f", "milliseconds"),
                    Cell(f"{100 * share:.2f}%", share=share),
                    number(even, ".2f", "tokens"),
                ]
            )
    table = ResultTable(
        f"Milliseconds a batch at {budget} mean tokens, medians of {num_repeats}",
        [
            "engine, batch",
            "predict",
            "allocate",
            "generate",
            "share of deciding",
            "break-even, tokens a query",
        ],
        rows,
    )
    finding = (
        f"Deciding takes {100 * min(shares):.2f} to {100 * max(shares):.2f}% of the time. Break-even is how "
        "many generated tokens a query take as long as deciding: saving more than that pays."
    )
    return Outcome([table], finding)
