"""The difficulty classifier from table to allocation, by the commands users run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_curve_lora import CURVE_LORA, logged
from tiny_texts import make_text_table, write_text_config

from ps_alloc.cli import main as ps_alloc
from ps_alloc.difficulty import difficulty_curves, load_difficulty_predictions
from ps_train.cli import main
from ps_train.common.split import validation_rows
from ps_train.curve_table import CurveTable
from ps_train.difficulty.labels import DifficultyThresholds
from ps_train.load import load_predictor

DIFFICULTY = "ps_train.difficulty.lora.DifficultyClassifier"


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and a finished run."""
    folder = tmp_path_factory.mktemp("difficulty")
    make_text_table(200, seed=1).save(folder / "train")
    make_text_table(61, seed=2).save(folder / "test")
    config = write_text_config(folder, DIFFICULTY, backbone, percentiles=[30, 60])
    assert main(["fit", "--config", str(config)]) == 0
    return folder


def test_thresholds_and_class_curves_come_from_the_training_rows_alone(trained):
    predictor = load_predictor(trained / "run" / "predictor")
    table = CurveTable.load(trained / "train")
    rows = table.take(~validation_rows(len(table), 0.1, 0, 0))
    thresholds = DifficultyThresholds.fit(rows.curves, (30, 60))
    assert predictor.thresholds == thresholds
    labels = thresholds.labels(rows.curves)
    for number in range(3):
        expected = rows.curves[labels == number].mean(0)
        np.testing.assert_allclose(predictor.class_curves[number].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.mean_curve.numpy(), rows.curves.mean(0), atol=1e-6)


def test_a_trained_classifier_beats_the_majority_and_prints_its_confusion_matrix(trained, backbone, capsys):
    config = str(write_text_config(trained, DIFFICULTY, backbone))
    predictor = ["--model.predictor", str(trained / "run" / "predictor")]
    root = ["--trainer.default_root_dir", str(trained / "tested")]
    assert main(["test", "--config", config, *predictor, *root]) == 0
    printed = capsys.readouterr().out
    figures = {
        name: logged(trained / "tested", f"test/{name}")[0] for name in ("accuracy", "macro_f1", "majority")
    }
    assert figures["accuracy"] > figures["majority"] + 0.1
    for name in ("test/accuracy", "test/macro_f1", "easy", "medium", "hard"):
        assert name in printed
    test = CurveTable.load(trained / "test")
    net = load_predictor(trained / "run" / "predictor")
    labels = net.thresholds.labels(test.curves)
    right = net.predict_probabilities(test.questions).argmax(1) == labels
    assert figures["accuracy"] == pytest.approx(right.mean())
    assert figures["majority"] == pytest.approx(np.bincount(labels).max() / len(labels))


def test_predictions_feed_the_allocator(trained, backbone, tmp_path):
    config = str(write_text_config(trained, DIFFICULTY, backbone))
    predictor = str(trained / "run" / "predictor")
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["predict", "--config", config, "--model.predictor", predictor, *root]) == 0
    written = load_difficulty_predictions(tmp_path / "predictions.json")
    test = CurveTable.load(trained / "test")
    net = load_predictor(predictor)
    assert written.ids == test.ids
    probabilities = net.predict_probabilities(test.questions)
    np.testing.assert_allclose(written.probabilities, probabilities, atol=1e-5)
    np.testing.assert_array_equal(written.labels, probabilities.argmax(1))
    curves = net.predict_curves(test.questions)
    mixture = difficulty_curves(written.class_curves, probabilities=written.probabilities)
    np.testing.assert_allclose(curves, mixture, atol=1e-5)
    assert net.predict_curves([]).shape == (0, 8)
    assert net.predict_probabilities([]).shape == (0, 3)
    arguments = ["--predictions", str(tmp_path / "predictions.json"), "--budget", "48"]
    assert ps_alloc(["difficulty", *arguments, "--output", str(tmp_path / "allocation.json")]) == 0
    allocation = json.loads((tmp_path / "allocation.json").read_text())
    assert allocation["ids"] == test.ids
    assert allocation["spent_tokens"] <= 48 * len(test)


def test_labels_of_a_column_the_ordinal_head_and_adapters_of_a_curve_lora(trained, backbone, tmp_path):
    """All in one run: labels are those of the column, and the start is the other predictor's adapters."""
    config = str(write_text_config(trained, CURVE_LORA, backbone, trainer={"max_epochs": 2}))
    assert main(["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "curves")]) == 0
    settings = {
        "ordinal": True,
        "head": {"hidden_sizes": [8]},
        "adapter": str(tmp_path / "curves" / "predictor"),
    }
    config = str(
        write_text_config(
            trained,
            DIFFICULTY,
            backbone,
            data__label_column="kind",
            **settings,
            optimizer={"lr": 0.01, "head_lr": 0.02},
        )
    )
    root = ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", "--config", config, *root]) == 0
    predictor = load_predictor(tmp_path / "run" / "predictor")
    assert predictor.thresholds is None
    test = CurveTable.load(trained / "test")
    right = predictor.predict_probabilities(test.questions).argmax(1) == test.extra["kind"]
    assert right.mean() > 0.6
    tested = ["--model.predictor", str(tmp_path / "run" / "predictor"), *root]
    assert main(["test", "--config", config, *tested]) == 0
    assert logged(tmp_path / "run", "test/accuracy")[0] == pytest.approx(right.mean())


def test_adapters_to_start_from_are_really_loaded(trained, backbone, tmp_path):
    start = str(trained / "run" / "predictor")
    config = str(write_text_config(trained, CURVE_LORA, backbone, adapter=start, trainer={"max_epochs": 1}))
    arguments = [
        "--trainer.default_root_dir",
        str(tmp_path),
        "--model.optimizer.lr",
        "0",
        "--model.optimizer.head_lr",
        "0.01",
    ]
    assert main(["fit", "--config", config, *arguments]) == 0
    one, other = (load_predictor(path).backbone.state_dict() for path in (start, tmp_path / "predictor"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        np.testing.assert_allclose(other[name].numpy(), weight.numpy(), atol=1e-6)


def test_labels_that_are_none_are_refused(trained, backbone, tmp_path, capsys):
    config = str(write_text_config(trained, DIFFICULTY, backbone))

    def refused(command: str, *arguments: str) -> str:
        root = ["--trainer.default_root_dir", str(tmp_path / "run")]
        assert main([command, "--config", config, *root, *arguments]) == 2
        return capsys.readouterr().err

    assert "label_column must name a whole-number column of" in refused("fit", "--data.label_column", "level")
    table = CurveTable.load(trained / "train")
    kinds = np.where(np.arange(len(table)) < 20, 7, table.extra["kind"])
    replace(table, extra={"kind": kinds}).save(tmp_path / "seven")
    seven = ["--data.train", str(tmp_path / "seven"), "--data.label_column", "kind"]
    assert "labels of the train rows must be 0 (easy), 1 (medium) or 2 (hard), got 0 to 7" in refused(
        "fit", *seven
    )
    column = ["--data.label_column", "kind", "--trainer.max_epochs", "1"]
    assert (
        main(["fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "run"), *column]) == 0
    )
    predictor = ["--model.predictor", str(tmp_path / "run" / "predictor")]
    assert "has no thresholds: give data.label_column" in refused("test", *predictor)
