"""The budget model from JSONL to calibrated budgets, by the commands users run, on a tiny random backbone."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ps_alloc import Allocation, Predictions, allocate
from ps_eval.spending.replay import replay_command
from ps_train.budget.budgets import BudgetSet, load_budgets
from ps_train.budget.metrics import budget_quality
from ps_train.budget.net import BudgetNet
from ps_train.budget.regressor import mean_curves
from ps_train.cli import main
from ps_train.common.lora_settings import LoraSettings
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema

WINDOW, NUM_WINDOWS = 16, 8
NOUNS = ("eggs", "sam", "have", "buys", "many", "then")
LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]


def make_budgets(n: int, seed: int) -> BudgetSet:
    """The first word says how much a query needs, give or take a window or two."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(NOUNS), n)
    queries = [
        " ".join([NOUNS[kind], *rng.choice(["two", "how", "?"], 3), *f"{number}"])
        for number, kind in enumerate(kinds)
    ]
    windows = (kinds + 1 + rng.choice([0, 0, 1, 2], n)).clip(1, NUM_WINDOWS)
    curves = np.where(np.arange(1, NUM_WINDOWS + 1) >= windows[:, None], 0.9 - 0.1 * kinds[:, None], 0.1)
    return BudgetSet(
        [f"q{i}" for i in range(n)], queries, windows * WINDOW, WINDOW, curves.astype(np.float32)
    )


def write_config(folder: Path, backbone: Path, **changes: object) -> Path:
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "ps_train.budget.regressor.BudgetRegressor",
            "init_args": {
                "lora": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]},
                "head": {"hidden_sizes": [32]},
                "loss": "bins",
                "levels": LEVELS,
                "optimizer": {"lr": 5e-3},
                "schedule": {"warmup_steps": 5},
            },
        },
        "data": {
            "class_path": "ps_train.budget.data.BudgetDataModule",
            "init_args": {
                "backbone": str(backbone),
                "train": str(folder / "train.jsonl"),
                "test": str(folder / "test.jsonl"),
                "val_fraction": 0.35,
                "batch_size": 16,
                "allow_overlap": True,  # of so few words, some queries are made twice
            },
        },
        "trainer": {
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "max_epochs": 6,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                    "init_args": {"monitor": "val/mae", "mode": "min"},
                },
                {
                    "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                    "init_args": {
                        "filename": "{epoch}",
                        "save_top_k": -1,
                        "every_n_epochs": 1,
                        "save_last": True,
                    },
                },
            ],
        },
    }
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        (config[section] if section == "trainer" else config[section]["init_args"])[key] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def make_folder(folder: Path) -> Path:
    make_budgets(500, seed=1).save(folder / "train.jsonl")
    make_budgets(301, seed=2).save(folder / "test.jsonl")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """A folder with data, config and a fitted run; tests write into folders of their own."""
    folder = make_folder(tmp_path_factory.mktemp("fitted"))
    assert main(["fit", "--config", str(write_config(folder, backbone))]) == 0
    return folder


def arguments(fitted: Path, root: Path) -> list[str]:
    """The fitted predictor under the fitted config, with another output folder."""
    predictor = ["--model.init_args.predictor", str(fitted / "run" / "predictor")]
    return ["--config", str(fitted / "config.yaml"), "--trainer.default_root_dir", str(root), *predictor]


def last_logged(run: Path) -> dict[str, float]:
    """The last value of each metric in the run's CSV log."""
    (log,) = (run / "log").glob("*/metrics.csv")
    with log.open() as file:
        return {name: float(text) for row in csv.DictReader(file) for name, text in row.items() if text}


def test_the_fitted_predictor_knows_more_than_the_median_and_keeps_the_rates_it_is_asked_for(fitted):
    predictor = load_predictor(fitted / "run" / "predictor")
    train, test = (load_budgets(fitted / f"{name}.jsonl") for name in ("train", "test"))
    median = budget_quality(np.full(len(test), np.median(train.budgets)), test.budgets, window=WINDOW)
    figures = budget_quality(predictor.predict_budgets(test.queries), test.budgets, window=WINDOW)
    assert figures["mae"] < 0.6 * median["mae"]
    for rate in (0.1, 0.3, 0.5):
        given = predictor.predict_budgets(test.queries, underrun_rate=rate)
        assert (given % WINDOW == 0).all()
        assert given.max() <= NUM_WINDOWS * WINDOW
        # 175 calibration and 301 test queries: a standard error of 3 to 5 points.
        assert np.mean(given < test.budgets) == pytest.approx(rate, abs=0.1)
    assert predictor.predict_budgets([]).shape == (0,)


