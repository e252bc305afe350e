"""Damaged and made-up inputs: readers read or refuse them in a sentence, the allocator keeps its word.

`ValueError` is the refusal. Anything else that is raised, a result that breaks a promise, and anything that
takes more than `SECONDS` of a core is a finding.
"""

from __future__ import annotations

import json
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
from faults import Row
from pydantic import ValidationError

from ps_alloc import (
    Allocation,
    BudgetCalibrator,
    Guard,
    Pacer,
    PlattCalibrator,
    Predictions,
    UseCalibrator,
    allocate,
    frontier,
    warm_up,
)
from ps_alloc.files import read_json, write_json
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.grading import load_grader
from ps_eval.logs.read import read_samples
from ps_eval.measuring.trace_file import read_traces
from ps_eval.reporting.summary import load_summary
from ps_eval.serve.bodies import read_body_fields
from ps_eval.serve.pacer_state import StateFile
from ps_eval.spending.response_file import ResponseFile
from ps_train.budget.budgets import load_budgets
from ps_train.curve_table import CurveTable
from ps_train.feature_file import save_features
from ps_train.light.predictor import LightPredictor
from ps_train.load import load_predictor, read_config
from ps_train.menu.table import MenuTable
from ps_train.question_hashes import load_question_hashes, save_question_hashes
from ps_train.questions import load_questions

SECONDS = 5.0
WORDS = (
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"\x00",
    b"\xff\xfe",
    b"\n",
    b"9" * 400,
)


@dataclass(frozen=True)
class Reader:
    """A format: how a good file is made, and who reads it."""

    name: str
    make: Callable[[Path], Path]
    """Writes into a folder; returns the file that is damaged."""
    read: Callable[[Path], Any]
    share: float = 1.0
    """Of the trials that a reader gets: those that take long get fewer."""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut, flipped, doubled, emptied or with other words in it."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[at : at + draw.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + draw.randrange(1, 64)]
        elif kind == 4:
            word = draw.choice(WORDS)
            data[at : at + draw.choice([0, len(word), 8])] = word
        else:
            data[at : at + 16] = draw.randbytes(draw.randrange(17))
    return bytes(data)


def damage(reader: Reader, folder: Path, trials: int, draw: random.Random) -> Row:
    """Read damaged copies of a good file."""
    row = Row("cut and corrupt", reader.name)
    folder.mkdir(parents=True, exist_ok=True)
    path = reader.make(folder)
    good = path.read_bytes()
    reader.read(path)
    for _ in range(trials):
        content = damaged(good, draw)
        path.write_bytes(content)
        attempt(row, lambda: reader.read(path), repr(content[:200]))
    return row


def attempt(row: Row, work: Callable[[], Any], what: str) -> None:
    """One trial: a refusal is counted, anything else that is raised is a finding."""
    row.trials += 1
    since = time.process_time()
    try:
        work()
    except (ValueError, ValidationError):
        row.refused += 1
    except Exception as error:
        row.wrong.append(f"{error!r:.300} on {what}")
    if time.process_time() - since > SECONDS:
        row.wrong.append(f"took {time.process_time() - since:.0f} s on {what}")


# --- good files ------------------------------------------------------------------------------------------

CURVES = (1 / (1 + np.exp(np.linspace(1, 6, 8)[:, None] - np.arange(1, 6)))).astype(np.float32)
GRID = 16 * np.arange(1, 6)
IDS = [f"q{i}" for i in range(8)]
USE = np.minimum(GRID, np.linspace(10, 70, 8)[:, None]).astype(np.float32)


