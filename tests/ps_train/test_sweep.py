"""The layer sweep, on a table where one layer is known to carry the signal."""

import json

import pytest
from tiny_curves import make_table

from ps_train.cli import main
from ps_train.sweep import parse_layers, sweep_layers

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec")


def test_the_sweep_finds_the_layer_that_explains_the_curves_and_writes_both_files(tmp_path, capsys):
    make_table(300).save(tmp_path / "train")  # layer_2 explains the curves, layer_3 is noise
    flags = {"train": tmp_path / "train", "layers": "2-3", "output": tmp_path / "out", "seeds": 2}
    assert main(["sweep"] + [f"--{flag}={value}" for flag, value in {**flags, "max_epochs": 25}.items()]) == 0
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    scores = {score["layer"]: score for score in written["scores"]}
    assert scores[2]["window_pearson"] > 0.5
    assert abs(scores[3]["window_pearson"]) < 0.25
    assert len(scores[2]["by_window"]) == 8
    assert scores[2]["window_pearson_std"] > 0  # two members, two starts
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "per-window r" in capsys.readouterr().out
    small = {**flags, "layers": "2", "seeds": 1, "max_epochs": 1, "json": "true"}
    assert main(["sweep"] + [f"--{flag}={value}" for flag, value in small.items()]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "sweep.json").read_text())


def test_layers_of_an_encoder_are_swept_under_its_own_names(tmp_path, backbone):
    make_table(60).save(tmp_path / "train")
    scores = sweep_layers(
        str(tmp_path / "train"),
        [1, 2],
        encoder=str(backbone),
        seeds=1,
        max_epochs=1,
        cache=str(tmp_path / "cache"),
    )
    assert [score.feature for score in scores] == ["encoder_layer_1", "encoder_layer_2"]


def test_layers_are_written_as_numbers_and_ranges():
    assert parse_layers("2, 4,6-8") == [2, 4, 6, 7, 8]
    for text in ("", "0", "x", "5-3", "1-"):
        with pytest.raises(ValueError, match=r"layers must be numbers from 1 or ranges.*got"):
            parse_layers(text)


def test_bad_requests_are_refused(tmp_path, capsys):
    assert main(["sweep", "--train=nowhere", "--layers=2", f"--output={tmp_path}"]) == 2
    assert "a curve table must be a folder with curves.parquet, got nowhere" in capsys.readouterr().err
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        sweep_layers(str(tmp_path), [1], seeds=0)
    with pytest.raises(ValueError, match="layers must name at least one layer, got none"):
        sweep_layers(str(tmp_path), [])
