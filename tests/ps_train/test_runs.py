"""What runs leave behind, what they refuse, and how they go on."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_runs import MODULES, write_config, write_tables
from tiny_curves import make_table
from tiny_texts import make_text_table
from torch.utils.data import DataLoader

from ps_alloc import Predictions
from ps_train.cli import main
from ps_train.common.rows import Rows
from ps_train.common.split import validation_rows
from ps_train.curve.data import CurveDataModule
from ps_train.curve.mlp import CurveMLP
from ps_train.curve.mlp_net import CurveNet
from ps_train.feature_file import save_features
from ps_train.load import load_predictor
from ps_train.question_hashes import load_question_hashes, seen_in_training
from ps_train.schema import CurveSchema


class OwnNet(CurveNet):
    """An architecture from outside the packages."""

    architecture = "test_runs:OwnNet"


OWN_TRAINING = """
from ps_train.curve.mlp import CurveMLP
from ps_train.curve.mlp_net import CurveNet


class OwnNet(CurveNet):
    architecture = "own_training:OwnNet"


class OwnMLP(CurveMLP):
    architecture = OwnNet.architecture

    def build(self, rows):
        net = OwnNet(rows.schema, self.hidden_sizes, self.num_members, self.dropout)
        self.start(net, rows)
        return net
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    write_tables(folder)
    assert main(["fit", "--config", write_config(folder, "curve_mlp", backbone)]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def epochs_logged(run: Path) -> list[int]:
    with (run / "log" / "fit" / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file) if row.get("val/mse")]


def test_trials_and_runs_without_a_step_leave_a_predictor_alone(fitted, capsys):
    config, weights = str(fitted / "curve_mlp.yaml"), fitted / "run" / "predictor" / "model.safetensors"
    before = weights.read_bytes()
    assert main(["fit", "--config", config, "--trainer.fast_dev_run", "true"]) == 0
    assert "nothing exported: a trial of one batch" in capsys.readouterr().out
    assert main(["fit", "--config", config, "--trainer.limit_train_batches", "0"]) == 0
    assert "nothing exported: no step was trained" in capsys.readouterr().out
    assert weights.read_bytes() == before


@pytest.mark.parametrize(("limit", "steps"), [("1", 1), ("1.0", 4), ("0.5", 2)])
def test_a_limit_is_a_number_of_batches_or_with_a_point_a_share(limit, steps, fitted, tmp_path):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit, "--trainer.limit_train_batches", limit]) == 0
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == steps


def test_checkpoints_have_names_where_nothing_is_trained(fitted, tmp_path, capsys):
    config = ["--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir"]
    here, last = str(fitted / "run"), fitted / "run" / "checkpoints" / "last.ckpt"
    said = []
    for name in ("last", str(last)):
        assert main(["predict", *config, here, "--ckpt_path", name]) == 0
        said.append(Predictions.load(fitted / "run" / "predictions.npz").curves)
    np.testing.assert_array_equal(*said)
    assert "not known" not in capsys.readouterr().out  # whether questions are unlike: a checkpoint has no say
    for asked in ([], ["--data.features", "null"]):  # a checkpoint knows what it reads, not the deepest layer
        assert main(["validate", *config, here, "--ckpt_path", "last", *asked]) == 0
    message = refusal(capsys, "test", *config, str(tmp_path), "--ckpt_path", "last")
    assert f"last must be {tmp_path / 'checkpoints' / 'last.ckpt'}, but there is no such file" in message
    message = refusal(capsys, "test", *config, here, "--ckpt_path", "best")
    assert f"best is known only while a fit runs, which exports it: give --model.predictor {here}" in message


def test_a_checkpoint_goes_before_the_predictor_that_its_fit_began_with(fitted, tmp_path):
    """The config of such a fit names both."""
    make_table(10, seed=5, num_windows=4).save(tmp_path / "table")
    run = ["--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    train = [f"--data.{name}={fitted / 'mlp_train'}" for name in ("train", "predict")]
    other = ["--data.allow_overlap=true", f"--data.test={tmp_path / 'table'}"]
    assert main(["fit", *run, *other, f"--data.train={tmp_path / 'table'}"]) == 0
    both = [
        f"--model.predictor={tmp_path / 'predictor'}",
        f"--ckpt_path={fitted / 'run/checkpoints/last.ckpt'}",
    ]
    assert main(["predict", *run, *train, *both]) == 0
    assert Predictions.load(tmp_path / "predictions.npz").curves.shape == (40, 8)


def test_a_trial_of_predict_writes_nothing(fitted, tmp_path, capsys):
    test = ["--config", str(fitted / "curve_mlp.yaml"), "--trainer.fast_dev_run", "true"]
    test += ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["predict", *test, "--model.predictor", str(fitted / "run" / "predictor")]) == 0
    assert "nothing written: a trial of one batch" in capsys.readouterr().out
    assert not (tmp_path / "predictions.npz").is_file()


