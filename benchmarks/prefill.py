"""What predicting and allocating cost beside generating: in a forward pass of their own, on the prefill.

    python benchmarks/prefill.py

The embedded reasoner and its predictor on the transformers engine. Each round answers the same fresh problems
both ways, in turns; budgets and answers must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import time

from ps_alloc import allocate
from ps_eval.demo import PREDICTOR, REASONER, TEMPERATURE, TOP_P
from ps_eval.engines.base import Request, Sampling
from ps_eval.engines.transformers import TransformersEngine
from ps_train.common.blocks import text_decoder
from ps_train.common.features import layers_by_model
from ps_train.embedded.problem_families import make_problems
from ps_train.load import load_predictor


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of deciding in the time of a batch.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    engine, predictor = TransformersEngine(REASONER, batch_size=512), load_predictor(PREDICTOR)
    predictor.attach_backbone(text_decoder(engine.model), engine.tokenizer)
    layers = layers_by_model(predictor.schema.features)["backbone"]
    sampling = Sampling(TEMPERATURE, TOP_P, 0)

    def answer(questions: list[str], rides: bool) -> tuple[float, float, list]:
        """Seconds of deciding and of all, and what came of it."""
        start = time.perf_counter()
        prefilled = engine.prefill(questions, layers) if rides else None
        ready = time.perf_counter()
        curves = predictor.predict_curves(prefilled.features if prefilled else questions)
        tokens = allocate(curves, arguments.budget * len(questions), window=predictor.window).tokens.tolist()
        decided = time.perf_counter()
        requests = [Request(q, b, i) for i, (q, b) in enumerate(zip(questions, tokens, strict=True))]
        reasonings = engine.reason(requests, sampling, prefilled=prefilled)
        answers = engine.answer(questions, reasonings)
        return decided - ready, time.perf_counter() - start, [tokens, reasonings, answers]

    for size in arguments.sizes:
        seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for number in range(arguments.rounds + 1):
            questions = [p.question for p in make_problems(size, 1000 + number)]
            results = []
            for rides in (False, True):
                deciding, whole, result = answer(questions, rides)
                results.append(result)
                if number:  # the first round warms up
                    seconds[rides].append((deciding, whole))
            assert results[0] == results[1], "the two ways must give the same"
        for rides, times in seconds.items():
            share = statistics.median(d / (w - d) for d, w in times)
            whole = statistics.median(w for _, w in times)
            ratio = statistics.median(w / v for (_, w), (_, v) in zip(times, seconds[False], strict=True))
            name = "on the prefill" if rides else "a pass of its own"
            print(
                f"batch {size:3}, {name:17} deciding {100 * share:5.2f}% of the rest, "
                f"{whole:6.2f} s a batch, {ratio:.3f} of the first way",
                flush=True,
            )


if __name__ == "__main__":
    main()
