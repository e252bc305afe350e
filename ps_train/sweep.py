"""Which layer knows most about a question's curve: one small predictor a layer (`ps-train sweep`).

All layers come from one forward pass a prompt. A layer's predictor is a curve MLP whose ensemble members are
the seeds: each is scored alone, so that the spread over starts comes with the mean.
"""

from __future__ import annotations

import json as jsonlib  # `json` is a flag of the command
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ps_alloc.files import atomic_path, write_json
from ps_train.common.extraction import Extraction
from ps_train.common.optimization import ScheduleSettings
from ps_train.curve.data import CurveDataModule
from ps_train.curve.metrics import flattened_pearson, per_window_pearson
from ps_train.curve.mlp import CurveMLP

HIDDEN_SIZE, DROPOUT, BATCH_SIZE = 256, 0.5, 128
VAL_FRACTION = 0.2
"""Of the table's rows, the same for all layers: to score on."""


@dataclass(frozen=True)
class LayerScore:
    """How well one layer predicts the validation curves."""

    feature: str
    """The feature's name, such as `layer_16`."""
    layer: int
    window_pearson: float
    """Mean over windows, then over seeds."""
    window_pearson_std: float
    """Standard deviation over seeds."""
    flattened_pearson: float
    flattened_pearson_std: float
    by_window: list[float]
    """Pearson correlation at each of the W windows, mean over seeds."""