@pytest.mark.parametrize("kind", ["curve_lora", "difficulty_lora"])
def test_predictions_of_some_rows_keep_their_names(kind, backbone, tmp_path):
    """`limit_predict_batches` takes the shortest texts first."""
    write_tables(tmp_path)
    config = write_config(tmp_path, kind, backbone)
    assert main(["fit", "--config", config]) == 0
    few = ["--trainer.limit_predict_batches", "2", "--data.eval_batch_size", "2"]
    predictor = tmp_path / "run" / "predictor"
    assert main(["predict", "--config", config, "--model.predictor", str(predictor), *few]) == 0
    test = make_text_table(10, seed=2)
    if kind == "curve_lora":
        written = Predictions.load(tmp_path / "run" / "predictions.npz")
        ids, said = written.ids, written.curves
    else:
        content = json.loads((tmp_path / "run" / "predictions.json").read_text())
        ids, said = content["ids"], content["probabilities"]
    texts = [test.questions[test.ids.index(name)] for name in ids]
    net = load_predictor(predictor)
    expected = net.predict_curves(texts) if kind == "curve_lora" else net.predict_probabilities(texts)
    assert len(ids) == 4
    np.testing.assert_allclose(said, expected, rtol=1e-4)


def test_what_other_weights_scored_is_not_said_of_those_exported(backbone, tmp_path):
    """One validation after two epochs of three, no best checkpoint: nobody measured the last weights."""
    write_tables(tmp_path)
    for every, said in ((2, False), (3, True), (9, False)):
        trainer = {"max_epochs": 3, "check_val_every_n_epoch": every}
        for kind in ("curve_mlp", "budget_point"):
            root = tmp_path / kind
            config = write_config(
                tmp_path, kind, backbone, trainer={**trainer, "default_root_dir": str(root)}
            )
            assert main(["fit", "--config", config]) == 0
            training = json.loads((root / "predictor" / "config.json").read_text())["training"]
            assert ("held_out" in training) == (said and kind == "curve_mlp")
        net = load_predictor(tmp_path / "budget_point" / "predictor")
        assert bool(torch.isfinite(net.calibration_predicted).any()) == said


def test_a_fit_in_the_same_folder_leaves_nothing_of_the_one_before(fitted, tmp_path):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(fit) == 0
    assert (tmp_path / "predictor" / "novelty.safetensors").is_file()
    make_table(8, seed=3).save(tmp_path / "few")
    assert main([*fit, "--data.train", str(tmp_path / "few"), "--data.val_fraction", "0.4"]) == 0
    assert not (tmp_path / "predictor" / "novelty.safetensors").is_file()
    assert len(load_question_hashes(tmp_path / "predictor")) == 8


def test_a_schedule_that_ends_is_not_stretched_by_a_fit_that_goes_on(fitted, tmp_path, capsys):
    """It would rise again, or train with a step size of 0."""
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    fit += ["--model.schedule.shape", "linear"]
    assert main([*fit, "--trainer.max_epochs", "2"]) == 0
    fit += ["--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt")]
    message = refusal(capsys, *fit, "--trainer.max_epochs", "4")
    assert "keeps its length, as its linear schedule ends there: 8 optimizer steps, got 16" in message
    assert main([*fit, "--trainer.max_epochs", "2"]) == 0


def test_a_checkpoint_loads_without_a_trainer(fitted):
    last = fitted / "run" / "checkpoints" / "last.ckpt"
    module = CurveMLP.load_from_checkpoint(last, weights_only=True)
    features = make_table(5).features
    expected = load_predictor(fitted / "run" / "predictor").predict_curves(features)
    np.testing.assert_array_equal(module.net.predict_curves(features), expected)


