"""The curve MLP from table to predictor folder, by the command users run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_curves import make_table

from ps_train.cli import main
from ps_train.curve.metrics import curve_quality
from ps_train.curve.mlp_net import CurveNet
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema

pytestmark = [
    # Lightning's own use of deprecated jsonargparse and torch functions, and its advice on speed and folders.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*args parameter is intended to run from within Python.*"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_table(300, seed=1).save(tmp_path / "train")
    make_table(61, seed=2).save(tmp_path / "test")
    return tmp_path


def write_config(folder: Path, **changes: object) -> Path:
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "ps_train.curve.mlp.CurveMLP",
            "init_args": {"hidden_sizes": [16], "optimizer": {"lr": 0.01}, "budgets": [48, 64]},
        },
        "data": {
            "class_path": "ps_train.curve.data.CurveDataModule",
            "init_args": {
                "train": str(folder / "train"),
                "test": str(folder / "test"),
                "features": ["layer_2"],
                "batch_size": 32,
                "extraction": {"cache": str(folder / "cache")},
            },
        },
        "trainer": {
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "max_epochs": 12,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                    "init_args": {"monitor": "val/allocation_gain", "mode": "max", "save_last": True},
                }
            ],
        },
    }
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        target = config[section] if section == "trainer" else config[section]["init_args"]
        target[key] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_fit_exports_a_predictor_that_knows_more_than_the_mean_curve(folder):
    assert main(["fit", "--config", str(write_config(folder))]) == 0
    predictor = load_predictor(folder / "run" / "predictor")
    test = CurveTable.load(folder / "test")
    curves = predictor.predict_curves(test.features)
    assert curves.shape == (61, 8)
    assert curves.dtype == np.float32
    figures = curve_quality(curves, test.curves, grid=test.budgets, budgets=[48])
    constant = np.tile(predictor.mean_curve.numpy(), (61, 1))
    baseline = curve_quality(constant, test.curves, grid=test.budgets, budgets=[48])
    assert figures["mse"] < 0.5 * baseline["mse"]
    assert figures["window_pearson"] > 0.8
    assert figures["allocation_gain"] > baseline["allocation_gain"] + 0.1


def test_predict_writes_every_row_once_and_in_order(folder):
    config = str(write_config(folder))
    main(["fit", "--config", config])
    predictor = folder / "run" / "predictor"
    assert main(["predict", "--config", config, "--model.init_args.predictor", str(predictor)]) == 0
    written = np.load(folder / "run" / "predictions.npy")
    expected = load_predictor(predictor).predict_curves(CurveTable.load(folder / "test").features)
    np.testing.assert_array_equal(written, expected)


def test_another_window_is_refused_with_exit_code_2(folder, capsys):
    config = str(write_config(folder))
    main(["fit", "--config", config])
    make_table(61, window=32).save(folder / "other")
    predictor = str(folder / "run" / "predictor")
    changes = ["--model.init_args.predictor", predictor, "--data.init_args.test", str(folder / "other")]
    assert main(["test", "--config", config, *changes]) == 2
    assert "the test rows must have the predictor's 8 windows of 16 tokens, got 8 windows of 32" in (
        capsys.readouterr().err
    )


def test_test_without_a_trained_predictor_is_refused(folder, capsys):
    assert main(["test", "--config", str(write_config(folder))]) == 2
    assert "a trained predictor is needed: give --ckpt_path or --model.predictor" in capsys.readouterr().err


def test_missing_features_are_extracted_once_and_questions_predict_as_the_table_does(
    folder, backbone, monkeypatch
):
    train, test = make_table(120), make_table(20, seed=3)
    for name, table in (("train", train), ("test", test)):
        table.features.clear()
        table.save(folder / name)
        (folder / name / "features.safetensors").unlink(missing_ok=True)
    config = str(write_config(folder, data__backbone=str(backbone), data__features=["layer_1", "layer_3"]))
    assert main(["fit", "--config", config]) == 0
    predictor = str(folder / "run" / "predictor")
    assert main(["predict", "--config", config, "--model.init_args.predictor", predictor]) == 0
    written = np.load(folder / "run" / "predictions.npy")
    live = load_predictor(predictor).predict_curves(test.questions)
    np.testing.assert_allclose(live, written, atol=2e-3)  # the cache holds float16

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the backbone ran although its features are in the cache")

    monkeypatch.setattr("ps_train.common.feature_cache.extract_features", refuse)
    assert main(["predict", "--config", config, "--model.init_args.predictor", predictor]) == 0


def test_an_interrupted_fit_resumed_from_its_last_checkpoint_equals_an_uninterrupted_one(folder):
    config = str(write_config(folder))
    assert main(["fit", "--config", config]) == 0
    whole = load_predictor(folder / "run" / "predictor").state_dict()
    other = ["--trainer.default_root_dir", str(folder / "resumed")]
    assert main(["fit", "--config", config, *other, "--trainer.max_epochs", "5"]) == 0
    last = str(folder / "resumed" / "checkpoints" / "last.ckpt")
    assert main(["fit", "--config", config, *other, "--ckpt_path", last]) == 0
    resumed = load_predictor(folder / "resumed" / "predictor").state_dict()
    torch.testing.assert_close(resumed, whole)


def test_bf16_mixed_trains_to_within_noise_of_float32(folder):
    config = str(write_config(folder))
    figures = []
    table = CurveTable.load(folder / "test")
    for precision in ("32-true", "bf16-mixed"):
        root = ["--trainer.default_root_dir", str(folder / precision)]
        assert main(["fit", "--config", config, *root, "--trainer.precision", precision]) == 0
        curves = load_predictor(folder / precision / "predictor").predict_curves(table.features)
        figures.append(curve_quality(curves, table.curves, grid=table.budgets, budgets=[48]))
    # Beside the mean curve's error of .05, .001 is noise.
    assert figures[1]["mse"] == pytest.approx(figures[0]["mse"], abs=0.001)
    assert figures[1]["window_pearson"] == pytest.approx(figures[0]["window_pearson"], abs=0.01)


@pytest.mark.slow
def test_two_processes_train_validate_and_predict_as_one_does(folder):
    """`--trainer.strategy ddp` on 2 gloo processes: same batches, same metrics, every row written once."""
    config = str(write_config(folder))
    assert main(["fit", "--config", config]) == 0
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    root = ["--trainer.default_root_dir", str(folder / "ddp")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(Path(sys.executable).with_name("ps-train"))]

    def run(*arguments: str) -> None:
        subprocess.run([*command, *arguments], check=True, env=environment)

    run("fit", "--config", config, *ddp, *root)
    one, two = (load_predictor(folder / run / "predictor") for run in ("run", "ddp"))
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=1e-3, atol=1e-4)
    for name in ("val/mse", "val/allocation_gain", "val/window_pearson"):
        assert last_logged(folder / "ddp", name) == pytest.approx(last_logged(folder / "run", name), abs=1e-4)

    source = ["--model.init_args.predictor", str(folder / "ddp" / "predictor")]
    subprocess.run(
        [*command, "predict", "--config", config, *ddp, *root, *source], check=True, env=environment
    )
    written = np.load(folder / "ddp" / "predictions.npy")  # 61 rows: odd, so the processes' shares differ
    expected = two.predict_curves(CurveTable.load(folder / "test").features)
    np.testing.assert_allclose(written, expected, atol=1e-6)


def last_logged(run: Path, name: str) -> float:
    """The last value of a metric in the run's CSV log."""
    with (run / "log" / "fit" / "metrics.csv").open() as file:
        values = [row[name] for row in csv.DictReader(file) if row.get(name)]
    return float(values[-1])


def test_ensemble_members_compute_what_they_would_alone():
    """The batched members equal separate MLPs with the same start: no member sees another."""
    torch.manual_seed(0)
    schema = CurveSchema({"layer_2": 12}, num_windows=8, window=16)
    together = CurveNet(schema, [16], num_members=3)
    inputs = torch.randn(5, 12)
    for member in range(3):
        alone = CurveNet(schema, [16], num_members=1)
        own = {name: value[member : member + 1] for name, value in together.members.state_dict().items()}
        alone.members.load_state_dict(own)
        torch.testing.assert_close(together.member_logits(inputs)[member], alone(inputs))
