"""`ps-eval demo`: the whole path in a few minutes, on the embedded reasoner and fresh problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ps_alloc import Predictions
from ps_eval.engines import load_engine
from ps_eval.engines.base import Sampling
from ps_eval.engines.pool import OneEngine
from ps_eval.fitting import fit_quietly
from ps_eval.measuring.probing import measure_curves
from ps_eval.progress import show_progress
from ps_eval.reporting.frontier import equal_use_headline, print_equal_use
from ps_eval.reporting.plots import plot_accuracy
from ps_eval.reporting.summary import PhaseTimer, Summary, SummaryRow, collect_run_info, print_table
from ps_eval.reporting.words import label
from ps_eval.spending.live import compare_live, run_live
from ps_eval.spending.policies import possible_policies
from ps_eval.spending.replay import PLOT_FILE, replay
from ps_eval.spending.replay_inputs import predict_table, split_traces
from ps_eval.spending.run import predicted_inputs, scheduling_cost
from ps_train import presets
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question, save_questions
from ps_train.shipped import FOLDER

REASONER = FOLDER / "tiny-reasoner"
PREDICTOR = FOLDER / "tiny-predictor"
PREDICTOR_CONFIG = presets.FOLDER / "tiny_curve_mlp.yaml"

TEMPERATURE, TOP_P = 0.7, 1.0
"""Sampling of the chains of thought that the shipped predictor was trained on."""
USED = (24, 32, 48, 64)
"""Mean reasoning tokens really used at which policies are compared."""
LEARN_PROBLEMS, LEARN_TRACES = 160, 3
"""The small training table that shows step 2; the shipped predictor saw many times as many."""
MEASURE_TRACES = 4
"""Traces a test problem, for the replay beside the live run."""


def demo_command(
    *,
    output: str = "runs/demo",
    num_problems: int = 320,
    budgets: list[int] = [16, 24, 32, 40, 48, 64, 80, 96, 128],  # noqa: B006  # jsonargparse shows it in --help; never changed
    seed: int = 20260,
    engine: str = "transformers",
    engine_options: dict[str, Any] | None = None,
    batch_size: int = 160,
) -> None:
    """Walk the whole path on the embedded reasoner: trace, learn, decide, spend; live beside replay.

    Fresh problems are drawn, some are traced and a small predictor is fitted to them; then the shipped
    predictor decides, before generation, how long each test problem may be reasoned about, and the reasoner
    answers them under these budgets, and under those of other policies; the policies are compared at equal
    tokens really used.

    Args:
        output: Folder to write into; a demo that was interrupted goes on where it was.
        num_problems: Fresh test problems.
        budgets: Mean reasoning tokens per query, such as 40,64.
        seed: Another seed draws other problems.
        engine: What runs the reasoner: transformers or vllm.
        engine_options: Of the engine's own, such as --engine-options.dtype float32; docs/vllm.md has them.
        batch_size: Sequences decoded at once.

    Raises:
        ValueError: If the folder was begun with other settings.
    """
    config = dict(locals())
    folder, timer, console = Path(output), PhaseTimer(), Console()
    loaded = load_engine(engine, REASONER, batch_size=batch_size, **(engine_options or {}))
    test = _questions("test", num_problems, seed)

    console.rule("1 trace: sample chains of thought, probe them for answers")
    sampling = Sampling(TEMPERATURE, TOP_P, seed)
    for name, questions, traces in (
        ("train", _questions("train", LEARN_PROBLEMS, seed + 1), LEARN_TRACES),
        ("test", test, MEASURE_TRACES),
    ):
        with (
            timer.phase("trace"),
            show_progress(f"{name} problems traced", len(questions), kept_first=True) as progress,
        ):
            measured = measure_curves(
                questions, loaded, folder / name, num_traces=traces, sampling=sampling, progress=progress
            )

    save_questions(folder / "test.jsonl", test)  # not before: a folder of other settings is refused whole

    console.rule("2 learn: prompt's hidden state → accuracy curve (in small)")
    with timer.phase("learn"):
        _fit_small(folder)

    console.rule("3 decide, 4 spend: live, compared at equal tokens really used")
    with (
        predicted_inputs(PREDICTOR, [q.question for q in test], timer, pool=OneEngine(loaded)) as inputs,
        show_progress("problems answered", len(test), kept_first=True) as progress,
    ):
        live = run_live(
            test,
            loaded,
            inputs,
            budgets=budgets,
            policies=possible_policies(inputs, live=True),
            output=folder,
            min_windows=0,
            # Other random numbers than the traces': else replay would have seen what live generates.
            sampling=Sampling(TEMPERATURE, TOP_P, seed + 2),
            timer=timer,
            progress=progress,
        )
    with timer.phase("replay"):
        predicted_curves = inputs.need("hull", "predictions")
        predicted, _ = predict_table(folder / "learn" / "predictor", folder / "test")
        replayed = replay(
            measured,
            budgets=budgets,
            predictions=Predictions(predicted_curves, inputs.budgets, use=inputs.predicted_use),
            mean_curve=inputs.mean_curve,
            mean_use=inputs.mean_use,
            halves=split_traces(folder / "test", measured),
            used_levels=USED,
            min_windows=0,
        )
        small = replay(measured, budgets=budgets, policies=["uniform", "hull"], predictions=predicted).rows

    rows = live + replayed.rows
    plot_accuracy(rows, folder / PLOT_FILE)
    compared = compare_live(folder, live, levels=USED) + replayed.equal_use
    Summary(rows, collect_run_info(config, seed, timer.seconds), compared).save(folder)
    used = [row for row in compared if row.mode == "live"]  # the report has the replay, and what was allowed
    print_equal_use(used, console) if used else print_table(live, console)
    console.print(_agreement(live, replayed.rows), highlight=False)
    console.print(_small_gains(small), highlight=False)
    console.print(scheduling_cost(timer), highlight=False)
    console.print(
        f"Written: {folder}/summary.json, {folder}/{PLOT_FILE}, answers and allocations.", highlight=False
    )
    console.rule()
    console.print(equal_use_headline(compared, label), highlight=False)
    console.print(
        f"Next, every figure on a page: ps-eval report {folder}; would it pay for you: ps-eval assess LOGS",
        highlight=False,
        soft_wrap=True,
    )


def _questions(name: str, number: int, seed: int) -> list[Question]:
    return [p.as_question(f"{name}-{seed}-{i}") for i, p in enumerate(make_problems(number, seed))]


def _fit_small(folder: Path) -> None:
    """`ps-train fit` on the demo's own training table; quiet, and only once."""
    root = folder / "learn"
    if (root / "predictor" / "config.json").is_file():
        return
    arguments = ["--config", str(PREDICTOR_CONFIG), "--trainer.default_root_dir", str(root)]
    arguments += ["--data.train", str(folder / "train"), "--data.backbone", str(REASONER)]
    fit_quietly([*arguments, "--data.extraction.cache", str(folder / "features")], "the demo's fit")


def _agreement(live: list[SummaryRow], replayed: list[SummaryRow]) -> str:
    """One sentence: in how many cells live and replay, measured apart, have overlapping intervals."""
    by_cell = {(row.policy, row.budget): row for row in replayed}
    pairs = [(row, by_cell[row.policy, row.budget]) for row in live]
    agree = sum(a.low <= b.high and b.low <= a.high for a, b in pairs)
    return f"Live and replay agree within their 95% intervals in {agree} of {len(pairs)} cells."


def _small_gains(small: list[SummaryRow]) -> str:
    gains = [
        f"{100 * row.gain:+.0f} at {row.budget}"
        for row in small
        if row.policy == "hull" and row.gain is not None
    ]
    return (
        f"The small predictor of step 2 ({LEARN_PROBLEMS} problems) would gain, replayed: "
        f"{', '.join(gains)} mean tokens."
    )