def test_its_curves_allocate_better_than_uniform(fitted):
    predictor = load_predictor(fitted / "run" / "predictor")
    test = load_budgets(fitted / "test.jsonl")
    curves = predictor.predict_curves(test.queries)
    assert curves.shape == (301, NUM_WINDOWS)
    assert curves.dtype == np.float32
    budget = 64 * 301
    hull = allocate(curves, budget, window=WINDOW).accuracy_on(test.curves)
    uniform = allocate(curves, budget, window=WINDOW, method="uniform").accuracy_on(test.curves)
    assert hull > uniform + 0.03
    assert predictor.predict_curves([]).shape == (0, NUM_WINDOWS)


def test_replay_reads_the_predictor(fitted, tmp_path, capsys):
    test = load_budgets(fitted / "test.jsonl")
    CurveTable(
        test.ids, test.queries, [""] * 301, test.curves, np.full(301, 100, np.int32), budgets=WINDOW
    ).save(tmp_path / "table")
    replay_command(
        table=str(tmp_path / "table"),
        output=str(tmp_path / "replay"),
        predictor=str(fitted / "run" / "predictor"),
        budgets=(64,),
        n_resamples=50,
    )
    rows = json.loads((tmp_path / "replay" / "summary.json").read_text())["rows"]
    accuracy = {row["policy"]: row["accuracy"] for row in rows}
    assert accuracy["hull"] > accuracy["uniform"] + 0.03
    assert {"mix", "honest_oracle"} < set(accuracy)


def test_predict_writes_what_the_loaded_predictor_says(fitted, tmp_path):
    assert main(["predict", *arguments(fitted, tmp_path)]) == 0
    predictor, test = load_predictor(fitted / "run" / "predictor"), load_budgets(fitted / "test.jsonl")
    written = json.loads((tmp_path / "budgets.json").read_text())
    assert written["ids"] == test.ids
    assert (written["window"], written["levels"]) == (WINDOW, LEVELS)
    np.testing.assert_allclose(written["budgets"], predictor.predict_budgets(test.queries), rtol=1e-4)
    quantiles = np.array(written["quantiles"])
    assert quantiles.shape == (301, 5)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    for rate in (0.1, 0.3, 0.5):
        expected = predictor.predict_budgets(test.queries, underrun_rate=rate)
        np.testing.assert_array_equal(written["tokens"][f"{rate:g}"], expected)
        allocation = Allocation.load(tmp_path / "allocations" / f"underrun-{rate:g}.json")
        np.testing.assert_array_equal(allocation.tokens, expected)
        assert allocation.ids == test.ids
    curves = Predictions.load(tmp_path / "predictions.npy").curves
    np.testing.assert_allclose(curves, predictor.predict_curves(test.queries), atol=0.02)


def test_a_question_set_is_predicted_as_well(fitted, tmp_path):
    (tmp_path / "new.jsonl").write_text('{"question": "eggs two ?", "answer": "1", "id": "x"}\n')
    data = ["--data.init_args.predict", str(tmp_path / "new.jsonl")]
    assert main(["predict", *arguments(fitted, tmp_path), *data]) == 0
    assert json.loads((tmp_path / "budgets.json").read_text())["ids"] == ["x"]


def test_the_test_command_measures_errors_and_the_rates(fitted, tmp_path):
    assert main(["test", *arguments(fitted, tmp_path)]) == 0
    logged = last_logged(tmp_path)
    predictor, test = load_predictor(fitted / "run" / "predictor"), load_budgets(fitted / "test.jsonl")
    expected = budget_quality(predictor.predict_budgets(test.queries), test.budgets, window=WINDOW)
    for name, value in expected.items():
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-3)
    given = predictor.predict_budgets(test.queries, underrun_rate=0.3)
    assert logged["test/underrun_rate_at_0.3"] == pytest.approx(np.mean(given < test.budgets))
    assert logged["test/mean_tokens_at_0.3"] == pytest.approx(given.mean())


