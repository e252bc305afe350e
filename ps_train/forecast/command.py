"""`ps-train forecast` and `ps-train stopping`: kept traces to a forecaster, and to a rule for one price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from ps_alloc.files import check_output
from ps_train.forecast.along import foresee, learn_rule
from ps_train.forecast.fit import ForecastSettings, fit_forecaster
from ps_train.forecast.forecaster import CONFIG_FILE, Forecaster
from ps_train.forecast.kept_traces import load_kept_traces
from ps_train.forecast.probes import NONE, Probing
from ps_train.forecast.trace_features import TraceFeatures


def forecast_command(
    *,
    table: str,
    output: str,
    features: list[str] | None = None,
    epochs: int = 8,
    every: int = 1,
    words: bool = True,
    probing: Probing = NONE,
    layer: int = 0,
    hidden_sizes: list[int] | None = None,
    num_members: int = 2,
    dropout: float = 0.15,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.5,
    batch_size: int = 256,
    seed: int = 0,
) -> None:
    """Learn from kept traces what becomes of a trace under way: accuracy and use for every later budget.

    Args:
        table: Folder that `ps-eval trace --keep-tokens` wrote, of at least 20 questions.
        output: Folder to write the forecaster into.
        features: The prompts' features to read, such as layer_3; by default all of the table's, and where it
            has none the questions' words.
        epochs: Passes over the rows; the one with the least loss on a tenth of the questions is kept.
        every: Budgets of the grid from one row of a trace to the next.
        words: Read what the traces say, too: without many traces to learn from, too much to tell apart.
        probing: Where it asks a trace for its answer, to read how sure that is: none, doubts (at checkpoints
            before which a word of doubt such as "wait" was just written), every (at each). Each answer costs
            its tokens.
        layer: Block of the model whose state after a trace's last token is read, one of those that
            `ps-eval trace --trace-layers` kept; 0 for none.
        hidden_sizes: Widths of the hidden layers; by default 256, 128.
        num_members: Networks whose forecasts are averaged.
        dropout: Share of inputs and hidden units dropped in training.
        learning_rate: Peak AdamW learning rate.
        weight_decay: AdamW weight decay.
        batch_size: Rows a step.
        seed: Of the start, the split and the batches.
    """
    check_output(Path(output) / CONFIG_FILE)
    console = Console()
    settings = ForecastSettings(
        hidden_sizes=tuple(hidden_sizes or ForecastSettings.hidden_sizes),
        num_members=num_members,
        dropout=dropout,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        every=every,
        trace=TraceFeatures(words=words, probing=probing, layer=layer),
        seed=seed,
    )

    def say(epoch: int, loss: float) -> None:
        console.print(f"epoch {epoch}: loss on questions held out {loss:.4f}", highlight=False)

    forecaster = fit_forecaster(load_kept_traces(table, features), settings, say)
    forecaster.save(output)
    learned = forecaster.settings["learned"]
    console.print(
        f"{output}: learned from {learned['rows']} moments of the traces of {learned['questions']} questions",
        highlight=False,
        soft_wrap=True,
    )


def stopping_command(
    *, table: str, forecaster: str, price: float, output: str, checkpoints: list[int] | None = None
) -> None:
    """Learn when to stop under a price, from kept traces that the forecaster has not learned from.

    Args:
        table: Folder that `ps-eval trace --keep-tokens` wrote: other questions than the forecaster's.
        forecaster: Folder that `ps-train forecast` wrote.
        price: Correct answers a token must buy, such as 0.002.
        output: The rule, an .npz file for `ps-eval roll --rule`.
        checkpoints: Tokens at which `ps-eval roll` will ask it; by default all of the forecaster's budgets at
            which some of these traces still think. It is asked before the first token, too.
    """
    check_output(output)
    learnt = Forecaster.load(forecaster)
    grid = [0, *learnt.schema.budgets]
    chosen = grid[1:-1] if checkpoints is None else sorted(set(checkpoints))
    if not set(chosen) <= set(grid[1:-1]):
        raise ValueError(
            f"checkpoints must be among the forecaster's budgets before its last, {grid[1:-1]}, got {chosen}"
        )
    traces = load_kept_traces(table, list(learnt.schema.prompt))
    if checkpoints is None:
        reached = np.flatnonzero(traces.running.any(axis=0))
        chosen = [grid[place] for place in reached if 0 < place < len(grid) - 1]
    seen = foresee(traces, learnt, [grid.index(tokens) for tokens in (0, *chosen)])
    learn_rule(seen, price).save(output)
    Console().print(
        f"{output}: learned from {len(traces.question)} traces at {len(chosen) + 1} checkpoints",
        highlight=False,
        soft_wrap=True,
    )