def test_a_trial_needs_no_room_for_a_warm_up(fitted, tmp_path):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit, "--trainer.fast_dev_run", "true", "--model.schedule.warmup_steps", "30"]) == 0


def test_labels_out_of_range_are_refused_wherever_they_stand(backbone, tmp_path, capsys):
    table, good = make_table(40, seed=1), np.arange(40, dtype=np.int8) % 3
    held_out = int(validation_rows(40, 0.1, 0, 0, table.questions).argmax())
    for name, row in (("good", None), ("train", 1 if held_out == 0 else 0), ("val", held_out)):
        labels = np.where(np.arange(40) == row, 7, good)
        replace(table, extra={"class": labels}).save(tmp_path / f"mlp_{name}")
    make_table(10, seed=2).save(tmp_path / "mlp_test")
    config = write_config(tmp_path, "difficulty_mlp", backbone)
    run = ["--config", config, "--data.label_column", "class", "--data.train", str(tmp_path / "mlp_good")]
    assert main(["fit", *run, "--data.test", "null"]) == 0
    source = ["--model.predictor", str(tmp_path / "run" / "predictor")]
    assert main(["predict", *run, *source]) == 0  # `mlp_test` has no labels, and predictions need none
    for name in ("train", "val"):
        bad = str(tmp_path / f"mlp_{name}")
        message = refusal(capsys, "fit", *run, "--data.train", bad, "--data.test", "null")
        assert f"labels of the {name} rows must be 0 (easy), 1 (medium) or 2 (hard), got 0 to 7" in message
    assert "labels of the test rows must be" in refusal(capsys, "test", *run, "--data.test", bad, *source)


def test_each_subcommand_has_a_log_and_a_refused_run_touches_none(fitted, capsys):
    config, run = str(fitted / "curve_mlp.yaml"), fitted / "run"
    fit_log = (run / "log" / "fit" / "metrics.csv").read_bytes()
    assert main(["test", "--config", config, "--model.predictor", str(run / "predictor")]) == 0
    test_log = (run / "log" / "test" / "metrics.csv").read_bytes()
    assert refusal(capsys, "test", "--config", config)
    assert refusal(capsys, "fit", "--config", config, "--data.train", str(fitted / "nothing"))
    assert (run / "log" / "fit" / "metrics.csv").read_bytes() == fit_log
    assert (run / "log" / "test" / "metrics.csv").read_bytes() == test_log


