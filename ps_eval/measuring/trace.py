"""`ps-eval trace`: questions → curve table."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ps_alloc.predictions import uniform_budgets
from ps_eval.engines.base import Sampling
from ps_eval.flag_groups import EngineFlags, QuestionFlags
from ps_eval.grading import DEFAULT_GRADER, load_grader
from ps_eval.measuring.probing import measure_curves
from ps_eval.measuring.table_features import check_layers_of, language_model, write_features
from ps_eval.measuring.token_grid import parse_grid
from ps_eval.measuring.trace_file import TRACES_FILE, read_traces
from ps_eval.measuring.trace_screen import as_json, next_command, show_after, show_before
from ps_eval.measuring.trace_states import write_trace_states
from ps_eval.progress import show_progress
from ps_eval.run_folder import FAILURES_FILE


def trace_command(
    *,
    source: QuestionFlags,
    model: str,
    output: str,
    num_traces: int = 8,
    window: int = 16,
    num_windows: int = 16,
    grid: str | None = None,
    sampling: Sampling = Sampling(),
    grader: str = DEFAULT_GRADER,
    layers: list[int] | None = None,
    feature_model: str | None = None,
    feature_dtype: str = "auto",
    feature_device: str = "auto",
    runner: EngineFlags = EngineFlags(),
    questions_per_chunk: int = 64,
    skip_failed: bool = False,
    keep_tokens: bool = False,
    trace_layers: list[int] | None = None,
    json: bool = False,
) -> None:
    """Sample chains of thought and probe them for answers: questions to a curve table.

    Stop it at any moment and run it again: it goes on where it was, to the same table.

    Args:
        source: The questions, with references.
        model: The reasoning model: a folder or a Hugging Face name.
        output: The curve table's folder.
        num_traces: Chains of thought a question.
        window: Tokens a window.
        num_windows: Windows probed; the longest budget is window × num_windows tokens.
        grid: Any token budgets to probe at instead of windows: 256,512,1024 or geometric:256:32768:15 (first,
            last, how many) or linear:…, or a preset: paper, 8k, 32k.
        sampling: How chains of thought are drawn.
        grader: Tells right from wrong: math, gsm8k, choice, number, exact, or module:function of your own.
        layers: Also store the prompts' hidden states after these blocks, such as 8,16.
        feature_model: The language model whose states they are; by default the one that is traced.
        feature_dtype: It computes in: auto (as the engine where that is transformers, else float32),
            float32, bfloat16 or float16.
        feature_device: Where it computes: auto takes a GPU where there is one.
        runner: What runs the model.
        questions_per_chunk: Questions traced and saved together.
        skip_failed: Write the table although some questions failed, without them.
        keep_tokens: Also keep every trace's tokens with their log-probabilities and entropies, from which
            `ps-train forecast` learns; some 20 bytes a token. Engines transformers and vllm.
        trace_layers: Of kept tokens also store these blocks' states at each budget, such as 16, for
            `ps-train forecast --layer`: the traces are read once more.
        json: Print the curve and the shares as JSON.

    Raises:
        ValueError: If the questions or the model cannot be read, or the folder was begun with other settings.
    """
    judge = load_grader(grader)
    budgets = uniform_budgets(window, num_windows) if grid is None else parse_grid(grid)
    asked = source.load()
    reader = feature_model or str(runner.arguments.get("tokenizer", model))
    if trace_layers and not keep_tokens:
        raise ValueError("trace_layers must come with keep_tokens")
    if wanted := [*(layers or []), *(trace_layers or [])]:
        check_layers_of(reader, wanted)
    pool = runner.load(model)
    console, kept = Console(stderr=json), _kept(output)
    if kept:
        console.print(f"{output}: going on, {kept} of {len(asked)} questions are traced.", highlight=False)
    else:
        show_before(
            pool,
            asked,
            budgets=budgets.tolist(),
            num_traces=num_traces,
            sampling=sampling,
            grader=judge,
            console=console,
        )
    try:
        with show_progress("questions traced", len(asked), kept_first=True) as progress:
            table = measure_curves(
                asked,
                pool,
                output,
                num_traces=num_traces,
                budgets=budgets.tolist(),
                sampling=sampling,
                questions_per_chunk=questions_per_chunk,
                grader=judge,
                skip_failed=skip_failed,
                keep_tokens=keep_tokens,
                progress=progress,
            )
        if layers:
            with show_progress("prompts read for features", len(table)) as progress:
                write_features(
                    output,
                    table.questions,
                    layers,
                    lambda: language_model(pool, reader, feature_dtype, feature_device),
                    model=reader,
                    prompt=runner.prompt,
                    progress=progress,
                )
        if trace_layers:
            with show_progress("traces read for states", num_traces * len(table)) as progress:
                write_trace_states(
                    output,
                    trace_layers,
                    lambda: language_model(pool, reader, feature_dtype, feature_device),
                    prompt=runner.prompt,
                    progress=progress,
                )
    except KeyboardInterrupt:
        sys.stderr.write(
            f"{output}: {_kept(output)} of {len(asked)} questions are traced and kept; "
            "the same command goes on from there\n"
        )
        raise
    by_id = {t.id: t for t in read_traces(Path(output) / TRACES_FILE)}
    show_after(table, [by_id[i] for i in table.ids], judge, console, Console(stderr=True))
    if json:
        sys.stdout.write(as_json(table) + "\n")
    if missing := len(asked) - len(table):
        console.print(
            f"{missing} of {len(asked)} questions failed and are not in the table: "
            f"{output}/{FAILURES_FILE} names them.",
            highlight=False,
        )
    console.print(next_command(output, layers, reader), markup=False, highlight=False, soft_wrap=True)


def _kept(output: str) -> int:
    """Questions traced so far, the lines of the traces file."""
    path = Path(output) / TRACES_FILE
    return path.read_bytes().count(b"\n") if path.is_file() else 0
