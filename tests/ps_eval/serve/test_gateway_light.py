"""The gateway with a light predictor: budgets on a grid, expected use, no torch in the process."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from gateway_process import running_gateway
from running import UpstreamProcess

from ps_eval.cli import main
from ps_eval.serve.forecast import Forecaster
from ps_train.curve_table import CurveTable
from ps_train.light.fit import fit_light
from ps_train.load import load_predictor

BUDGETS = np.array([100, 200, 400, 800, 1600], np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned that sums are easy and proofs are hard."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 400)
    questions = [
        f"{('add the numbers', 'prove the theorem')[kind]} {i} of {i % 7}" for i, kind in enumerate(kinds)
    ]
    needed = np.where(kinds == 1, 700.0, 90.0)[:, None] * rng.uniform(0.8, 1.2, (400, 1))
    curves = (1 / (1 + (needed / BUDGETS) ** 4)).astype(np.float32)
    use = np.minimum(BUDGETS, needed).astype(np.float32)
    table = CurveTable(
        [f"q{i}" for i in range(400)],
        questions,
        ["1"] * 400,
        curves,
        np.full(400, 8, np.int32),
        BUDGETS,
        use=use,
    )
    path = tmp_path_factory.mktemp("light")
    fit_light(table).save(path)
    return path


def post(url: str, prompt: str) -> dict[str, str]:
    body = json.dumps({"prompt": prompt, "max_tokens": 10_000}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/completions", body), timeout=30
    ) as response:
        return dict(response.headers)


@pytest.mark.parametrize("pace", ["granted", "used"])
def test_its_budgets_are_on_its_grid_and_no_torch_is_loaded(
    upstream: UpstreamProcess, folder: Path, tmp_path: Path, pace: str
) -> None:
    flags = ["--upstream", upstream.url, "--predictor", str(folder), "--tokens-per-request", "400"]
    flags += ["--initial-price", "0.0003", "--pace", pace, "--decision-log", str(tmp_path / "log.jsonl")]
    with running_gateway(tmp_path / "log", *flags) as gateway:
        easy = int(post(gateway.url, "add the numbers 901 of 3")["x-ps-budget"])
        hard = int(post(gateway.url, "prove the theorem 902 of 3")["x-ps-budget"])
        assert easy in BUDGETS
        assert hard in BUDGETS
        if pace == "granted":
            assert easy < 400 <= hard
        else:  # a large budget costs an easy question nothing: its expected use is booked
            assert gateway.metric("ps_gateway_paced_tokens_mean") < 0.6 * (easy + hard) / 2
        loaded = Path(f"/proc/{gateway.process.pid}/maps").read_text()
        assert "libtorch" not in loaded
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["budgets"] for line in lines] == [BUDGETS.tolist()] * 2


def test_a_forecaster_gives_use_only_where_it_is_wanted(folder: Path) -> None:
    predictor = load_predictor(folder)
    alone, both = Forecaster(predictor, with_use=False), Forecaster(predictor, with_use=True)
    assert alone(["prove it"]).shape == (1, 5)
    assert both(["prove it"]).shape == (1, 2, 5)
    assert (alone.window, both.mean.shape) == (None, (2, 5))


@pytest.mark.parametrize("choice", ["keep", "mean"])
def test_questions_unlike_those_learned_from_are_counted_and_get_the_mean_curve_if_so_chosen(
    upstream: UpstreamProcess, folder: Path, tmp_path: Path, choice: str
) -> None:
    log = tmp_path / "log.jsonl"
    flags = ["--upstream", upstream.url, "--predictor", str(folder), "--tokens-per-request", "400"]
    flags += ["--initial-price", "0.0003", "--decision-log", str(log), "--unlike", choice]
    with running_gateway(tmp_path / "log", *flags) as gateway:
        like = post(gateway.url, "add the numbers 901 of 3")
        strange = [post(gateway.url, "Qwyjibo zxcv hjkl : vbnm ?") for _ in range(2)]
        assert gateway.metric("ps_gateway_unlike_questions_total") == 2
    assert "x-ps-fallback" not in like
    assert [one.get("x-ps-fallback") for one in strange] == [None if choice == "keep" else "unlike"] * 2
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["unlike"] for line in lines] == [False, True, True]
    if choice == "mean":
        mean = Forecaster(load_predictor(folder), with_use=False).mean
        assert lines[1]["curve"] == lines[2]["curve"] == pytest.approx(mean.tolist(), abs=1e-4)


def test_the_mean_for_unlike_questions_needs_a_predictor_that_tells_them(
    upstream: UpstreamProcess, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "without")
    (tmp_path / "without" / "novelty.safetensors").unlink()
    flags = ["--predictor", str(tmp_path / "without"), "--tokens-per-request", "400", "--unlike", "mean"]
    assert main(["serve", "--upstream", upstream.url, *flags]) == 2
    assert "needs a predictor that tells unlike questions" in capsys.readouterr().err
