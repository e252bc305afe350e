"""Kept traces of an embedded reasoner, and everything a forecaster says along each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ps_alloc import Predictions
from ps_eval.demo import TEMPERATURE, TOP_P
from ps_eval.engines import load_engine
from ps_eval.engines.base import Sampling
from ps_eval.engines.pool import OneEngine
from ps_eval.fitting import fit_quietly
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.table_features import language_model, write_features
from ps_eval.measuring.trace_states import write_trace_states
from ps_eval.progress import show_progress
from ps_train.common.features import layer_name
from ps_train.embedded.problem_families import make_problems
from ps_train.feature_file import feature_names
from ps_train.forecast.along import Foreseen, foresee
from ps_train.forecast.fit import ForecastSettings, fit_forecaster
from ps_train.forecast.forecaster import Forecaster
from ps_train.forecast.kept_traces import KeptTraces, load_kept_traces

WINDOW = 8
"""Tokens from one budget to the next."""
PROMPT_LAYER, LAYER = 3, 6
"""Blocks whose states are read at the prompt's end by predictors and forecasters, and along the traces by
forecasters: the reasoners' third and last."""


@dataclass(frozen=True)
class World:
    """A reasoner and the problems it is asked."""

    name: str
    """Of its family of problems."""
    reasoner: Path
    num_windows: int
    """Of `WINDOW` tokens."""


def keep_traces(
    world: World, scratch: Path, split: str, num_problems: int, num_traces: int, seed: int
) -> Path:
    """Trace fresh problems with their tokens kept; what is in `scratch` already is not traced again.

    Returns:
        The curve table's folder.
    """
    made = make_problems(num_problems, seed, [world.name])
    problems = [p.as_question(f"{world.name}-{split}-{seed}-{i}") for i, p in enumerate(made)]
    folder = scratch / f"forecast-{world.name}-{split}-{num_problems}x{num_traces}-seed{seed}"
    engine = load_engine("transformers", world.reasoner, batch_size=256)
    with show_progress(f"{world.name} {split} problems traced", num_problems) as progress:
        table = measure_curves(
            problems,
            engine,
            folder,
            num_traces=num_traces,
            window=WINDOW,
            num_windows=world.num_windows,
            sampling=Sampling(TEMPERATURE, TOP_P, seed),
            keep_tokens=True,
            progress=progress,
        )
    if not feature_names(folder):
        write_features(
            folder,
            table.questions,
            [PROMPT_LAYER],
            lambda: language_model(OneEngine(engine), str(world.reasoner), "auto", "auto"),
            model=str(world.reasoner),
        )
    write_trace_states(
        folder,
        [LAYER],
        lambda: language_model(OneEngine(engine), str(world.reasoner), "auto", "auto"),
    )
    return folder


def fit_one(folder: Path, scratch: Path, name: str, settings: ForecastSettings) -> Forecaster:
    """A forecaster learned from a table's traces, kept in `scratch` under its name and settings."""
    name = f"{name.replace(', ', '-')}-{settings.epochs}x{settings.every}"
    home = scratch / f"{folder.name}-learned" / name
    if not (home / "config.json").is_file():
        fit_forecaster(load_kept_traces(folder), settings).save(home)
    return Forecaster.load(home)


def fit_predictor(folder: Path, scratch: Path, world: World, seed: int) -> Path:
    """The folder of a pre-run predictor learned from the same table, kept in `scratch`."""
    home = scratch / f"{folder.name}-learned"
    if not (home / "predictor" / "config.json").is_file():
        arguments = ["--config", "tiny_curve_mlp", "--seed_everything", str(seed)]
        arguments += ["--trainer.default_root_dir", str(home), "--data.init_args.train", str(folder)]
        arguments += ["--data.init_args.features", f"[{layer_name(PROMPT_LAYER)}]"]
        arguments += ["--data.init_args.backbone", str(world.reasoner)]
        fit_quietly(arguments, "the pre-run predictor's fit")
    return home / "predictor"


@dataclass(frozen=True)
class Seen:
    """Kept traces of some questions with all that is said of them."""

    along: Foreseen
    """Along the traces."""
    before: Predictions
    """Of the N questions, before any is answered: accuracy and use, by a predictor of its own."""


def look(kept: Sequence[KeptTraces], forecaster: Forecaster, every: int) -> list[Foreseen]:
    """Forecast along every kept trace, at every `every`-th point that some trace of each set reaches."""
    reached = [p for p in range(0, len(kept[0].budgets), every) if all(k.running[:, p].any() for k in kept)]
    return [foresee(traces, forecaster, reached) for traces in kept]
