"""Commands that write, small enough to be killed hundreds of times, and what must come out of each."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ps_eval.cli import main as ps_eval
from ps_eval.demo import PREDICTOR, PREDICTOR_CONFIG, REASONER
from ps_train.cli import main as ps_train
from ps_train.curve_table import CurveTable
from ps_train.embedded.problem_families import make_problems
from ps_train.feature_file import load_features
from ps_train.load import load_predictor
from ps_train.questions import save_questions

CHANGING = {"seconds", "started", "run", "timing", "created", "command", "written", "duration_s", "latency_s"}
"""Fields of files that tell when, where or how fast something was done."""
PRELOADED = (
    "matplotlib.pyplot",
    "peft",
    "ps_alloc.allocate",
    "ps_eval.command_line",
    "ps_eval.engines.transformers",
    "ps_eval.experiments.command",
    "ps_eval.experiments.early_stopping",
    "ps_eval.logs.command",
    "ps_eval.measuring.trace",
    "ps_eval.serve.command",
    "ps_eval.spending.answer",
    "ps_eval.spending.run",
    "ps_train.curve.data",
    "ps_train.curve.lora",
    "ps_train.curve.mlp",
    "ps_train.curve.text_data",
    "ps_train.light.command",
    "ps_train.predictor",
    "ps_train.training_cli",
    "transformers.models.qwen2.modeling_qwen2",
)
Seen = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One command: `work(inputs, folder)` runs it, `seen(folder)` is what its user has in the end."""

    name: str
    work: Callable[[Path, Path], int]
    seen: Callable[[Path], Seen]
    tolerance: float = 0.0
    """Of numbers that threads may add in another order."""


def preload() -> None:
    """Import what the commands import, once for all children."""
    for name in PRELOADED:
        importlib.import_module(name)
    torch.set_num_threads(1)