def sweep_layers(
    train: str,
    layers: Sequence[int],
    *,
    backbone: str | None = None,
    encoder: str | None = None,
    seeds: int = 3,
    max_epochs: int = 15,
    seed: int = 0,
    cache: str = "runs/features",
    device: str = "auto",
    dtype: str = "auto",
) -> list[LayerScore]:
    """Train a predictor for each layer and score it on validation rows of the training table.

    Args:
        train: The training curve table's folder.
        layers: Layer numbers, from 1.
        backbone: The language model that made the table's features or shall make them.
        encoder: A language model other than the served one: sweeps its layers instead.
        seeds: Members a layer.
        max_epochs: Passes over the training rows.
        seed: Of the split, the starts and the batches.
        cache: Folder for extracted features.
        device: Where features are extracted: see `Extraction`.
        dtype: The type to extract in: see `Extraction`.

    Returns:
        One score a layer, in the order given.

    Raises:
        ValueError: If `seeds` is not positive, or a feature is neither in the table nor can be extracted.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if not layers:
        raise ValueError("layers must name at least one layer, got none")
    prefix = "layer_" if encoder is None else "encoder_layer_"

    def data(features: list[str]) -> CurveDataModule:
        return CurveDataModule(
            train=train,
            features=features,
            backbone=backbone,
            encoder=encoder,
            val_fraction=VAL_FRACTION,
            batch_size=BATCH_SIZE,
            seed=seed,
            extraction=Extraction(device=device, dtype=dtype, cache=cache),
        )

    data([f"{prefix}{layer}" for layer in layers]).setup("fit")  # one forward pass a prompt for all layers
    scores = []
    for layer in track(layers, description="layers", transient=True, console=Console(stderr=True)):
        name = f"{prefix}{layer}"
        module = CurveMLP(
            [HIDDEN_SIZE], num_members=seeds, dropout=DROPOUT, schedule=ScheduleSettings("cosine")
        )
        table = data([name])
        _fit_quietly(module, table, max_epochs, seed)
        scores.append(_score(module, table, name, layer))
    return scores


def _fit_quietly(module: CurveMLP, data: CurveDataModule, max_epochs: int, seed: int) -> None:
    pl.seed_everything(seed, verbose=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            accelerator="auto",
            devices=1,  # the predictors are small; more devices would start this whole command over in each
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(module, datamodule=data)


def _score(module: CurveMLP, data: CurveDataModule, name: str, layer: int) -> LayerScore:
    held_out = data.rows["val"].targets
    net = module.net.cpu().eval()
    with torch.inference_mode():
        members = net.member_logits(torch.tensor(held_out["inputs"])).sigmoid().numpy()
    by_window = np.array([per_window_pearson(curves, held_out["curves"]) for curves in members])
    flattened = np.array([flattened_pearson(curves, held_out["curves"]) for curves in members])
    return LayerScore(
        feature=name,
        layer=layer,
        window_pearson=float(by_window.mean()),
        window_pearson_std=float(by_window.mean(1).std()),
        flattened_pearson=float(flattened.mean()),
        flattened_pearson_std=float(flattened.std()),
        by_window=[float(value) for value in by_window.mean(0)],
    )


def sweep_command(
    *,
    train: str,
    layers: str,
    output: str,
    backbone: str | None = None,
    encoder: str | None = None,
    seeds: int = 3,
    max_epochs: int = 15,
    seed: int = 0,
    cache: str = "runs/features",
    device: str = "auto",
    dtype: str = "auto",
    json: bool = False,
) -> None:
    """Score a predictor for each layer; write `sweep.json` and `sweep.png`, and print a table.

    Args:
        train: Curve table to learn from; a share of its rows is held out for the scores.
        layers: Layer numbers and ranges, such as 2,4,6 or 1-30.
        output: Folder to write into.
        backbone: The served language model, where the table lacks its states.
        encoder: A language model other than the served one: sweeps its layers instead.
        seeds: Predictors a layer, for the spread.
        max_epochs: Passes over the training rows.
        seed: Of the split, the starts and the batches.
        cache: Folder for extracted features.
        device: Where features are extracted, such as cuda:0; auto takes a GPU where there is one.
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and bfloat16 elsewhere.
        json: Print the scores as JSON instead of the table.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    scores = sweep_layers(
        train,
        parse_layers(layers),
        backbone=backbone,
        encoder=encoder,
        seeds=seeds,
        max_epochs=max_epochs,
        seed=seed,
        cache=cache,
        device=device,
        dtype=dtype,
    )
    folder = Path(output)
    settings = {"train": train, "backbone": backbone, "encoder": encoder, "seeds": seeds, "seed": seed}
    content = {"settings": settings, "scores": [asdict(score) for score in scores]}
    write_json(folder / "sweep.json", content)
    plot_sweep(scores, folder / "sweep.png")
    if json:
        sys.stdout.write(jsonlib.dumps(content) + "\n")
        return
    table = Table("layer", "per-window r", "flattened r")
    best = max(score.window_pearson for score in scores)
    for score in scores:
        style = "bold" if score.window_pearson == best else ""
        table.add_row(
            str(score.layer),
            f"{score.window_pearson:.3f} ± {score.window_pearson_std:.3f}",
            f"{score.flattened_pearson:.3f} ± {score.flattened_pearson_std:.3f}",
            style=style,
        )
    console = Console()
    console.print(table)
    console.print(
        f"wrote {folder / 'sweep.json'} and {folder / 'sweep.png'}", highlight=False, soft_wrap=True
    )
    feature = max(scores, key=lambda score: score.window_pearson).feature
    console.print(
        f"next:  ps-train fit --config curve_mlp --data.train {train} --data.features '[{feature}]'",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def parse_layers(text: str) -> list[int]:
    """`2,4,6-8` to `[2, 4, 6, 7, 8]`.

    Raises:
        ValueError: If a part is neither a number from 1 nor an ascending range of such.
    """
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            numbers = range(0)
        if not numbers or numbers[0] < 1:
            raise ValueError(f"layers must be numbers from 1 or ranges, such as 2,4 or 1-30, got {text!r}")
        layers.extend(numbers)
    return layers


def plot_sweep(scores: Sequence[LayerScore], path: str | Path) -> None:
    """Draw both correlations by layer with the seeds' spread, and the per-window ones as a map; a PNG.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plots need matplotlib: install the extra predictive-scheduling[eval]") from error

    layers = [score.layer for score in scores]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    lines, heat = figure.subplots(1, 2)
    for name, label in (("window_pearson", "per window, mean"), ("flattened_pearson", "flattened")):
        mean = np.array([getattr(score, name) for score in scores])
        spread = np.array([getattr(score, f"{name}_std") for score in scores])
        (line,) = lines.plot(layers, mean, marker="o", label=label)
        lines.fill_between(layers, mean - spread, mean + spread, color=line.get_color(), alpha=0.25)
    lines.set(xlabel="layer", ylabel="Pearson correlation on validation questions")
    lines.grid(alpha=0.3)
    lines.legend()
    by_window = np.array([score.by_window for score in scores]).T
    extent = (-0.5, len(layers) - 0.5, 0.5, len(by_window) + 0.5)
    image = heat.imshow(by_window, origin="lower", aspect="auto", cmap="viridis", extent=extent)
    heat.set(xlabel="layer", ylabel="window", xticks=range(len(layers)), xticklabels=layers)
    heat.tick_params(axis="x", labelsize=7)
    figure.colorbar(image, ax=heat, label="per-window Pearson correlation")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
