"""Fit a forecaster on kept traces: a row for every trace at every point of the grid where it still thinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_train.forecast.forecaster import (
    Forecaster,
    ForecastSchema,
    hashed_questions,
    new_net,
    prompt_features,
)
from ps_train.forecast.kept_traces import KeptTraces
from ps_train.forecast.trace_features import TraceFeatures

MIN_QUESTIONS = 20


@dataclass(frozen=True)
class ForecastSettings:
    """How a forecaster learns."""

    hidden_sizes: tuple[int, ...] = (256, 128)
    """Widths of the hidden layers."""
    num_members: int = 2
    """Networks whose forecasts are averaged."""
    dropout: float = 0.15
    """Share of inputs and hidden units dropped in training."""
    epochs: int = 8
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.5
    every: int = 1
    """Points of the grid from one row of a trace to the next."""
    trace: TraceFeatures = field(default_factory=TraceFeatures)
    """What it reads off a trace."""
    held_out: float = 0.1
    """Share of the questions that choose the epoch."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_members", "epochs", "batch_size", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class _Rows:
    """B rows: a trace at a point of the grid, and what became of it."""

    inputs: Tensor
    """(B, D)."""
    right: Tensor
    """(B, W + 1): whether the answer now and after each further step is right."""
    shares: Tensor
    """(B, W): the share of each further step that was thought through."""
    ahead: Tensor
    """(B,): steps the grid still has."""
    question: npt.NDArray[np.int64]
    """(B,)."""

    def take(self, rows: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chosen = torch.from_numpy(rows)
        return self.inputs[chosen], self.right[chosen], self.shares[chosen], self.ahead[chosen]


def fit_forecaster(
    traces: KeptTraces,
    settings: ForecastSettings | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Forecaster:
    """Learn what becomes of traces from what they show.

    Args:
        traces: Of at least 20 questions. The prompts' features that their table holds are read; where it
            holds none, the questions' words.
        settings: How it learns.
        progress: Called after each epoch with its number and the held-out loss.

    Raises:
        ValueError: If there are too few questions, or the states to be read are not there.
    """
    settings = settings or ForecastSettings()
    asked = np.unique(traces.question)
    if len(asked) < MIN_QUESTIONS:
        raise ValueError(f"traces must be of at least {MIN_QUESTIONS} questions, got {len(asked)}")
    features = traces.table.features
    widths = {name: values.shape[1] for name, values in features.items()}
    reads = replace(settings.trace, width=traces.state_width(settings.trace.layer))
    schema = ForecastSchema(traces.budgets.tolist(), widths, reads)
    rows = _rows(traces, schema, settings.every)
    rng = np.random.default_rng(settings.seed)
    chosen = rng.permutation(asked)[: max(1, int(settings.held_out * len(asked)))]
    held = np.isin(rows.question, chosen)
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    torch.manual_seed(settings.seed)
    kept = {
        "hidden_sizes": list(settings.hidden_sizes),
        "num_members": settings.num_members,
        "dropout": settings.dropout,
    }
    net = new_net(schema, kept)
    net.standardise.fit(rows.inputs[torch.from_numpy(train)])
    best: tuple[float, dict[str, Any]] = (np.inf, {})
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for epoch in range(settings.epochs):
        net.train()
        order = rng.permutation(train)
        for start in range(0, len(order), settings.batch_size):
            loss = net.loss(*rows.take(order[start : start + settings.batch_size]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.inference_mode():
            parts = [
                (len(part), float(net.loss(*rows.take(part))))
                for part in np.array_split(test, -(-len(test) // 4096))
            ]
        error = sum(n * value for n, value in parts) / len(test)
        if error < best[0]:
            best = error, {name: tensor.clone() for name, tensor in net.state_dict().items()}
        if progress:
            progress(epoch + 1, error)
    if not best[1]:
        raise ValueError(
            "a forecaster must learn to a finite loss on questions held out, got none: are all features and "
            "states finite, and is the learning rate small enough?"
        )
    net.load_state_dict(best[1])
    learned = {"questions": len(asked), "rows": len(train), "held_out_loss": best[0]}
    return Forecaster(schema, net, {**kept, "learned": learned})


def _rows(traces: KeptTraces, schema: ForecastSchema, every: int) -> _Rows:
    """A row for each trace at each point of the grid where it still thinks."""
    grid = np.array([0, *schema.budgets])
    n_budgets = len(schema.budgets)
    traces = traces.probed(schema.trace.probing, range(0, n_budgets, every))
    prompts = (
        prompt_features(schema.prompt, traces.table.features)
        if schema.prompt
        else hashed_questions(traces.table.questions)
    )
    running = traces.running[:, :-1]
    running[:, np.arange(n_budgets) % every != 0] = False
    trace, passed = np.nonzero(running)
    tokens = traces.shown(schema.trace.layer)
    shown = schema.trace(
        [(tokens[t], int(grid[p])) for t, p in zip(trace, passed, strict=True)], int(grid[-1])
    )
    # What lies `o` steps ahead of point p is column p + o; the grid's end is repeated and masked.
    column = np.minimum(passed[:, None] + np.arange(n_budgets + 1), n_budgets)
    right = np.take_along_axis(traces.correct[trace], column, axis=1)
    used = np.clip((traces.lengths[:, None] - grid[:-1]) / np.diff(grid), 0.0, 1.0)
    shares = np.take_along_axis(used[trace], np.minimum(column[:, :-1], n_budgets - 1), axis=1)
    return _Rows(
        torch.from_numpy(np.hstack([prompts[traces.question[trace]], shown])),
        torch.from_numpy(right.astype(np.float32)),
        torch.from_numpy(shares.astype(np.float32)),
        torch.from_numpy(n_budgets - passed),
        traces.question[trace],
    )
