"""`ps-eval assess`: the first command to run: would predicted budgets pay for me?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ps_alloc.files import write_json
from ps_alloc.predictions import check_budgets
from ps_eval.assess.assessment import ASSESSMENT_FILE, Assessment, assess
from ps_eval.assess.picture import plot_frontiers
from ps_eval.assess.screen import show
from ps_eval.logs.command import told
from ps_eval.logs.prepare import Prepared, describe, pairs, prepare, select
from ps_eval.logs.sample import Sample
from ps_eval.logs.table import grid_of, to_table
from ps_eval.reporting.report import write_report
from ps_eval.reporting.summary import PhaseTimer, collect_run_info
from ps_train.curve_table import CURVES_FILE, CurveTable
from ps_train.light.command import named_numbers
from ps_train.light.fit import fit_light

PREDICTOR_FOLDER = "predictor"


@dataclass(frozen=True)
class _Subject:
    """One task, model and setting."""

    name: str
    table: CurveTable
    samples: list[Sample] | None
    cap: int | None
    scout: npt.NDArray[np.float64] | None = None


def assess_command(
    sources: tuple[str, ...],
    *,
    questions: str | None = None,
    output: str = "runs/assess",
    used: tuple[float, ...] = (),
    guess: float | None = None,
    price_per_million: float | None = None,
    budget: int | None = None,
    numbers: tuple[str, ...] = (),
    scout: tuple[str, ...] = (),
    scout_price: float = 0.1,
    where: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    grader: str = "math",
    tokenizer: str | None = None,
    right: float | None = None,
    grid: tuple[int, ...] = (),
    folds: int = 10,
    n_resamples: int = 2000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Say what predicted budgets would bring on your own samples: accuracy at equal tokens, tokens saved.

    The light text predictor is cross-validated by question. Writes `assessment.json`, a picture, the report
    page, and the predictor fitted on everything.

    Args:
        sources: Files of samples, as for `ps-eval import-samples`, or one curve table.
        questions: The questions' texts (choices, answers) by id, where the samples lack them.
        output: Folder to write into; of several models or settings, a folder each below it.
        used: Mean tokens really used at which to compare, such as 1000,2000,4000.
        guess: Accuracy of an unfinished answer: 0.25 where one of four choices is picked blindly.
        price_per_million: What a million generated tokens cost, to say savings in money.
        budget: The most tokens an answer may take today, where the samples were made under such a limit.
        numbers: Further columns of numbers that the prediction may read, such as prompt_tokens.
        scout: Samples of a cheaper model among the sources, as for `where`: the tokens of one of its samples
            are read beside the text, and charged.
        scout_price: What a token of the scout costs, where one of the model's own costs 1.
        where: Of samples of several tasks, models or settings, those to assess: model=NAME,setting=NAME.
        columns: Columns that are not found by their names, such as tokens=n_tok,correct=ok.
        grader: Grades the responses of samples that have none.
        tokenizer: Counts tokens where a log has texts alone.
        right: Share of finished answers that are right, where nothing says it of each.
        grid: Token budgets; by default about 16 that span the samples.
        folds: Folds of the cross-validation.
        n_resamples: Bootstrap resamples of the questions.
        seed: Seed of folds and bootstrap.
        json: Print one JSON object and nothing else.

    Raises:
        ValueError: If nothing can be read, or there are too few questions, or no texts.
    """
    config = dict(locals())
    if price_per_million is not None and not price_per_million >= 0:
        raise ValueError(f"price_per_million must be at least 0, got {price_per_million}")
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output must be a folder to write into, got the file {output}")
    timer = PhaseTimer()
    console = Console(stderr=json)
    with timer.phase("read"):
        if len(sources) == 1 and (Path(sources[0]) / CURVES_FILE).is_file():
            subjects = [_of_table(sources[0], guess, budget)]
        else:
            found = prepare(
                sources,
                questions=questions,
                columns=columns,
                where=() if scout else where,
                numbers=numbers,
                grader=grader,
                tokenizer=tokenizer,
                right=right,
            )
            for line in told(found):
                console.print(line, highlight=False, soft_wrap=True, markup=False)
            subjects = list(_of_samples(found, where, scout, guess or 0.0, grid, budget, grader, used))
    records: list[dict[str, Any]] = []
    folders: list[Path] = []
    for subject in subjects:
        read = dict(named_numbers(subject.table, numbers, subject.name))
        try:
            with timer.phase("assess"):
                result = assess(
                    subject.table,
                    subject.samples,
                    used=used,
                    guess=guess if guess is not None else float(subject.table.metadata.get("guess", 0)),
                    numbers=read,
                    scout=subject.scout,
                    scout_price=scout_price,
                    cap=subject.cap,
                    n_folds=folds,
                    n_resamples=n_resamples,
                    seed=seed,
                )
        except ValueError as error:
            if subject is subjects[-1] and not records:
                raise
            # Of several models one may have too few questions.
            console.print(
                f"\n{subject.name}: left out, {error}", highlight=False, soft_wrap=True, markup=False
            )
            continue
        record = _with_money(result, price_per_million)
        folder = Path(output) if len(subjects) == 1 else _new_folder(output, subject.name, folders)
        with timer.phase("fit"):
            if subject.scout is not None:
                read["scout_tokens"] = subject.scout
            fit_light(subject.table, numbers=read, seed=seed).save(folder / PREDICTOR_FOLDER)
        plot_frontiers(result.points, folder / "frontiers.png")
        run = collect_run_info(config, seed, timer.seconds)
        write_json(folder / ASSESSMENT_FILE, {"name": subject.name, **record, "run": run.__dict__})
        show(subject.name, subject.table, result, record, used, console)
        records.append({"group": subject.name, **record})
        folders.append(folder)
    write_report(folders, output)
    console.print(f"wrote {output}: report.html, and {PREDICTOR_FOLDER}/", highlight=False, soft_wrap=True)
    if json:
        whole: dict[str, Any] = records[0] if len(subjects) == 1 else {"groups": records}
        sys.stdout.write(dumps(whole, indent=2, allow_nan=False) + "\n")


