"""What it costs to probe every trace at every window, beside sampling the traces alone (vLLM).

    python benchmarks/probing.py

Two engines in one process, with and without prefix caching; each round empties the cache, samples the traces,
then probes them, as `ps-eval trace` does with a chunk of questions. Tracing with probes is the sum of both.
"""

from __future__ import annotations

import argparse
import statistics
import time

from ps_eval.demo import REASONER, TEMPERATURE, TOP_P
from ps_eval.engines.base import Reasoning, Request, Sampling
from ps_eval.engines.vllm import VLLMEngine
from ps_train.embedded.problem_families import make_problems


def one_round(engine: VLLMEngine, texts: list[str], cuts: list[int], seed: int) -> tuple[float, float, list]:
    """Seconds to sample the traces and to probe them, from an empty cache; and the traces."""
    engine.llm.reset_prefix_cache()
    requests = [Request(text, cuts[-1], stream) for stream, text in enumerate(texts)]
    start = time.perf_counter()
    traces = engine.reason(requests, Sampling(TEMPERATURE, TOP_P, seed))
    sampled = time.perf_counter()
    engine.probe(texts, traces, cuts)
    return sampled - start, time.perf_counter() - sampled, list(traces)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of tracing with probes ÷ time of sampling alone.")
    parser.add_argument("--model", default=str(REASONER))
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    questions = [p.question for p in make_problems(arguments.questions, seed=77)]
    texts = [q for q in questions for _ in range(arguments.traces)]
    cuts = [arguments.window * (k + 1) for k in range(arguments.windows)]
    engines = {
        caching: VLLMEngine(arguments.model, dtype="float32", enable_prefix_caching=caching)
        for caching in (True, False)
    }
    seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for seed in range(arguments.rounds + 1):
        for caching, engine in engines.items():
            sample, probe, traces = one_round(engine, texts, cuts, seed)
            if seed:  # the first round warms up
                seconds[caching].append((sample, probe))
    whole = [t for t in traces if isinstance(t, Reasoning)]
    forced = sum(not t.cut(c).finished for t in whole for c in cuts)
    print(
        f"{len(texts)} traces of {statistics.mean(len(t.token_ids) for t in whole):.0f} tokens,"
        f" {forced} forced probes of {len(engine.forced_prefix)} tokens"
        f" + at most {engine.format.max_forced_tokens} decoded; medians of {arguments.rounds} rounds"
    )
    for caching, times in seconds.items():
        sample, probe = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median((s + p) / s for s, p in times)
        name = "prefix caching" if caching else "without (naive)"
        print(f"{name:16} sampling {sample:5.2f} s, probing {probe:5.2f} s, with probes ÷ alone {ratio:.2f}")


if __name__ == "__main__":
    main()
