"""`ps-eval experiment`: run one experiment, or all, from their configs, and report."""

from __future__ import annotations

import importlib
import inspect
import json as jsonlib  # `json` is a flag of the command
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from ps_alloc.plug_in import load_plug_in
from ps_eval.experiments import EXPERIMENTS
from ps_eval.flag_values import grouped, groups_of
from ps_eval.reporting.record import RECORD_FILE, ExperimentRecord, Outcome
from ps_eval.reporting.report import write_report
from ps_eval.reporting.screen import print_grid
from ps_eval.reporting.summary import collect_run_info

CONFIGS = Path(__file__).parent / "configs"
ALL = "all"
QUICK = "quick"
"""The block of a config whose settings replace the others under `--quick`."""
SCRATCH = "scratch"
"""The argument of an experiment that wants a folder to keep traces and predictors in."""


def experiment_command(
    name: str,
    *,
    quick: bool = False,
    config_file: str | None = None,
    output: str = "runs/experiments",
    again: bool = False,
    json: bool = False,
) -> None:
    """Run an experiment and write its record, pictures and report; `all` runs every one.

    Stop it at any moment and run it again: with `all`, experiments whose record is there are kept. One that
    cannot run, for want of its tables say, does not keep the others from running.

    Args:
        name: Such as accuracy_budget, one of configs/experiments/; or all; or module:function of your own.
        quick: Small settings: minutes instead of an hour, figures with more noise.
        config_file: Settings instead of configs/experiments/NAME.yaml; one of your own has none by default.
        output: Folder to write into: a folder an experiment, and with `all` a report of all of them.
        again: With `all`, also run experiments whose record is there.
        json: Print the records as JSON, one a line.

    Raises:
        ValueError: If there is no such experiment, or its settings cannot be read or do not fit.
    """
    if name != ALL:
        find_experiment(name)
    if name == ALL and config_file is not None:
        raise ValueError(f"config_file must be given for one experiment only, got {config_file!r} for {ALL}")
    root = Path(output) / (QUICK if quick else "full")
    console = Console(stderr=json)
    failed: dict[str, str] = {}
    names = list(EXPERIMENTS) if name == ALL else [name]
    for one in names:
        if name == ALL and not again and (root / one / RECORD_FILE).is_file():
            console.print(f"{one}: kept, {root / one / RECORD_FILE} is there", highlight=False)
            continue
        try:
            record = run_experiment(one, root, quick=quick, config_file=config_file)
            if json:
                sys.stdout.write(jsonlib.dumps(asdict(record)) + "\n")
            else:
                _print(record, console)
        except ValueError as error:
            if name != ALL:
                raise
            failed[one] = str(error)  # such as tables that are not there: the others need not wait for them
            console.print(f"{one}: not run, {error}", highlight=False)
    done = [root / folder_name(one) for one in names if one not in failed]
    if done:
        page = write_report(done, root if name == ALL else done[0])
        console.print(f"Written: {page}", highlight=False)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(names)} experiments could not run: {', '.join(failed)}; "
            f"the first because {next(iter(failed.values()))}"
        )


def find_experiment(name: str) -> tuple[Callable[..., Outcome], str]:
    """An experiment's function, and the question it answers.

    Args:
        name: One of `EXPERIMENTS`, or `module:function` of your own: of its settings, and `scratch` where it
            wants a folder to keep things in, it returns an `Outcome`; its docstring begins with the question.
            It is imported, so name only code that you trust.

    Raises:
        ValueError: If there is no such experiment.
    """
    if name in EXPERIMENTS:
        target, question = EXPERIMENTS[name]
        module, attribute = target.split(":")
        return getattr(importlib.import_module(module), attribute), question
    names = (ALL, *EXPERIMENTS)
    function = load_plug_in(name, "experiment", names, "a function of its settings")
    return function, (inspect.getdoc(function) or name).splitlines()[0]


def folder_name(name: str) -> str:
    """Where in the output an experiment's record lies; without a colon, for all file systems."""
    return name.replace(":", ".")


def run_experiment(
    name: str, root: str | Path, *, quick: bool = False, config_file: str | None = None
) -> ExperimentRecord:
    """Run one experiment by name into `<root>/<name>/`.

    Raises:
        ValueError: As `experiment_command`.
    """
    function, question = find_experiment(name)
    own = CONFIGS / f"{name}.yaml" if name in EXPERIMENTS else None
    settings = read_settings(function, own if config_file is None else Path(config_file), quick=quick)
    command = f"ps-eval experiment {name}" + (" --quick" if quick else "")
    if config_file is not None:
        command += f" --config-file {config_file}"
    start = time.perf_counter()
    arguments = grouped(function, settings)
    if SCRATCH in inspect.signature(function).parameters:
        arguments[SCRATCH] = Path(root) / SCRATCH
    outcome: Outcome = function(**arguments)
    run = collect_run_info(settings, settings.get("seed", 0), {"experiment": time.perf_counter() - start})
    return ExperimentRecord.write(
        Path(root) / folder_name(name), outcome, name=name, question=question, command=command, run=run
    )


def read_settings(function: Callable[..., Outcome], path: Path | None, *, quick: bool) -> dict[str, Any]:
    """An experiment's keyword arguments from its YAML file, where it has one, checked against its signature.

    Raises:
        ValueError: If the file is missing, is not a YAML mapping, or a setting does not fit the signature.
    """
    content = {} if path is None else _read_yaml(path)
    small = content.pop(QUICK, {})
    parser, groups = ArgumentParser(exit_on_error=False), groups_of(function)
    parser.add_function_arguments(function, skip={SCRATCH, *groups}, fail_untyped=True)
    for group in groups.values():
        parser.add_class_arguments(group, fail_untyped=True)
    try:
        settings = parser.parse_object({**content, **(small if quick else {})})
    except ArgumentError as error:
        source = "settings (--config-file)" if path is None else path
        raise ValueError(f"{source} must fit the experiment's settings, but {error}") from error
    return dict(settings.as_dict())


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"settings must be an existing YAML file, but {path} is not there")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must hold valid YAML, but {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a YAML mapping, got a {type(content).__name__}")
    return content


def _print(record: ExperimentRecord, console: Console) -> None:
    console.rule(record.name)
    console.print(record.question, highlight=False)
    for table in record.tables:
        console.print(table.title, highlight=False)
        print_grid(console, table.columns, table.rows, num_names=table.num_names)
    console.print(record.finding, highlight=False)
