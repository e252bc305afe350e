"""Forecasting again while it thinks, against deciding before: tokens used at equal accuracy."""

from __future__ import annotations

from pathlib import Path

from ps_eval.demo import REASONER
from ps_eval.experiments import stopping_tables as tables
from ps_eval.experiments.forecast_world import (
    LAYER,
    Seen,
    World,
    fit_one,
    fit_predictor,
    keep_traces,
    look,
)
from ps_eval.experiments.stopping_contest import AGREE, BEFORE, SURE, compare
from ps_eval.reporting.record import Outcome
from ps_eval.spending.replay_inputs import predict_table
from ps_train.embedded.problem_families import DIARY, DOUBTS
from ps_train.forecast import probes
from ps_train.forecast.fit import ForecastSettings
from ps_train.forecast.kept_traces import load_kept_traces
from ps_train.forecast.trace_features import TraceFeatures
from ps_train.shipped import FOLDER

DOUBTING = FOLDER / "tiny-reasoner-doubts"
"""The embedded reasoner that thinks on after its answer is known."""
WORLDS = {DOUBTS: World(DOUBTS, DOUBTING, num_windows=40), DIARY: World(DIARY, REASONER, num_windows=32)}
INPUTS = {
    "probabilities": TraceFeatures(words=False),
    "probabilities, words": TraceFeatures(),
    "probabilities, probes": TraceFeatures(words=False, probing=probes.DOUBTS),
    "probabilities, states": TraceFeatures(words=False, layer=LAYER),
    "probabilities, probes, states": TraceFeatures(words=False, probing=probes.DOUBTS, layer=LAYER),
    "probabilities, words, probes, states": TraceFeatures(probing=probes.DOUBTS, layer=LAYER),
}
"""What a forecaster may read off a trace, beside the prompt and how far the trace is."""
GOALS = {BEFORE: 0.25, AGREE: 0.1, SURE: 0.1}
"""Shares of other rules' tokens to be saved where there is something to save."""


def forecast(
    *,
    scratch: Path,
    worlds: dict[str, float],
    train_problems: int,
    train_traces: int,
    tune_problems: int,
    tune_traces: int,
    test_problems: int,
    test_traces: int,
    every: int,
    epochs: int,
    inputs: list[str],
    prices: list[float],
    levels: list[float],
    thresholds: list[float],
    seed: int = 0,
) -> Outcome:
    """Rolling rules, rules that probe, and allocation before the run, on kept traces of both embedded worlds.

    Every rule that has something to tune is tuned on questions of its own; the learnt stopping rule is fitted
    there, too. What probes decode is charged; a forecast costs no tokens. Stop it at any moment and run it
    again: traces, states and what was learned are kept, and it goes on to the same figures.

    Args:
        scratch: Where traces and what was learned from them are kept.
        worlds: doubts (the reasoner that thinks on after its answer is known), diary (the one that does not),
            each to the share of the problems that it is given.
        train_problems: Questions the forecaster and the pre-run predictor learn from.
        train_traces: Traces of each.
        tune_problems: Questions that choose settings and teach the stopping rule.
        tune_traces: Traces of each.
        test_problems: Questions that everything is compared on.
        test_traces: Traces of each.
        every: Windows from one checkpoint to the next.
        epochs: Of the forecasters' training.
        inputs: What forecasters read off a trace, names of `INPUTS`: the rules ask the first; the others show
            what each input is worth.
        prices: Correct answers a token must buy: one point of a line each.
        levels: Accuracies at which tokens are compared, as shares of what allocation before the run reaches.
        thresholds: Probabilities at which the confidence rule stops.
        seed: Of everything.

    Raises:
        ValueError: If there is no such world, or no such inputs.
    """
    if unknown := sorted(set(worlds) - set(WORLDS)):
        raise ValueError(f"worlds must be among {sorted(WORLDS)}, got {unknown[0]!r}")
    if unread := [which for which in inputs if which not in INPUTS]:
        raise ValueError(f"inputs must be among {sorted(INPUTS)}, got {unread[0]!r}")
    shown, findings, figures, claims = [], [], {}, []
    for name, share in worlds.items():
        world = WORLDS[name]
        sizes = [int(share * n) for n in (train_problems, tune_problems, test_problems)]
        train, tune, test = (
            keep_traces(world, scratch, split, size, num_traces, seed + 1 + number)
            for number, (split, size, num_traces) in enumerate(
                zip(("train", "tune", "test"), sizes, (train_traces, tune_traces, test_traces), strict=True)
            )
        )
        predictor = fit_predictor(train, scratch, world, seed)
        kept = [load_kept_traces(folder) for folder in (tune, test)]
        seen, losses = {}, {}
        for which in inputs:
            learning = ForecastSettings(epochs=epochs, every=every, seed=seed, trace=INPUTS[which])
            forecaster = fit_one(train, scratch, which, learning)
            seen[which] = look(kept, forecaster, every)
            losses[which] = forecaster.settings["learned"]["held_out_loss"]
        before = [predict_table(predictor, folder)[0] for folder in (tune, test)]
        tuning, testing = (Seen(seen[inputs[0]][i], before[i]) for i in (0, 1))
        others = {which: seen[which][1] for which in inputs[1:]}
        compared = compare(tuning, testing, prices, levels, thresholds, others, seed)
        shown += [
            tables.accuracy_table(name, compared),
            tables.use_table(name, compared),
            tables.inputs_table(name, compared, losses, inputs[0]),
        ]
        findings.append(tables.finding(name, compared))
        figures[f"forecast_{name}"] = tables.lines(compared)
        if name == DOUBTS:
            claims += tables.goal_claims(name, compared, GOALS)
        else:
            claims.append(tables.no_loss_claim(name, compared))
    return Outcome(shown, " ".join(findings), figures, claims)
