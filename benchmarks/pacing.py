"""How well requests are paced one at a time: share of the offline optimum kept, and spending against the
rate.

    python benchmarks/pacing.py

Streams of 12,000 S-shaped curves at 96 tokens a request, whose mix of easy and hard requests stays, drifts,
jumps or swings. The offline optimum sees the whole stream and spends what the policy spent. Then long
budgets, and what bad neighbours leave to the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ps_alloc import Pacer, allocate

N, W, RATE = 12_000, 16, 96
GRID = 256 * 2 ** np.arange(10)  # to 131,072 tokens


def stream(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    position = np.arange(N) / N
    hard = {
        "i.i.d.": np.full(N, 0.5),
        "drift": position,
        "jump": np.where(position < 0.5, 0.2, 0.8),
        "sine": 0.5 + 0.4 * np.sin(6 * np.pi * position),
    }[kind]
    middle = np.where(rng.random(N) < hard, rng.normal(10, 2, N), rng.normal(4, 1.5, N))[:, None]
    curves = rng.uniform(0.3, 1, (N, 1)) / (1 + np.exp(-(np.arange(1, W + 1) - middle)))
    return np.clip(curves + rng.normal(0, 0.02, curves.shape), 0, 1)


def paced(curves: npt.NDArray[np.float64], **settings: float) -> npt.NDArray[np.int64]:
    pacer = Pacer(RATE, **settings)  # type: ignore[arg-type]
    return np.array([pacer.decide(curve).windows for curve in curves])


def batched(curves: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    parts = [curves[begin : begin + size] for begin in range(0, len(curves), size)]
    return np.concatenate([allocate(part, RATE * len(part)).windows for part in parts])


def long_stream(rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Accuracy and expected use of requests whose lengths are log-normal, over four orders of magnitude."""
    middle = rng.lognormal(8, 1.2, (8000, 1))
    spread = np.exp(0.7 * rng.normal(size=400))
    use = np.stack([np.minimum(middle * spread, budget).mean(axis=1) for budget in GRID], axis=1)
    ended = np.stack([(middle * spread <= budget).mean(axis=1) for budget in GRID], axis=1)
    return rng.uniform(0.2, 1, (8000, 1)) * ended, use


def long_budgets(rate: int) -> None:
    """How a real reasoner's budgets are paced: a geometric grid, priced by expected use."""
    curves, use = long_stream(np.random.default_rng(0))
    past, past_use = (part[:1000] for part in long_stream(np.random.default_rng(1)))
    price = allocate(past, rate * 1000, budgets=GRID, use=past_use).price
    for name, start in (("cold", None), ("price of 1,000 requests of another day", price)):
        pacer = Pacer(rate, budgets=GRID, initial_price=start)
        grants = [pacer.decide(curve, use=used) for curve, used in zip(curves, use, strict=True)]
        windows = np.array([grant.windows for grant in grants])
        used = np.array([grant.expected_used for grant in grants])
        offline = allocate(curves, int(used.sum()), budgets=GRID, use=use, leftover="keep").expected_accuracy
        kept = curves[np.arange(len(curves)), windows - 1].mean() / (offline or 1.0)
        debt = np.max(np.cumsum(used / rate - 1))
        print(
            f"| {rate:,} | Pacer, {name} | {kept:.4f} | {used.mean() / rate:.4f} | {debt:.0f} |", flush=True
        )


def quiet(pacer: Pacer) -> None:
    for _ in range(20_000):
        pacer.decide(np.full(W, 0.5))


def heavy(pacer: Pacer) -> None:
    for _ in range(5000):
        pacer.charge(256)


def greedy(pacer: Pacer) -> None:
    pacer.decide(np.linspace(0, 1, W), sequences=16_384)


def probes(pacer: Pacer) -> None:
    for _ in range(3000):
        pacer.decide(np.linspace(0, 1, W), limit=16)


def after(what_comes: Callable[[Pacer], None]) -> tuple[float, float, float]:
    """Mean tokens of the next 900 and 40,000 requests, and the move of the price."""
    curves = np.concatenate([stream("i.i.d.", np.random.default_rng(seed)) for seed in range(4)])
    pacer = Pacer(RATE)
    for curve in curves[:1000]:
        pacer.decide(curve)
    price = pacer.price
    what_comes(pacer)
    move = pacer.price / price
    tokens = np.array([int(pacer.decide(curve)) for curve in curves[1000:41_000]])
    return float(tokens[:900].mean()), float(tokens.mean()), move


def main() -> None:
    print(
        "| stream | policy | value / offline optimum | spent / allowed | worst overspend, requests' worth |"
    )
    print("|---|---|---|---|---|")
    for kind in ("i.i.d.", "drift", "jump", "sine"):
        kept, spent, debt = {}, {}, {}
        for seed in range(3):
            curves = stream(kind, np.random.default_rng(seed))
            history = stream(kind, np.random.default_rng(100 + seed))[:1000]
            price = allocate(history, RATE * 1000).price or 0.003
            policies = {
                "Pacer, cold": paced(curves),
                "Pacer, price of the first 1,000 requests of another day": paced(curves, initial_price=price),
                "that price, fixed": paced(curves, initial_price=price, step=0.0),
                "micro-batches of 8": batched(curves, 8),
                "micro-batches of 32": batched(curves, 32),
                "micro-batches of 128": batched(curves, 128),
            }
            for name, windows in policies.items():
                offline = allocate(curves, int(windows.sum()) * 16, leftover="keep").expected_accuracy or 0.0
                kept.setdefault(name, []).append(curves[np.arange(N), windows - 1].mean() / offline)
                spent.setdefault(name, []).append(windows.mean() * 16 / RATE)
                debt.setdefault(name, []).append(np.max(np.cumsum(windows * 16 / RATE - 1)))
        for name, shares in kept.items():
            numbers = f"{np.mean(shares):.4f} | {np.mean(spent[name]):.4f} | {np.max(debt[name]):.0f}"
            print(f"| {kind} | {name} | {numbers} |", flush=True)

    print("\n| mean tokens used | policy | value / offline optimum | used / allowed | worst overspend |")
    print("|---|---|---|---|---|")
    for rate in (1000, 2000, 4000):
        long_budgets(rate)

    print("\n| what came before | the next 900 requests, mean | the next 40,000 | the price moved by |")
    print("|---|---|---|---|")
    for name, what_comes in {
        "nothing": lambda pacer: None,
        "20,000 requests that no budget would help": quiet,
        "5,000 requests of 256 tokens, charged from elsewhere": heavy,
        "one request for 16,384 answers": greedy,
        "3,000 requests whose client allows 16 tokens": probes,
    }.items():
        print("| {} | {:.1f} | {:.1f} | × {:.2f} |".format(name, *after(what_comes)), flush=True)


if __name__ == "__main__":
    main()