def test_a_fit_goes_on_exactly_with_dropout_and_keeps_its_log(fitted, backbone, tmp_path, capsys):
    write_tables(tmp_path)
    dropped = {"dropout": 0.5, "schedule": {"shape": "constant"}}
    checkpoints = [{"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": {}}]
    checkpoints[0]["init_args"] = {"monitor": "val/mse", "save_last": True}
    trainer = {"max_epochs": 4, "callbacks": checkpoints}
    config = write_config(tmp_path, "curve_mlp", backbone, trainer=trainer, **dropped)
    assert main(["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "whole")]) == 0
    parts = ["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "parts")]
    assert main([*parts, "--trainer.max_epochs", "2"]) == 0
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 1
    message = refusal(capsys, *parts, "--ckpt_path", str(last), "--model.optimizer.lr", "0.5")
    assert "a fit that goes on keeps its settings: optimizer must be" in message
    assert main([*parts, "--ckpt_path", str(last)]) == 0
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    assert epochs_logged(tmp_path / "parts") == epochs_logged(tmp_path / "whole") == [0, 1, 2, 3]
    assert {path.name for path in last.parent.iterdir() if path.name.startswith("last")} == {"last.ckpt"}


def test_a_fit_on_features_goes_on_in_the_middle_of_an_epoch(fitted, tmp_path):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--model.dropout", "0.5"]
    fit += ["--trainer.max_epochs", "2", "--trainer.callbacks+=ModelCheckpoint"]
    fit += ["--trainer.callbacks.every_n_train_steps=2", "--trainer.callbacks.save_top_k=-1"]
    fit.append("--trainer.callbacks.filename={step}")
    weights = []
    for name in ("whole", "rest"):
        folder = tmp_path / name
        assert main([*fit, "--trainer.default_root_dir", str(folder)]) == 0
        weights.append(torch.load(folder / "checkpoints" / "step=8.ckpt", weights_only=True)["state_dict"])
        fit += ["--ckpt_path", str(folder / "checkpoints" / "step=6.ckpt")]  # of 4 steps an epoch
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)


def test_a_predictor_meets_no_other_features_order_budgets_or_model(fitted, capsys, tmp_path):
    config, run = str(fitted / "curve_mlp.yaml"), fitted / "run"
    test = ["test", "--config", config, "--model.predictor", str(run / "predictor")]
    message = refusal(capsys, *test, "--data.features", "[layer_3]")
    assert "must have the predictor's features layer_2 (12), got layer_3 (12)" in message
    other = replace(make_table(10, seed=5), metadata={"model": "another/model"})
    other.save(tmp_path / "other")
    message = refusal(capsys, *test, "--data.test", str(tmp_path / "other"))
    assert "must be of the model whose accuracy is predicted, made-up, got another/model" in message
    light = ["--model.predictor", "embedded:tiny-light"]
    assert "predictor must be a curve_mlp, got light" in refusal(capsys, "test", "--config", config, *light)
    message = refusal(capsys, "validate", "--config", config)
    assert "a trained predictor is needed: give --ckpt_path or --model.predictor" in message
    schema = CurveSchema({"layer_2": 3, "text": 22}, 4, 16, identities={"backbone": "a"})
    turned = replace(schema, features={"text": 22, "layer_2": 3})
    assert "in its order ['layer_2', 'text'], got ['text', 'layer_2']" in schema.says_of(turned, "x")[0]
    assert "whose files are others" in schema.says_of(replace(schema, identities={"backbone": "b"}), "x")[0]
    assert not schema.says_of(replace(schema, identities={}), "x")
    read = replace(schema, dtypes={"backbone": "float32"})
    (fault,) = read.says_of(replace(schema, dtypes={"backbone": "bfloat16"}), "x")
    assert "in float32 as in training, got bfloat16" in fault


def test_features_that_are_not_named_are_the_predictors_own(fitted, tmp_path):
    """Or the table's deepest layer, where nothing was learned yet."""
    data = CurveDataModule(test=str(fitted / "mlp_test"))
    module = CurveMLP(predictor=str(fitted / "run" / "predictor"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.test(module, data, verbose=False)
    assert data.features == ["layer_2"]
    fresh = CurveDataModule(train=str(fitted / "mlp_train"))
    fresh.setup("fit")
    assert list(fresh.schema().features) == ["layer_3"]


def test_training_questions_are_remembered_as_hashes_and_refused_in_test(fitted, capsys):
    folder = fitted / "run" / "predictor"
    questions = make_table(40, seed=1).questions
    assert len(load_question_hashes(folder)) == 40
    assert seen_in_training(folder, [*questions[:3], "something else"]) == 3
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["served_model"] == "made-up"
    assert config["training"]["budgets"] == list(range(16, 129, 16))
    test = ["--data.test", str(fitted / "mlp_train")]
    message = refusal(capsys, "fit", "--config", str(fitted / "curve_mlp.yaml"), *test)
    assert "data.test must not hold training questions, but 40 of 40 are" in message


def test_a_readme_says_what_the_predictor_is_and_a_merged_one_takes_its_model_along(
    fitted, backbone, tmp_path
):
    readme = (fitted / "run" / "predictor" / "README.md").read_text()
    assert "## Scores\n\n4 held-out questions: r " in readme
    for fact in (
        "made-up answers rightly under 8 token budgets, 16 to 128",
        "`layer_2` (12)",
        "40 questions",
        "## Limits",
        "| licence |",
    ):
        assert fact in readme
    assert "More Information Needed" not in readme
    config = write_config(fitted, "curve_lora", backbone)
    assert main(["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path)]) == 0
    merged = str(tmp_path / "merged")
    assert main(["merge", "--predictor", str(tmp_path / "predictor"), "--output", merged]) == 0
    predictor = load_predictor(merged)
    predictor.save_pretrained(tmp_path / "pushed")  # as push_to_hub does, from a folder of its own
    learned = load_question_hashes(tmp_path / "predictor")
    for folder in (merged, tmp_path / "pushed"):
        np.testing.assert_array_equal(load_question_hashes(folder), learned)
        assert load_predictor(folder).predict(["how many eggs"]).unlike is not None
    config = json.loads((tmp_path / "pushed" / "config.json").read_text())
    assert config["schema"]["backbone"] == "backbone"
    assert (tmp_path / "pushed" / "backbone" / "config.json").is_file()
    questions = ["how many eggs", "sam buys two"]
    one, two = (load_predictor(path).predict_curves(questions) for path in (merged, tmp_path / "pushed"))
    np.testing.assert_array_equal(one, two)


def test_plain_data_loaders_of_batches_are_enough(fitted):
    """No data module: the rows are attached by hand, batches are dictionaries."""
    table = make_table(40, seed=1)
    targets = {"inputs": table.features["layer_2"], "curves": table.curves}
    rows = Rows(table.ids, table.questions, targets, CurveSchema({"layer_2": 12}, 8, 16))
    held = {**{name: torch.tensor(values) for name, values in targets.items()}, "rows": torch.arange(40)}
    batches = [
        {name: values[part] for name, values in held.items()} for part in (slice(0, 20), slice(20, 40))
    ]
    module = CurveMLP([8])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **quiet)
    with pytest.raises(ValueError, match=r"call module.attach_rows\('train', rows\)"):
        trainer.fit(CurveMLP([8]), DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))
    module.attach_rows("train", rows)
    trainer.fit(module, DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))
    assert trainer.callback_metrics["val/mse"] < 0.2
    (figures,) = trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    assert figures["test/mse"] == pytest.approx(float(trainer.callback_metrics["test/mse"]))


def test_former_flags_are_refused_with_their_new_names(fitted, capsys):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml")]
    for flag, now in (
        ("--model.lr=0.1", "model.optimizer.lr"),
        ("--model.weight_decay=0.1", "model.optimizer.weight_decay"),
        ("--model.schedule=cosine", "model.schedule.shape cosine"),
        ("--data.cache=x", "data.extraction.cache"),
    ):
        assert f"{now} now" in refusal(capsys, *fit, flag)
    message = refusal(capsys, "fit", "--data.predict", "x", *fit[1:])
    assert "predict is a setting of a class: give --config, or --model or --data CLASS, before it" in message
    assert "no setting 'num_member': did you mean 'num_members'?" in refusal(
        capsys, *fit, "--model.num_member=2"
    )
    assert "did you mean CurveMLP?" in refusal(capsys, "fit", "--model", "CurveMPL")
    assert "no command 'fti': did you mean fit?" in refusal(capsys, "fti")


def test_presets_are_found_by_name_from_any_folder(fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["--data.train", str(fitted / "mlp_train"), "--trainer.max_epochs", "1"]
    train += ["--trainer.enable_progress_bar", "false", "--data.batch_size", "16"]
    for preset in ("curve_mlp", "paper_mlp", "difficulty_mlp"):
        root = ["--trainer.default_root_dir", str(tmp_path / preset)]
        assert main(["fit", "--config", preset, *train, *root, "--trainer.accelerator", "cpu"]) == 0
        printed = capsys.readouterr().out
        assert f"wrote {tmp_path / preset / 'predictor'}" in printed
        assert "next:  ps-eval answer --questions" in printed
        assert "4 held-out questions" in printed
    message = refusal(capsys, "fit", "--config", "no")
    assert "--config must be a file or one of ['budget_lora', 'curve_lora', 'curve_mlp'" in message
    assert main([]) == 0
    assert "ps-train fit --config curve_mlp" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ps-train ")


@pytest.mark.parametrize(
    ("preset", "data"), [("curve_lora", "{}"), ("difficulty_lora", "{}"), ("budget_lora", "{}.jsonl")]
)
def test_presets_that_read_text_train_on_any_model(preset, data, fitted, backbone, tmp_path):
    train = ["--data.train", str(fitted / data.format("train")), "--data.backbone", str(backbone)]
    train += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.batch_size", "8"]
    train += [
        "--trainer.precision",
        "32-true",
        "--trainer.accelerator",
        "cpu",
        "--model.schedule.warmup_steps",
        "0",
    ]
    assert main(["fit", "--config", preset, *train, "--trainer.default_root_dir", str(tmp_path)]) == 0
    curves = load_predictor(tmp_path / "predictor").predict_curves(["how many ?"])
    assert curves.shape[0] == 1


def test_a_module_of_ones_own_trains_an_architecture_of_ones_own(fitted, tmp_path, monkeypatch):
    (tmp_path / "own_training.py").write_text(OWN_TRAINING)
    monkeypatch.syspath_prepend(str(tmp_path))
    train = ["--data.train", str(fitted / "mlp_train"), "--data.batch_size", "16"]
    train += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    train += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", "curve_mlp", "--model", "own_training.OwnMLP", *train]) == 0
    loaded = load_predictor(tmp_path / "predictor", allow_code=True)
    assert loaded.architecture == "own_training:OwnNet"


def test_an_architecture_of_ones_own_loads_where_it_is_allowed(tmp_path):
    net = OwnNet(CurveSchema({"layer_2": 3}, 4, 16), [2])
    net.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="is code of your own, test_runs:OwnNet: it runs only where"):
        load_predictor(tmp_path / "own")
    features = {"layer_2": np.zeros((2, 3))}
    loaded = load_predictor(tmp_path / "own", allow_code=True)
    assert type(loaded).__name__ == "OwnNet"
    np.testing.assert_array_equal(loaded.predict_curves(features), net.predict_curves(features))
    assert loaded.predict(features, ids=["a", "b"]).budgets.tolist() == [16, 32, 48, 64]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "schema",
            {"features": ["layer_2"], "num_windows": 8, "window": 16},
            "schema.features must be",
        ),
        ("schema", {"features": {}, "num_windows": "8", "window": 16}, "schema.num_windows must be a whole"),
        (
            "schema",
            {"features": {}, "num_windows": 2, "budgets": [32, 16]},
            "schema.budgets must be 2",
        ),
        ("settings", {"hidden_sizes": 7}, "settings in .* must be those of a curve_mlp, but"),
        ("settings", {"hidden_sizes": [2], "width": 7}, "settings in .* must be those of a curve_mlp, but"),
    ],
)
def test_odd_values_in_a_config_are_named(field, value, message, fitted, tmp_path):
    config = json.loads((fitted / "run" / "predictor" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load_predictor(tmp_path)


def test_difficulty_classes_of_a_table_can_be_trained_on(fitted, backbone, tmp_path):
    labelled = tmp_path / "labelled"
    table = ["--table", str(fitted / "mlp_train"), "--output", str(labelled)]
    assert main(["make-difficulty", *table]) == 0
    config = write_config(fitted, "difficulty_mlp", backbone)
    train = ["--data.train", str(labelled), "--data.label_column", "difficulty", "--data.test", "null"]
    assert main(["fit", "--config", config, *train, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert load_predictor(tmp_path / "predictor").thresholds is None


def test_what_lightning_refuses_is_one_sentence(fitted, tmp_path, capsys):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert refusal(capsys, *fit, "--trainer.accelerator", "gpu").startswith("error: ")
    torch.save({"state": Path("x")}, tmp_path / "odd.ckpt")
    message = refusal(capsys, *fit, "--ckpt_path", str(tmp_path / "odd.ckpt"))
    assert "ckpt_path must be a checkpoint that this command wrote: nothing in it is unpickled" in message


def test_a_mistake_that_lightning_takes_for_a_defect_is_one_sentence(fitted, tmp_path, capsys):
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    early = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/nothing"]
    assert "Early stopping conditioned on metric `val/nothing`" in refusal(capsys, *fit, *early)
    assert "should have one of these fields" in refusal(
        capsys, *fit, "--trainer.callbacks+=LearningRateFinder"
    )


@pytest.mark.parametrize(
    ("kind", "flag", "message"),
    [
        ("curve_mlp", "--data.batch_size=0", "error: batch_size must be at least 1, got 0\n"),
        ("curve_mlp", "--model.hidden_sizes=[0]", r"error: hidden_sizes must be positive, got \[0\]"),
        ("curve_mlp", "--model.num_members=0", "num_members must be at least 1, got 0"),
        ("curve_mlp", "--model.dropout=1", r"dropout must lie in \[0, 1\), got 1"),
        (
            "curve_mlp",
            "--model.budgets=[]",
            r"budgets to judge by must be at least one, .* 16 tokens, got \[\]",
        ),
        ("curve_mlp", "--model.budgets=[48, 1]", r"none below the grid's smallest, 16 tokens, got \[48"),
        (
            "budget_point",
            "--model.underrun_rates=[1.5]",
            r"underrun_rates must lie between 0 and 1, got \[1.5\]",
        ),
        (
            "curve_lora",
            "--model.frozen_cache=frozen",
            "frozen_cache needs frozen blocks: lora.layers that begin",
        ),
    ],
)
def test_settings_out_of_range_are_one_sentence(kind, flag, message, fitted, backbone, tmp_path, capsys):
    config = write_config(fitted, kind, backbone) if kind != "curve_mlp" else str(fitted / "curve_mlp.yaml")
    fit = ["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path)]
    assert re.search(message, refusal(capsys, *fit, flag))


def test_a_checkpoint_of_something_else_and_features_of_other_rows_are_named(fitted, tmp_path, capsys):
    run = ["--config", str(fitted / "curve_mlp.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    other = {"state_dict": {}, "epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.0.0"}
    torch.save(other, tmp_path / "other.ckpt")
    message = refusal(capsys, "test", *run, "--ckpt_path", str(tmp_path / "other.ckpt"))
    assert "must be a checkpoint of a predictor's fit, got one of something else" in message
    table = make_table(40, seed=1)
    table.save(tmp_path / "table")
    save_features(tmp_path / "table", {"layer_2": table.features["layer_2"][:39]})
    message = refusal(capsys, "fit", *run, "--data.train", str(tmp_path / "table"))
    assert f"layer_2 of {tmp_path / 'table'} must have one row a question (40), got 39" in message


@pytest.mark.parametrize("kind", ["curve_mlp", "curve_lora"])
def test_a_few_batches_can_be_overfitted(kind, backbone, tmp_path):
    write_tables(tmp_path)
    fit = ["fit", "--config", write_config(tmp_path, kind, backbone), "--trainer.overfit_batches", "2"]
    assert main(fit) == 0


def test_traces_must_be_counted(fitted, tmp_path, capsys):
    table = make_table(40, seed=1)
    replace(table, n_traces=np.where(np.arange(40) == 7, 0, 50).astype(np.int32)).save(tmp_path / "t")
    fit = ["fit", "--config", str(fitted / "curve_mlp.yaml"), "--data.train", str(tmp_path / "t")]
    assert "n_traces" in refusal(capsys, *fit, "--data.test", "null")


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODULES)
def test_processes_that_are_spawned_export_as_well(kind, backbone, tmp_path):
    write_tables(tmp_path)
    config = write_config(tmp_path, kind, backbone, trainer={"strategy": "ddp_spawn", "devices": 2})
    assert main(["fit", "--config", config]) == 0
    assert load_predictor(tmp_path / "run" / "predictor")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["difficulty_mlp", "difficulty_lora", "budget_bins"])
def test_two_processes_train_judge_and_predict_as_one_does(kind, backbone, tmp_path):
    """Under `ddp`, with gloo; the other modules' tests of this are their own."""
    write_tables(tmp_path)
    changes = {} if kind == "difficulty_mlp" else {"lora": {"r": 2, "alpha": 4, "dropout": 0.0}}
    config = write_config(tmp_path, kind, backbone, **changes)
    figures = []
    for name, devices in (("one", 1), ("two", 2)):
        run = ["--config", config, "--trainer.strategy", "ddp" if devices == 2 else "auto"]
        run += ["--trainer.devices", str(devices), "--trainer.default_root_dir", str(tmp_path / name)]
        for command, source in (
            ("fit", []),
            ("test", ["--ckpt_path=last"]),
            ("predict", ["--ckpt_path=last"]),
        ):
            subprocess.run([sys.executable, "-m", "ps_train", command, *run, *source], check=True)
        with (tmp_path / name / "log" / "test" / "metrics.csv").open() as file:
            figures.append({key: float(value) for key, value in next(csv.DictReader(file)).items()})
    # Not the weights: of a gradient that is nearly 0, Adam makes a whole step of either sign.
    assert figures[1] == pytest.approx(figures[0], rel=1e-2, abs=1e-3)
    file = "budgets.json" if "budget" in kind else "predictions.json"
    one, two = (json.loads((tmp_path / name / file).read_text()) for name in ("one", "two"))
    assert two["ids"] == one["ids"] == [f"q{i}" for i in range(10)]
    said = "quantiles" if "budget" in kind else "probabilities"
    np.testing.assert_allclose(two[said], one[said], rtol=1e-2, atol=1e-2)