def _of_table(path: str, guess: float | None, budget: int | None) -> _Subject:
    table = CurveTable.load(path, features=[])
    if guess is not None and table.metadata.get("guess") not in (None, f"{guess:g}"):
        raise ValueError(f"guess must be the table's own, {table.metadata['guess']}, got {guess:g}")
    return _Subject(table.metadata.get("model", path), table, None, budget)


def _of_samples(
    found: Prepared,
    where: Sequence[str],
    scout: Sequence[str],
    guess: float,
    grid: Sequence[int],
    budget: int | None,
    grader: str,
    used: Sequence[float],
) -> Iterator[_Subject]:
    wanted = pairs(where, "where").items()
    first: dict[tuple[str | None, str], float] = {}  # ids may repeat from task to task
    if scout:
        for sample in sorted(select(found.reading, scout), key=lambda sample: sample.sample):
            first.setdefault((dict(sample.group).get("task"), sample.question_id), float(sample.tokens))
    any_left = False
    for group, samples in found.groups.items():
        if wanted - set(group) or (scout and not set(pairs(scout, "scout").items()) - set(group)):
            continue
        any_left = True
        budgets = check_budgets(grid) if grid else _grid_for(samples, used)
        table = to_table(
            samples, budgets=budgets, guess=guess, metadata={"source": "samples", "grader": grader}
        )
        alike = all(sample.cap is None for sample in samples)
        cut = np.array([sample.tokens for sample in samples if alike and not sample.finished])
        cap = budget if budget is not None else int(np.median(cut)) if len(cut) else None
        task = dict(group).get("task")
        known = np.array([first.get((task, name), np.nan) for name in table.ids]) if scout else None
        yield _Subject(describe(group), table, samples, cap, known)
    if not any_left:
        there = "; ".join(describe(group) for group in list(found.groups)[:12])
        raise ValueError(f"where must name samples that are there ({there}), got {', '.join(where)}")


def _grid_for(samples: Sequence[Sample], used: Sequence[float]) -> npt.NDArray[np.int64]:
    """The samples' own grid, with budgets below it where less is to be used."""
    grid = grid_of(samples)
    lower = [int(level) for level in used if 1 <= level < grid[0]]
    return np.unique(np.concatenate([np.array(lower, np.int64), grid]))


def _with_money(result: Assessment, price: float | None) -> dict[str, Any]:
    record = result.record()
    if price is not None:
        record["price_per_million"] = price
        for row in record["rows"]:
            share = row["saved_tokens_share"]
            if share is not None:
                row["saved_per_thousand_questions"] = share * row["mean_used"] * price / 1000
    return record


def _new_folder(output: str, name: str, taken: Sequence[Path]) -> Path:
    """A folder of this name, and of no other that reads alike."""
    letters = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)
    folder = Path(output) / (letters.strip("-.") or "samples")
    return next(f for n in count(1) if (f := folder if n == 1 else Path(f"{folder}-{n}")) not in taken)