@pytest.mark.slow
def test_two_processes_count_every_query_once(fitted, tmp_path):
    """301 test queries on 2 gloo processes: the sampler repeats one, the figures do not."""
    assert main(["test", *arguments(fitted, tmp_path / "one")]) == 0
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(Path(sys.executable).with_name("ps-train")), "test"]
    subprocess.run([*command, *arguments(fitted, tmp_path / "two"), *ddp], check=True, env=environment)
    one, two = last_logged(tmp_path / "one"), last_logged(tmp_path / "two")
    assert {"test/mae", "test/underrun_rate_at_0.1"} < set(one)
    assert two == pytest.approx(one, rel=1e-4)


def test_checkpoints_of_the_best_the_last_and_every_epoch_are_kept(fitted):
    folder = fitted / "run" / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert {"last.ckpt", *(f"epoch={epoch}.ckpt" for epoch in range(6))} < names
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 5
    logged = []
    with (fitted / "run" / "log" / "fit" / "metrics.csv").open() as file:
        logged = [float(row["val/mae"]) for row in csv.DictReader(file) if row.get("val/mae")]
    best = next(name for name in names if name.startswith(f"epoch={int(np.argmin(logged))}-step"))
    weights = torch.load(folder / best, weights_only=True)["state_dict"]
    exported = load_predictor(fitted / "run" / "predictor").state_dict()
    torch.testing.assert_close({name: weights[f"net.{name}"] for name in exported}, exported)
    assert not any("embed_tokens" in name for name in weights)  # adapters and head alone