def make_inputs(folder: Path) -> None:
    """Questions, a curve table with features, samples and configs that the subjects read."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = [p.as_question(f"q{i}") for i, p in enumerate(make_problems(8, seed=77))]
    save_questions(folder / "questions.jsonl", problems)
    rng = np.random.default_rng(3)
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for problem in problems:
            for _ in range(20):
                tokens, right = int(rng.integers(10, 300)), bool(rng.random() < 0.6)
                row = {"id": problem.id, "question": problem.question, "tokens": tokens, "correct": right}
                file.write(json.dumps({**row, "finish_reason": "stop"}) + "\n")
    many = [p.as_question(f"t{i}") for i, p in enumerate(make_problems(96, seed=78))]
    needed = rng.integers(1, 16, 96)[:, None]
    curves = (1 / (1 + np.exp(needed - np.arange(1, 17)))).astype(np.float32)
    CurveTable(
        [q.id for q in many],
        [q.question for q in many],
        [q.answer for q in many],
        curves,
        np.full(96, 4, np.int32),
        budgets=16,
        metadata={"model": str(REASONER)},
    ).save(folder / "table")
    settings = {"num_problems": 6, "num_traces": 2, "patiences": [2], "budgets": [32, 64]}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    table = str(folder / "table")
    mlp = yaml.safe_load(PREDICTOR_CONFIG.read_text(encoding="utf-8"))
    mlp["data"]["init_args"] |= {"train": table, "backbone": str(REASONER)}
    mlp["data"]["init_args"]["extraction"] = {"cache": str(folder / "features")}
    mlp["trainer"] |= {"max_epochs": 6, "enable_progress_bar": False}
    lora = {
        "seed_everything": 0,
        "model": {
            "class_path": "ps_train.curve.lora.CurveLoRA",
            "init_args": {"lora": {"r": 4, "alpha": 8}, "optimizer": {"lr": 0.01}},
        },
        "data": {
            "class_path": "ps_train.curve.text_data.CurveTextDataModule",
            "init_args": {"backbone": str(REASONER), "train": table, "batch_size": 16},
        },
        "trainer": {**mlp["trainer"], "max_epochs": 3, "callbacks": []},
    }
    for name, config in (("mlp", mlp), ("lora", lora)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def _trace(inputs: Path, folder: Path, *more: str) -> int:
    return ps_eval(
        [
            "trace",
            f"--questions={inputs / 'questions.jsonl'}",
            f"--model={REASONER}",
            f"--output={folder / 'table'}",
            "--num-traces=2",
            "--questions-per-chunk=2",
            "--num-windows=6",
            *more,
        ]
    )


def _table_seen(folder: Path) -> Seen:
    table = CurveTable.load(folder / "table")
    seen: Seen = {"ids": table.ids, "answers": table.answers, "curves": table.curves, "use": table.use}
    features = folder / "table" / "features.safetensors"
    if features.is_file():
        arrays = load_features(folder / "table", None)
        seen |= {name: np.asarray(array) for name, array in arrays.items()}
    return seen


def _served(inputs: Path) -> list[str]:
    questions = inputs / "questions.jsonl"
    return [f"--questions={questions}", f"--predictor={PREDICTOR}", f"--model={REASONER}"]


def _answer(inputs: Path, folder: Path) -> int:
    return ps_eval(
        ["answer", *_served(inputs), f"--output={folder / 'answers.jsonl'}", "--budget=48", "--batch-size=2"]
    )


def _rows_seen(path: Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _run(inputs: Path, folder: Path) -> int:
    cells = "--budgets=32,48", "--policies=uniform,hull"
    return ps_eval(
        ["run", *_served(inputs), f"--output={folder / 'run'}", *cells, "--batch-size=2", "--n-resamples=200"]
    )


def _run_seen(folder: Path) -> Seen:
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    responses = _rows_seen(folder / "run" / "responses.jsonl")
    return {
        "rows": timeless(summary["rows"]),
        "responses": sorted(responses, key=lambda row: json.dumps(row, sort_keys=True)),
    }


def _experiment(inputs: Path, folder: Path) -> int:
    config, output = inputs / "experiment.yaml", folder / "experiments"
    return ps_eval(["experiment", "early_stopping", f"--config-file={config}", f"--output={output}"])


def _experiment_seen(folder: Path) -> Seen:
    (path,) = (folder / "experiments").rglob("experiment.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: timeless(record[name]) for name in ("tables", "finding")}


def _import(inputs: Path, folder: Path) -> int:
    return ps_eval(["import-samples", str(inputs / "samples.jsonl"), f"--output={folder / 'table'}"])


def _fit(config: str) -> Callable[[Path, Path], int]:
    def work(inputs: Path, folder: Path) -> int:
        root = folder / "fit"
        last = root / "checkpoints" / "last.ckpt"
        resumed = [f"--ckpt_path={last}"] if last.is_file() else []
        return ps_train(
            ["fit", f"--config={inputs / config}", f"--trainer.default_root_dir={root}", *resumed]
        )

    return work


def _predictor_seen(folder: Path) -> Seen:
    predictor = load_predictor(folder / "fit" / "predictor")
    questions = [p.question for p in make_problems(6, seed=5)]
    return {"curves": predictor.predict_curves(questions), "mean": predictor.training_mean}


def _light(inputs: Path, folder: Path) -> int:
    return ps_train(["light", f"--table={inputs / 'table'}", f"--output={folder / 'fit' / 'predictor'}"])


SUBJECTS = (
    Subject("trace", _trace, _table_seen),
    Subject("trace with features", lambda i, f: _trace(i, f, "--layers=2,4"), _table_seen, 1e-6),
    Subject("import of samples", _import, _table_seen),
    Subject("answer", _answer, lambda folder: {"rows": _rows_seen(folder / "answers.jsonl")}),
    Subject("run", _run, _run_seen),
    Subject("experiment", _experiment, _experiment_seen),
    Subject("fit, MLP", _fit("mlp.yaml"), _predictor_seen, 1e-4),
    Subject("fit, LoRA", _fit("lora.yaml"), _predictor_seen, 1e-4),
    Subject("fit, light", _light, _predictor_seen, 1e-5),
)


def timeless(value: Any) -> Any:
    """Without what tells when or how fast it was done."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CHANGING and "second" not in k}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two sights are equal, numbers within `tolerance`."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[k], right[k], tolerance) for k in left)
    if isinstance(left, np.ndarray):
        return left.shape == right.shape and bool(np.allclose(left, right, rtol=0, atol=tolerance))
    if isinstance(left, list):
        return len(left) == len(right) and all(
            same(a, b, tolerance) for a, b in zip(left, right, strict=True)
        )
    return bool(left == right)
