"""What a partial pass of a diffusion model costs: milliseconds against rows recomputed.

    python benchmarks/diffusion_rows.py --picture docs/images/diffusion_rows.png
    python benchmarks/diffusion_rows.py --model checkpoints/tiny-diffusion --batches 1 32 --lengths 140 \
        --output runs/diffusion/costs.json

The engine's own pass (`ps_eval.diffusion.forward.read_pass`) on a random model, a few dozen masked positions
read, at several sequence lengths. Sizes take turns; medians are printed, and their ratio to a full pass.

With `--output`, what a pass costs by itself and for each row is fitted, for each number of sequences in a
pass: the prices of `ps-eval frontier --costs`. Seconds are then CPU seconds: other work on the machine counts
little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import Qwen2Config, Qwen2ForCausalLM

from ps_alloc.files import atomic_path, write_json
from ps_eval.diffusion.forward import Request, read_pass
from ps_eval.diffusion.models import DiffusionModel, as_diffusion_model, load_diffusion_model
from ps_eval.diffusion.row_cache import RowCache

VOCABULARY, EOS, MASK = 4000, 1, 3999
ROWS = (8, 16, 32, 64, 128, 256, 512, 1024)


def make_model(hidden_size: int, num_layers: int) -> DiffusionModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=hidden_size // 64,
        eos_token_id=EOS,
    )
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    model.config.mask_token_id = MASK
    return as_diffusion_model(model)


def time_passes(
    model: DiffusionModel,
    length: int,
    repeats: int,
    batch_size: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Median milliseconds of a pass by rows recomputed of each sequence; `length` rows are a full pass."""
    mask = model.mask_id
    tokens = np.random.default_rng(0).integers(2, mask, length)
    tokens[length // 2 :] = mask
    cache = RowCache(model.model.config.num_hidden_layers, length)
    sizes = [n for n in ROWS if n < length] + [length]

    def run(size: int) -> float:
        first = min(length // 2, length - size)
        rows = np.arange(first, first + size)
        masked = rows[tokens[rows] == mask][:32]
        request = Request(tokens, rows, length, masked, np.empty(0, np.intp))
        started = clock()
        read_pass(model, cache, [request] * batch_size)
        return 1000 * (clock() - started)

    run(length)  # fills the cache
    for size in sizes:
        run(size)
    measured: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            measured[size].append(run(size))
    return {size: float(np.median(times)) for size, times in measured.items()}


def fit_costs(model: DiffusionModel, length: int, repeats: int, batches: list[int]) -> list[dict[str, float]]:
    """Milliseconds of a pass and of a row, least squares of the relative error, for each batch size."""
    entries = []
    for batch_size in batches:
        measured = time_passes(model, length, repeats, batch_size, clock=time.process_time)
        rows, ms = np.array(list(measured), float) * batch_size, np.array(list(measured.values()))
        columns = np.stack([np.ones_like(rows), rows], axis=1) / ms[:, None]
        (pass_ms, row_ms), *_ = np.linalg.lstsq(columns, np.ones_like(ms), rcond=None)
        entries.append({"batch_size": batch_size, "pass_ms": float(pass_ms), "row_ms": float(row_ms)})
        error = np.abs((pass_ms + row_ms * rows) / ms - 1).max()
        print(
            f"batch {batch_size}: {pass_ms:.2f} ms a pass and {1000 * row_ms:.1f} microseconds a row; "
            f"off by {100 * error:.0f}% at most"
        )
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--picture", help="PNG to write")
    parser.add_argument("--model", help="time this model instead of a random one")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="sequences of a pass")
    parser.add_argument("--output", help="JSON of fitted costs to write; nothing else is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.model:
        model = load_diffusion_model(arguments.model)
    else:
        model = make_model(arguments.hidden_size, arguments.num_layers)
    if arguments.output:
        entries = fit_costs(model, arguments.lengths[0], arguments.repeats, arguments.batches)
        write_json(Path(arguments.output), {"batches": entries})
        return
    print(f"width {arguments.hidden_size}, {arguments.num_layers} layers, {torch.get_num_threads()} threads")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for length in arguments.lengths:
        milliseconds = time_passes(model, length, arguments.repeats)
        full = milliseconds[length]
        for size, value in milliseconds.items():
            times = full / value
            print(f"T = {length}: {size:4d} rows  {value:7.2f} ms; a full pass takes {times:5.1f} times that")
        panel.plot(list(milliseconds), list(milliseconds.values()), marker="o", label=f"T = {length}")
    panel.set_xlabel("rows recomputed")
    panel.set_ylabel("ms a pass (median)")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.legend(frameon=False)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if arguments.picture:
        with atomic_path(arguments.picture) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


if __name__ == "__main__":
    main()