def _json(content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_json(folder / "file.json", content)
        return folder / "file.json"

    return make


def _saved(thing: Any, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        thing.save(folder / name)
        return folder / name

    return make


def _lines(*rows: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "file.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder / "file.jsonl"

    return make


def _table(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        traces = np.full(8, 4, np.int32)
        CurveTable(IDS, [f"How many? {i}" for i in IDS], ["1"] * 8, CURVES, traces, GRID, use=USE).save(
            folder
        )
        save_features(folder, {"layer_2": np.ones((8, 4), np.float32)})
        return folder / name

    return make


def _menu(folder: Path) -> Path:
    shares = np.full((8, 2), 0.5, np.float32)
    states = {"layer_2": np.ones((8, 3), np.float32)}
    MenuTable(IDS, IDS, ["1"] * 8, ["a", "b"], shares, shares, shares, shares, features=states).save(folder)
    return next(folder.glob("*.parquet"))


def _questions(suffix: str) -> Callable[[Path], Path]:
    rows = [{"id": i, "question": f"How many, {i}?", "answer": "4"} for i in IDS]

    def make(folder: Path) -> Path:
        path = folder / f"questions.{suffix}"
        table = pyarrow.Table.from_pylist(rows)
        if suffix == "parquet":
            pq.write_table(table, path)
        elif suffix == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make


def _hashes(folder: Path) -> Path:
    save_question_hashes(folder, IDS)
    return next(folder.glob("*.npy"))


def _npy(folder: Path) -> Path:
    np.save(folder / "curves.npy", CURVES)
    return folder / "curves.npy"


def _eval(folder: Path) -> Path:
    sample = {
        "id": "q1",
        "epoch": 1,
        "input": "How many?",
        "target": "B",
        "output": {"model": "m", "choices": [{"message": {"role": "assistant"}, "stop_reason": "stop"}]},
        "model_usage": {"m": {"input_tokens": 9, "output_tokens": 90, "reasoning_tokens": 40}},
        "scores": {"choice": {"value": "C", "answer": "B"}},
    }
    with zipfile.ZipFile(folder / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"eval": {"task": "t", "model": "m"}}))
        archive.writestr("samples/q1_epoch_1.json", json.dumps(sample))
    return folder / "log.eval"


def _copied(source: Path, name: str) -> Callable[[Path], Path]:
    """A predictor's folder, of which one file is damaged."""

    def make(folder: Path) -> Path:
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder / name

    return make


def _pacer_state() -> dict[str, Any]:
    pacer = Pacer(48, window=16)
    for row in CURVES:
        pacer.decide(row)
    return pacer.state_dict()


def _pacer_goes_on(path: Path) -> None:
    state = read_json(path)
    if not isinstance(state, dict):
        raise ValueError("no object")
    try:
        pacer = Pacer.from_state_dict(state)
    except (TypeError, KeyError, OverflowError) as error:  # as ps_eval.serve.pacer_state takes them
        raise ValueError(str(error)) from error
    assert 0 <= int(pacer.decide(CURVES[0])) <= 16 * CURVES.shape[1]


def _gateway_goes_on(path: Path) -> None:
    file = StateFile(path)
    try:
        for name in (None, "a"):
            assert file.restore(Pacer(48, window=16), name).price > 0
    finally:
        file.close()


TRACE = {
    "id": "q1",
    "lengths": [20],
    "finished": [True],
    "answers": [["4"]],
    "correct": [[1]],
    "probe_tokens": 3,
}
RESPONSE = {
    "id": "q1",
    "thought": None,
    "responses": [
        {
            "budget": 16,
            "reasoning_tokens": 12,
            "answer_tokens": 3,
            "forced": False,
            "text": "4",
            "reasoning": None,
        }
    ],
}
SAMPLE = {
    "question_id": "q1",
    "question": "How many?",
    "sample": 1,
    "tokens": 90,
    "correct": 1,
    "finished": True,
}
DECISION = {
    "format": 1,
    "time": 1.7e9,
    "request_id": "r1",
    "model": "toy",
    "outcome": "ok",
    "questions": [{"text": "How many?", "characters": 9}],
    "sequences": 1,
    "granted": 256,
    "explored": False,
    "price": 0.001,
    "used": 200,
    "completion_tokens": 200,
    "finish_reason": "stop",
    "empty": False,
    "budgets": [256, 512],
    "curve": [0.2, 0.4],
}
FEEDBACK = {"format": 1, "time": 1.7e9, "request_id": "r1", "correct": 1.0}
BUDGET = {"id": "q1", "query": "How many?", "optimal_budget": 48, "window": 16}


def readers(light: Path, network: Path) -> Iterator[Reader]:
    """All formats; `light` and `network` are folders of predictors."""
    predictions = Predictions(CURVES, GRID, use=USE, ids=IDS)
    measured = np.round(CURVES * 4) / 4
    yield Reader("predictions.npz", _saved(predictions, "predictions.npz"), Predictions.load)
    yield Reader("predictions.npy", _npy, Predictions.load)
    yield Reader("allocation", _saved(allocate(CURVES, 400, budgets=GRID), "a.json"), Allocation.load)
    yield Reader("curve table", _table("curves.parquet"), lambda p: CurveTable.load(p.parent), 0.5)
    yield Reader(
        "features", _table("features.safetensors"), lambda p: CurveTable.load(p.parent, ["layer_2"]), 0.5
    )
    yield Reader("menu table", _menu, lambda p: MenuTable.load(p.parent), 0.5)
    for suffix in ("jsonl", "csv", "parquet"):
        yield Reader(f"questions.{suffix}", _questions(suffix), load_questions, 0.5)
    yield Reader("question hashes", _hashes, lambda p: load_question_hashes(p.parent))
    yield Reader("samples.jsonl", _lines(SAMPLE, SAMPLE), lambda p: read_samples([str(p)]))
    yield Reader("Inspect log", _eval, lambda p: read_samples([str(p)]), 0.5)
    yield Reader("decisions", _lines(DECISION, FEEDBACK), lambda p: read_samples([str(p)]))
    yield Reader("traces", _lines(TRACE, TRACE | {"id": "q2"}), lambda p: list(read_traces(p)))
    yield Reader("budgets.jsonl", _lines(BUDGET), load_budgets)
    yield Reader("reasoning format", _json({"think_end": "</think>", "max_forced_tokens": 3}), _format)
    yield Reader("guard", _saved(Guard.fit(CURVES, measured, [32, 64]), "g.json"), Guard.load)
    yield Reader(
        "calibrator", _saved(PlattCalibrator.fit(CURVES, measured, 4), "c.json"), PlattCalibrator.load
    )
    yield Reader("use calibrator", _saved(UseCalibrator.fit(USE, USE, GRID), "u.json"), UseCalibrator.load)
    conformal = BudgetCalibrator.fit(np.arange(20.0, 60.0), np.arange(25.0, 65.0))
    yield Reader("budget calibrator", _saved(conformal, "b.json"), BudgetCalibrator.load)
    yield Reader("pacer's state", _json(_pacer_state()), _pacer_goes_on)
    yield Reader(
        "gateway's state", _json(_pacer_state() | {"others": {"a": _pacer_state()}}), _gateway_goes_on
    )
    yield Reader("light predictor's config", _copied(light, "config.json"), _light)
    yield Reader("light predictor's weights", _copied(light, "model.safetensors"), _light, 0.2)
    yield Reader("predictor's config", _copied(network, "config.json"), lambda p: read_config(p.parent), 0.2)
    yield Reader(
        "predictor's weights", _copied(network, "model.safetensors"), lambda p: load_predictor(p.parent), 0.02
    )
    yield Reader("responses", _responses, lambda p: ResponseFile(p.parent))
    yield Reader("request body", _lines({"prompt": "x", "max_tokens": 5, "stream": False, "n": 2}), _body)
    yield Reader("summary", _summary, load_summary)


def _format(path: Path) -> None:
    target = path.with_name("reasoning_format.json")
    target.write_bytes(path.read_bytes())
    ReasoningFormat.of_model(path.parent)


def _light(path: Path) -> None:
    said = LightPredictor.load(path.parent).predict(["How many eggs?"])
    assert ((said.curves >= 0) & (said.curves <= 1)).all()


def _responses(folder: Path) -> Path:
    (folder / "responses.jsonl").write_text(f"{json.dumps(RESPONSE)}\n" * 2, encoding="utf-8")
    return folder / "responses.jsonl"


def _body(path: Path) -> None:
    read_body_fields(path.read_bytes(), ("thinking_token_budget",))


def _summary(folder: Path) -> Path:
    row = {"mode": "replay", "policy": "hull", "budget": 48, "accuracy": 0.5, "low": 0.4, "high": 0.6}
    row |= {"mean_reasoning_tokens": 40.0, "mean_answer_tokens": None, "forced": None, "n": 10}
    run = {"versions": {}, "commit": None, "config": {}, "seed": 0, "hardware": {}, "seconds": {}}
    write_json(folder / "summary.json", {"rows": [row], "run": run})
    return folder / "summary.json"


# --- made-up calls ---------------------------------------------------------------------------------------


def fuzz_allocator(trials: int, draw: random.Random) -> Row:
    """Curves, grids, budgets and settings of any kind: refused, or within the budget and the limits."""
    row = Row("fuzz", "allocate, frontier")
    warm_up()  # compiling is no slowness
    rng = np.random.default_rng(draw.randrange(2**32))
    odd = [np.nan, np.inf, -np.inf, -1, 2, 0, None, "3", True, 1e300, 2**63, [], 1.5]

    def some(good: Any, rate: float = 0.12) -> Any:
        return draw.choice(odd) if draw.random() < rate else good

    for _ in range(trials):
        n, w = draw.choice([0, 1, 2, 7, 30]), draw.choice([1, 2, 5, 16])
        curves: Any = rng.random((n, w)).astype(draw.choice([np.float32, np.float64]))
        if draw.random() < 0.15 and curves.size:
            curves.flat[draw.randrange(curves.size)] = draw.choice([np.nan, np.inf, -0.1, 1.1])
        if draw.random() < 0.05:
            curves = draw.choice(
                [curves.tolist(), curves[..., None], curves > 0.5, None, "x", curves.astype(object)]
            )
        settings: dict[str, Any] = {}
        if draw.random() < 0.4:
            settings["budgets"] = some(np.cumsum(rng.integers(0 if draw.random() < 0.2 else 1, 50, w)))
        elif draw.random() < 0.5:
            settings["window"] = some(draw.randrange(1, 64))
        if draw.random() < 0.3:
            grid = settings.get("budgets", 16 * np.arange(1, w + 1))
            if isinstance(grid, np.ndarray):
                settings["use"] = some(np.minimum(rng.exponential(60, (n, 1)), grid).astype(np.float32))
        for name, good in (
            ("min_windows", draw.randrange(0, w + 1)),
            ("max_windows", draw.randrange(0, w + 1)),
            ("weights", rng.random(n)),
            ("base_accuracy", draw.random()),
        ):
            if draw.random() < 0.2:
                settings[name] = some(good)
        if draw.random() < 0.3:
            settings["leftover"] = draw.choice(["keep", "spread", "all", "none"])
        if draw.random() < 0.3:
            settings["method"] = draw.choice(["hull", "myopic", "uniform", "best"])
        if draw.random() < 0.2:
            settings["invalid"] = draw.choice(["clip", "uniform", "error"])
        total = some(draw.randrange(0, 16 * w * max(n, 1) + 40))
        attempt(row, lambda: _keeps_its_word(curves, total, settings), f"{total!r}, {settings!r:.300}")  # noqa: B023
    return row


def _keeps_its_word(curves: Any, total: Any, settings: dict[str, Any]) -> None:
    found = allocate(curves, total, **settings)
    width = np.shape(curves)[1]
    assert ((found.windows >= 0) & (found.windows <= width)).all(), "windows out of range"
    assert found.spent_tokens <= total, f"{found.spent_tokens} spent of {total}"
    least, most = settings.get("min_windows"), settings.get("max_windows")
    assert least is None or (found.windows >= least).all(), "below min_windows"
    assert most is None or (found.windows <= most).all(), "above max_windows"
    if not settings:
        assert np.all(np.diff(frontier(curves).expected_accuracy) >= -1e-12), "the frontier falls"


def fuzz_grader(trials: int, draw: random.Random) -> Row:
    """Texts of any kind are graded, never an exception."""
    row = Row("fuzz", "graders")
    graders = [load_grader(name) for name in ("number", "exact", "choice", "gsm8k")]
    pieces = [
        "\\boxed{",
        "}",
        "{",
        "$",
        "4",
        "-",
        "\\frac",
        "1e400",
        "####",
        "٣",
        "\x00",
        "\ud800",
        "(A)",
        "\\",
        ",",
    ]
    for _ in range(trials):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(12)))
        reference = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 6)))
        grader = draw.choice(graders)
        attempt(row, lambda: grader(text, reference), repr((text, reference)))  # noqa: B023
    return row


def fuzz_pacer(trials: int, draw: random.Random) -> Row:
    """Streams of odd curves, refunds and settlements: every decision on the grid, the price positive."""
    row = Row("fuzz", "Pacer")
    rng = np.random.default_rng(draw.randrange(2**32))
    pacer = Pacer(48, window=16)
    for number in range(trials):
        if number % 500 == 0:
            pacer = Pacer(draw.choice([16, 48, 1e6]), window=16, step=draw.choice([0.0, 0.01, 1.0]))
        curve: Any = rng.random(draw.choice([1, 8, 16]))
        if draw.random() < 0.1:
            curve[draw.randrange(curve.size)] = draw.choice([np.nan, np.inf, -1.0, 3.0])

        attempt(row, lambda: _decides_on_the_grid(pacer, curve), repr(curve))  # noqa: B023
    return row


def _decides_on_the_grid(pacer: Pacer, curve: Any) -> None:
    granted = int(pacer.decide(curve))
    assert granted % 16 == 0
    assert 0 <= granted <= 16 * curve.size
    assert np.isfinite(pacer.price)
    assert pacer.price >= 0
