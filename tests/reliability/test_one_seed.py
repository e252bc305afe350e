"""Same command, same seed, same machine: the same files, byte for byte, but for what tells time and place."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

sys.path.append(str(Path(__file__).parent))

import faults
from faults import Bench
from subjects import Subject, preload, timeless

from ps_eval.cli import main as ps_eval
from ps_eval.demo import REASONER
from ps_train.forecast.forecaster import Forecaster, ForecastSchema, new_net

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="runs commands in forked children"),
    pytest.mark.filterwarnings("ignore"),
]
DIFFUSION = REASONER.parent / "tiny-diffusion"


def _diffuse(inputs: Path, folder: Path) -> int:
    given = [f"--questions={inputs / 'questions.jsonl'}", f"--model={DIFFUSION}", "--schedule=static-dual"]
    return ps_eval(["diffuse", *given, "--limit=3", f"--output={folder / 'responses.jsonl'}"])


def _roll(inputs: Path, folder: Path) -> int:
    given = [f"--questions={inputs / 'questions.jsonl'}", f"--model={REASONER}", "--batch-size=4"]
    given += [f"--forecaster={inputs / 'forecaster'}", "--budget=20", "--temperature=1", "--top-p=1"]
    return ps_eval(["roll", *given, f"--output={folder / 'answers.jsonl'}"])


QUICK = [
    *faults.by_name(["trace with features", "answer", "fit, light"]),
    Subject("diffuse", _diffuse, lambda folder: {}),
    Subject("roll", _roll, lambda folder: {}),
]
SLOW = faults.by_name(["run", "experiment", "fit, MLP", "fit, LoRA"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    preload()
    bench = Bench(tmp_path_factory.mktemp("one_seed"))
    torch.manual_seed(1)
    schema = ForecastSchema([8, 16, 32], {"layer_1": 128})
    settings = {"hidden_sizes": [16], "num_members": 2, "dropout": 0.0}
    Forecaster(schema, new_net(schema, settings), settings).save(bench.inputs / "forecaster")
    return bench


def _content(path: Path, folder: Path) -> Any:
    """What a file says, without `folder` and the seconds that a report tells, which differ."""
    if path.suffix == ".safetensors":  # the order of its metadata is left to chance
        with safe_open(path, "np") as file:
            return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    raw = path.read_bytes()
    if path.suffix == ".json":
        return timeless(json.loads(raw.replace(str(folder).encode(), b"HERE")))
    text = raw.replace(str(folder).encode(), b"HERE")
    return re.sub(rb"\bexperiment:? [\d.]+ s\b", b"", text) if path.name.startswith("report.") else text


@pytest.mark.parametrize("subject", QUICK, ids=lambda subject: subject.name)
def test_a_command_given_twice_writes_the_same_files(subject: Subject, bench: Bench) -> None:
    given_twice(subject, bench)


@pytest.mark.slow
@pytest.mark.parametrize("subject", SLOW, ids=lambda subject: subject.name)
def test_what_takes_longer_writes_the_same_files_too(subject: Subject, bench: Bench) -> None:
    given_twice(subject, bench)


def given_twice(subject: Subject, bench: Bench) -> None:
    written = []
    for _ in range(2):
        folder = bench.fresh()
        how = bench.work(subject, folder)
        assert how.code == 0, how.printed[-2000:]
        # Checkpoints name their folder; the predictor holds the same weights.
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".ckpt"]
        written.append({str(path.relative_to(folder)): _content(path, folder) for path in files})
    one, other = written
    assert one.keys() == other.keys()
    assert len(one) >= 1
    assert [name for name in one if one[name] != other[name]] == []
