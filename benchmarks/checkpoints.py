"""What checkpoints cost beside the reasoning: asked and never stopping, with probes or not, and a plain run.

    python benchmarks/checkpoints.py [--engine vllm]

The embedded reasoner that doubts, batches of 64, a checkpoint every 8 and every 32 tokens; on vLLM greedily,
since its pieces have random streams of their own. The forecaster is untrained (its cost does not depend on
what it learned) and reads what the experiment's does: probabilities, the last block's state, and where it
probes, forced answers at words of doubt. Nothing is stopped, so that all ways reason through the same tokens,
in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import cast

import numpy as np

from ps_eval.demo import TEMPERATURE, TOP_P
from ps_eval.engines import load_engine
from ps_eval.engines.base import Request, Sampling, stream_of
from ps_eval.engines.prefill import PrefillEngine
from ps_eval.experiments.forecast import DOUBTING
from ps_eval.spending.rolling import Bools, Roller
from ps_train.embedded.problem_families import DOUBTS, make_problems
from ps_train.forecast.forecaster import Forecast, Forecaster, ForecastSchema, new_net
from ps_train.forecast.trace_features import TraceFeatures

LONGEST, WIDTH, LAYER = 320, 128, 6


class NeverStops:
    """A policy that lets every reasoning go on."""

    def begin(self, rows: int) -> None:
        """Nothing is shared."""

    def goes_on(self, forecast: Forecast, checkpoint: int, segment: int, ended: int) -> Bools:
        """All go on."""
        return np.ones(len(forecast.now), bool)


def roller(engine: PrefillEngine, every: int, probing: str, sampling: Sampling) -> Roller:
    """One that asks an untrained forecaster every so many tokens."""
    grid = list(range(every, LONGEST + 1, every))
    reads = TraceFeatures(words=False, probing=probing, layer=LAYER, width=WIDTH)  # type: ignore[arg-type]  # one of them
    settings = {"hidden_sizes": [256, 128], "num_members": 2, "dropout": 0.0}
    schema = ForecastSchema(grid, {"layer_3": WIDTH}, reads)
    forecaster = Forecaster(schema, new_net(schema, settings), settings)
    return Roller(engine, forecaster, NeverStops(), grid[:-1], sampling)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of checkpoints and probes beside a plain run.")
    parser.add_argument("--engine", default="transformers", choices=("transformers", "vllm"))
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    engine = cast(PrefillEngine, load_engine(arguments.engine, DOUBTING, batch_size=64))
    sampling = Sampling(0 if arguments.engine == "vllm" else TEMPERATURE, TOP_P, 0)
    ways = [(every, probing) for every in (32, 8) for probing in ("none", "doubts")]
    seconds: dict[tuple[int, str] | None, list[float]] = {way: [] for way in (None, *ways)}
    parts: dict[tuple[int, str], list[list[float]]] = {way: [] for way in ways}
    probes: dict[tuple[int, str], int] = dict.fromkeys(ways, 0)
    for number in range(arguments.rounds + 1):  # the first warms up
        made = make_problems(arguments.questions, 2000 + number, [DOUBTS])
        asked = [p.as_question(f"{number}-{i}") for i, p in enumerate(made)]
        start = time.perf_counter()
        plain = engine.reason([Request(q.question, LONGEST, stream_of(q.id)) for q in asked], sampling)
        took = [time.perf_counter() - start]
        for asking in ways:
            rolls = roller(engine, *asking, sampling)
            start = time.perf_counter()
            assert rolls.reason(asked) == plain, "checkpoints must change no token"
            took.append(time.perf_counter() - start)
            if number:
                parts[asking].append([rolls.seconds["checkpoints"], rolls.seconds["probes"]])
                probes[asking] += sum(rolls.probe_tokens.values())
        if number:
            for way, spent in zip(seconds, took, strict=True):
                seconds[way].append(spent)
    base = seconds[None]
    print(f"plain run: {statistics.median(base):.2f} s, {arguments.questions} reasonings a round")
    for way in ways:
        more = statistics.median(s / b for s, b in zip(seconds[way], base, strict=True)) - 1
        looks, asks = np.median(parts[way], axis=0)
        each, whole = probes[way] / arguments.rounds / arguments.questions, statistics.median(base)
        print(
            f"every {way[0]:2} tokens, probes {way[1]:6}: {100 * more:+.0f}% of the plain run; forecasts "
            f"{100 * looks / whole:.0f}%, probes {100 * asks / whole:.0f}% ({each:.1f} tokens a reasoning)"
        )


if __name__ == "__main__":
    main()
