"""Every module fitted, tested, predicted with and exported on a GPU; NCCL between processes."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_runs import MODULES, check_whole_path, write_config
from tiny_texts import make_text_table

from ps_train.cli import main
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor

ON_GPU = {"accelerator": "gpu", "devices": 1}
ROOT = Path(__file__).parents[2]
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")


def without_dropout(kind: str) -> dict[str, Any]:
    """Settings under which both devices draw the same random numbers: none."""
    if "mlp" in kind:
        return {"dropout": 0.0}
    head = {"hidden_sizes": [8]} if "budget" in kind else {}
    return {"lora": {"r": 2, "alpha": 4, "dropout": 0.0}, "head": {**head, "dropout": 0.0}}


def weights_of(root: Path) -> dict[str, torch.Tensor]:
    return load_predictor(root / "predictor").state_dict()


def epochs_logged(root: Path, name: str) -> list[float]:
    with (root / "log" / "fit" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", MODULES)
def test_the_whole_path_in_every_precision(kind, precision, tables, backbone, tmp_path):
    config = write_config(tables, kind, backbone, trainer={**ON_GPU, "precision": precision})
    before = torch.cuda.memory.memory_stats()["allocation.all.allocated"]
    check_whole_path(config, tmp_path)
    assert torch.cuda.memory.memory_stats()["allocation.all.allocated"] > before, "nothing ran on the GPU"


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("kind", MODULES)
def test_a_gpu_trains_as_the_cpu_does(kind, tables, backbone, tmp_path):
    """The same first weights, batches and steps: in float32 the devices differ by rounding alone."""
    config = write_config(tables, kind, backbone, **without_dropout(kind))
    for place, flags in (
        ("cpu", ["--trainer.accelerator", "cpu"]),
        ("gpu", ["--trainer.accelerator", "gpu"]),
    ):
        fit = ["fit", "--config", config, "--trainer.devices", "1", *flags]
        assert main([*fit, "--trainer.default_root_dir", str(tmp_path / place)]) == 0
    torch.testing.assert_close(
        weights_of(tmp_path / "gpu"), weights_of(tmp_path / "cpu"), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["curve_mlp", "curve_lora", "budget_point"])
def test_a_fit_that_was_cut_goes_on_exactly(kind, tables, backbone, tmp_path):
    """With dropout: the GPU's own stream of random numbers goes on where it was."""
    dropped = {"dropout": 0.5} if "mlp" in kind else {"lora": {"r": 2, "alpha": 4, "dropout": 0.5}}
    saved = {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": {"save_last": True}}
    trainer = {**ON_GPU, "max_epochs": 3, "callbacks": [saved]}
    config = write_config(tables, kind, backbone, trainer=trainer, schedule={"shape": "constant"}, **dropped)
    whole, parts = (
        ["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / name)]
        for name in ("whole", "parts")
    )
    assert main(whole) == 0
    assert main([*parts, "--trainer.max_epochs", "1"]) == 0
    assert main([*parts, "--ckpt_path", str(tmp_path / "parts" / "checkpoints" / "last.ckpt")]) == 0
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    torch.testing.assert_close(two, one, rtol=0, atol=0)


def nccl_processes(subcommand: str, config: str, root: Path, *flags: str) -> str:
    """Run a subcommand in 2 processes that NCCL joins; returns what the first printed.

    With one GPU both share it: each passes for a machine of its own, as NCCL refuses to see one GPU twice.
    """
    own_gpus = torch.cuda.device_count() > 1
    command = [sys.executable, "-m", "ps_train", subcommand, "--config", config, *flags]
    command += ["--trainer.strategy", "ddp", "--trainer.default_root_dir", str(root)]
    command += ["--trainer.devices", "2"] if own_gpus else ["--trainer.num_nodes", "2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            command,
            env=shared if own_gpus else {**shared, "NODE_RANK": str(rank), "NCCL_HOSTID": f"machine-{rank}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(1 if own_gpus else 2)
    ]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed[0]


@pytest.mark.parametrize(
    "kind", ["curve_mlp", "difficulty_mlp", "curve_lora", "difficulty_lora", "budget_point"]
)
def test_two_processes_joined_by_nccl_train_as_one_does(kind, tables, backbone, tmp_path):
    changes = without_dropout(kind)
    config = write_config(tables, kind, backbone, trainer=ON_GPU, **changes)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["fit", "--config", config, "--trainer.default_root_dir", str(one)]) == 0
    printed = nccl_processes("fit", config, two)
    assert "nranks 2" in printed  # NCCL's own word for it
    torch.testing.assert_close(weights_of(two), weights_of(one), rtol=1e-2, atol=1e-3)
    assert epochs_logged(two, "val/loss") == pytest.approx(epochs_logged(one, "val/loss"), rel=1e-3, abs=1e-4)
    nccl_processes("test", config, two, "--model.predictor", str(two / "predictor"))
    nccl_processes("predict", config, two, "--model.predictor", str(two / "predictor"))
    if kind == "curve_mlp":  # 10 test rows, in two shares
        expected = load_predictor(two / "predictor").predict_curves(
            CurveTable.load(tables / "mlp_test").features
        )
        np.testing.assert_allclose(np.load(two / "predictions.npy"), expected, atol=1e-5)


def test_one_process_alone_joins_by_nccl_too(tables, backbone, tmp_path):
    config = write_config(tables, "curve_lora", backbone, trainer={**ON_GPU, "strategy": "ddp"})
    fit = ["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path)]
    printed = subprocess.run(
        [sys.executable, "-m", "ps_train", *fit, "--trainer.precision", "bf16-mixed"],
        env={**os.environ, "NCCL_DEBUG": "INFO"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "NCCL INFO" in printed.stdout + printed.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_read_on_a_gpu_are_those_read_on_a_cpu(dtype, backbone):
    questions = [f"how many eggs does sam have then {'two ' * n}?" for n in range(1, 30)]
    expected = extract_features(backbone, questions, [1, 4])
    found = extract_features(backbone, questions, [1, 4], dtype=dtype, device="cuda", batch_size=7)
    for name, values in expected.items():
        if dtype == torch.float32:
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
        else:  # 8 or 11 bits of mantissa; the states have a scale of 1
            assert np.abs(found[name] - values).mean() < 0.02 * np.abs(values).mean()


def test_a_fit_extracts_its_features_on_the_gpu_it_trains_on(tables, backbone, tmp_path):
    config = yaml.safe_load(Path(write_config(tables, "curve_mlp", backbone, trainer=ON_GPU)).read_text())
    settings = config["data"]["init_args"]
    for name in ("train", "test"):
        make_text_table(40, 1 + (name == "test")).save(tmp_path / name)
        settings[name] = str(tmp_path / name)
    settings |= {"features": ["layer_3"], "backbone": str(backbone), "allow_overlap": True}
    settings["extraction"] = {"cache": str(tmp_path / "cache")}
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path), "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    predictor = load_predictor(tmp_path / "run" / "predictor")
    assert predictor.schema.dtypes["backbone"] == "bfloat16"
    texts = CurveTable.load(tmp_path / "test", features=[]).questions
    on_cpu = predictor.predict_curves(texts)
    on_gpu = load_predictor(tmp_path / "run" / "predictor").to("cuda").predict_curves(texts)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.02)


@pytest.mark.parametrize("kind", ["curve_lora", "budget_point"])
def test_a_predictor_of_questions_says_on_a_gpu_what_it_says_on_a_cpu(kind, tables, backbone, tmp_path):
    config = write_config(tables, kind, backbone, trainer=ON_GPU)
    assert main(["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path)]) == 0
    texts = [f"how many eggs does sam have then {'two ' * n}?" for n in range(1, 20)]
    on_cpu = load_predictor(tmp_path / "predictor").predict_curves(texts)
    on_gpu = load_predictor(tmp_path / "predictor").to("cuda").predict_curves(texts)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_a_sweep_reads_on_the_gpu_by_itself(backbone, tmp_path):
    make_text_table(60, 1).save(tmp_path / "train")
    flags = ["--train", str(tmp_path / "train"), "--layers", "1,3", "--backbone", str(backbone)]
    flags += ["--seeds", "1", "--max_epochs", "1", "--cache", str(tmp_path / "cache")]
    assert main(["sweep", *flags, "--output", str(tmp_path / "sweep")]) == 0


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ("configs/tiny/reasoner.yaml", ["--data.batches_per_epoch", "6", "--data.tokens_per_batch", "512"]),
        ("configs/tiny/diffusion.yaml", ["--data.batches_per_epoch", "6"]),
    ],
)
def test_the_embedded_models_train_on_a_gpu(config, flags, tmp_path):
    fit = ["fit", "--config", str(ROOT / config), "--trainer.max_epochs", "1", *flags]
    fit += ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.strategy", "auto"]
    fit += ["--trainer.check_val_every_n_epoch", "1", "--trainer.precision", "bf16-mixed"]
    assert main([*fit, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_backbone_loads_where_it_is_asked_to(backbone):
    model, _ = load_backbone(backbone, dtype=torch.bfloat16, device="cuda")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("cuda", torch.bfloat16)}
