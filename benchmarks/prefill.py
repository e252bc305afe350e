"""What predicting and allocating cost beside generating: in a forward pass of their own, on the prefill.

    python benchmarks/prefill.py
    python benchmarks/prefill.py --engine vllm     # where vLLM is installed

The embedded reasoner and its predictor in float32. Each round answers the same fresh problems three ways, in
turns: deciding in a pass of its own, on the prefill, and with the same budgets known beforehand. Budgets and
answers must be the same. Greedy: engines' random numbers are not what is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from ps_alloc import allocate
from ps_eval.demo import PREDICTOR, REASONER
from ps_eval.engines import load_engine
from ps_eval.engines.base import Request, Sampling
from ps_train.common.features import layers_by_model
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor

OWN, PREFILL, KNOWN = WAYS = ("a pass of its own", "on the prefill", "budgets known")


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of deciding in the time of a batch.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="transformers")
    arguments = parser.parse_args()
    engine: Any = load_engine(arguments.engine, REASONER, batch_size=512, dtype="float32")
    predictor = load_predictor(PREDICTOR)
    layers = layers_by_model(predictor.schema.features)["backbone"]
    sampling = Sampling(temperature=0)

    def answer(questions: list[str], way: str, known: list[int]) -> tuple[float, float, list]:
        """Seconds of deciding and of all, and what came of it."""
        if arguments.engine == "vllm":
            engine.llm.reset_prefix_cache()  # else the second way finds what the first has read
        start = time.perf_counter()
        prefilled = engine.prefill(questions, layers) if way == PREFILL else None
        ready = time.perf_counter()
        tokens = known
        if way != KNOWN:
            curves = predictor.predict_curves(prefilled.features if prefilled else questions)
            budget = arguments.budget * len(questions)
            tokens = allocate(curves, budget, window=predictor.window).tokens.tolist()
        decided = time.perf_counter()
        requests = [Request(q, b, i) for i, (q, b) in enumerate(zip(questions, tokens, strict=True))]
        reasonings = list(engine.reason(requests, sampling, prefilled=prefilled))
        answers = list(engine.answer(questions, reasonings))
        return decided - ready, time.perf_counter() - start, [tokens, reasonings, answers]

    for size in arguments.sizes:
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(arguments.rounds + 1):
            questions = [p.question for p in make_problems(size, 1000 + number)]
            results: list[list] = []
            for way in WAYS:
                deciding, whole, result = answer(questions, way, results[0][0] if results else [])
                results.append(result)
                if number:  # the first round warms up
                    seconds[way].append((deciding, whole))
            assert results[0] == results[1] == results[2], "all ways must give the same"
        for way, times in seconds.items():
            share = statistics.median(d / (w - d) for d, w in times)
            whole = statistics.median(w for _, w in times)
            ratio = statistics.median(w / v for (_, w), (_, v) in zip(times, seconds[KNOWN], strict=True))
            print(
                f"batch {size:3}, {way:17} deciding {100 * share:5.2f}% of the rest, "
                f"{whole:6.2f} s a batch, {ratio:.3f} of budgets known",
                flush=True,
            )


if __name__ == "__main__":
    main()