def test_a_resumed_fit_equals_an_uninterrupted_one_with_its_scheduler(fitted, tmp_path):
    config = ["--config", str(fitted / "config.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    third = str(fitted / "run" / "checkpoints" / "epoch=2.ckpt")
    assert main(["fit", *config, "--ckpt_path", third]) == 0
    whole, resumed = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (fitted / "run", tmp_path)
    )
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    assert resumed["lr_schedulers"][0]["_last_lr"] == [0.0, 0.0]  # linear decay has arrived


@pytest.mark.parametrize(
    ("loss", "space", "method"),
    [
        ("huber", "tokens", "additive"),
        ("huber", "log", "multiplicative"),
        ("pinball", "tokens", "quantile"),
        ("pinball", "log", "quantile"),
    ],
)
def test_every_target_is_one_setting_away(folder, backbone, loss, space, method):
    delta = 1000.0 if space == "tokens" else 1.0
    config = write_config(
        folder,
        backbone,
        model__loss=loss,
        model__space=space,
        model__delta=delta,
        trainer__max_epochs=3,
    )
    assert main(["fit", "--config", str(config)]) == 0
    predictor = load_predictor(folder / "run" / "predictor")
    assert predictor.calibrator().method == method
    test = load_budgets(folder / "test.jsonl")
    constant = np.abs(np.median(test.budgets) - test.budgets).mean()
    assert np.abs(predictor.predict_budgets(test.queries) - test.budgets).mean() < 0.8 * constant
    given = predictor.predict_budgets(test.queries, underrun_rate=0.2)
    assert np.mean(given < test.budgets) == pytest.approx(0.2, abs=0.1)


def test_budgets_without_curves_make_steps(folder, backbone):
    for name in ("train", "test"):
        data = load_budgets(folder / f"{name}.jsonl")
        lines = [
            json.dumps({"query": query, "budget": int(budget)})
            for query, budget in zip(data.queries, data.budgets, strict=True)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    config = write_config(folder, backbone, data__window=32, trainer__max_epochs=1)
    assert main(["fit", "--config", str(config)]) == 0
    predictor = load_predictor(folder / "run" / "predictor")
    assert (predictor.window, predictor.schema.num_windows) == (32, 4)
    curves = predictor.predict_curves(["eggs ?", "then ?"])
    assert (np.diff(curves, axis=1) >= 0).all()
    np.testing.assert_allclose(curves[:, -1], 1)


def test_the_mean_curve_of_those_who_need_as_much():
    curves = np.array([[0.2, 0.4, 0.4], [0.4, 0.8, 0.6], [0.0, 0.0, 0.6]], np.float32)
    actual = mean_curves(curves, np.array([2, 2, 3]))
    best = (0.4 + 0.8 + 0.6) / 3
    np.testing.assert_allclose(actual, [[best, best, best], [0.3, 0.6, 0.5], [0, 0, 0.6]], rtol=1e-6)


def test_other_calibration_queries_can_be_taken_and_are_saved(fitted, tmp_path):
    predictor = load_predictor(fitted / "run" / "predictor")
    harder = make_budgets(400, seed=5)
    needed = (harder.budgets + WINDOW).clip(max=NUM_WINDOWS * WINDOW)
    before = np.mean(predictor.predict_budgets(harder.queries, underrun_rate=0.3) < needed)
    predictor.calibrate(harder.queries[:200], needed[:200])
    predictor.save_pretrained(tmp_path / "again")
    given = load_predictor(tmp_path / "again").predict_budgets(harder.queries[200:], underrun_rate=0.3)
    after = np.mean(given < needed[200:])
    assert after == pytest.approx(0.3, abs=0.1)
    assert before > after + 0.1
    with pytest.raises(ValueError, match=r"needed must be one budget a query \(2\), got shape \(1,\)"):
        predictor.calibrate(["eggs", "sam"], [16])
    with pytest.raises(
        ValueError, match="needed must be positive multiples of the window, 16 tokens, got 20"
    ):
        predictor.calibrate(["eggs"], [20])


def test_a_fit_that_starts_from_a_predictor_calibrates_on_its_own_validation_queries(fitted, tmp_path):
    data = ["--data.init_args.val_fraction", "0.2", "--trainer.max_epochs", "1"]
    assert main(["fit", *arguments(fitted, tmp_path), *data]) == 0
    predictor = load_predictor(tmp_path / "predictor")
    assert predictor.settings["num_calibration"] == 100
    assert len(predictor.calibrator().needed) == 100


def test_an_uncalibrated_predictor_refuses_rates_but_predicts(backbone):
    net = BudgetNet(CurveSchema({}, 8, 16, backbone=str(backbone)), LoraSettings(), loss="pinball")
    assert net.predict_budgets(["eggs"]).shape == (1,)
    for call in (
        lambda: net.predict_budgets(["eggs"], underrun_rate=0.1),
        lambda: net.predict_curves(["eggs"]),
    ):
        with pytest.raises(ValueError, match="the predictor is not calibrated: fit it with validation"):
            call()


def test_data_that_does_not_fit_is_refused(fitted, tmp_path, capsys):
    coarse = make_budgets(20, seed=3)
    BudgetSet(coarse.ids, coarse.queries, coarse.budgets * 2, 32).save(tmp_path / "coarse.jsonl")
    test = ["--data.init_args.test", str(tmp_path / "coarse.jsonl")]
    assert main(["test", *arguments(fitted, tmp_path), *test]) == 2
    assert "the test budgets must have the predictor's window, 16 tokens, got 32" in capsys.readouterr().err
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    config["data"]["class_path"] = "ps_train.curve.text_data.CurveTextDataModule"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    make_table_of(fitted, tmp_path / "table")
    table = ["--data.init_args.train", str(tmp_path / "table"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(tmp_path / "other.yaml"), *table]) == 2
    assert (
        "BudgetRegressor needs tokens and budgets of each question, but the train rows have no budgets"
        in capsys.readouterr().err
    )


def make_table_of(fitted: Path, folder: Path) -> None:
    data = load_budgets(fitted / "test.jsonl")
    CurveTable(
        data.ids, data.queries, [""] * 301, data.curves, np.full(301, 9, np.int32), budgets=WINDOW
    ).save(folder)


def test_a_merged_predictor_keeps_its_calibration(fitted, tmp_path):
    predictor, merged = str(fitted / "run" / "predictor"), str(tmp_path / "merged")
    assert main(["merge", "--predictor", predictor, "--output", merged]) == 0
    queries = load_budgets(fitted / "test.jsonl").queries[:40]
    one, two = (load_predictor(folder).predict_budgets(queries) for folder in (predictor, merged))
    np.testing.assert_allclose(two, one, rtol=1e-3)
    given = load_predictor(merged).predict_budgets(queries, underrun_rate=0.3)
    expected = load_predictor(predictor).predict_budgets(queries, underrun_rate=0.3)
    assert np.mean(given == expected) > 0.9  # float rounding may move one over the edge of a window


def test_settings_of_a_loaded_predictor_are_those_it_was_made_with(fitted):
    predictor = load_predictor(fitted / "run" / "predictor")
    assert predictor.settings["loss"] == "bins"
    assert predictor.settings["levels"] == LEVELS
    assert predictor.settings["num_calibration"] == 175
    assert predictor.settings["lora"]["target_modules"] == ["q_proj", "v_proj", "down_proj"]
    assert asdict(predictor.schema)["num_windows"] == NUM_WINDOWS
