"""Using a predictor needs neither what trains it nor what reads tables."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ps_train.architectures import ARCHITECTURES, build_predictor

TRAINING_ONLY = ["pytorch_lightning", "lightning_fabric", "torchmetrics", "pyarrow", "rich"]


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_load_predictor_imports_nothing_that_trains():
    code = (
        "import sys; from ps_train import load_predictor; "
        f"print([name for name in {TRAINING_ONLY} if name in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_predictor_answers_where_nothing_that_trains_is_installed(architecture, backbone, tmp_path):
    torch.manual_seed(0)
    schema = {"features": {}, "num_windows": 8, "window": 16, "backbone": str(backbone)}
    settings = {"lora": {"r": 2}}
    if architecture.endswith("mlp"):
        schema["features"], settings = {"layer_2": 32, "text": 22}, {"hidden_sizes": [8]}
    config = {"architecture": architecture, "schema": schema, "settings": settings}
    net = build_predictor(config, source="the test")
    if architecture == "budget_lora":
        net.head.fit_target(torch.tensor([16, 32, 128]))
        net.calibrate(["how many eggs", "sam buys"], [16, 32])
    net.save_pretrained(tmp_path / "predictor")
    # None in sys.modules: as if it were not installed, also for libraries that use it where it is there.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({TRAINING_ONLY}))\n"
        "from ps_train import load_predictor\n"
        "print(load_predictor(sys.argv[1]).predict_curves(['how many eggs', 'sam buys two']).shape)"
    )
    assert run(code, str(tmp_path / "predictor")) == "(2, 8)"
