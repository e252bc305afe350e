"""Predictor folders: what is saved is what is loaded, and damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ps_train.curve.mlp_net import CurveNet
from ps_train.load import load_predictor
from ps_train.predictor import CurvePredictor
from ps_train.schema import CurveSchema


@pytest.fixture
def net(backbone: Path) -> CurveNet:
    torch.manual_seed(0)
    schema = CurveSchema({"layer_2": 32, "text": 22}, num_windows=8, window=16, backbone=str(backbone))
    return CurveNet(schema, [8], num_members=2)


def test_save_and_load_give_the_same_predictions_from_any_class(net, questions, tmp_path):
    net.standardise(torch.randn(50, net.schema.input_size))
    net.save_pretrained(tmp_path / "predictor")
    assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "predictor").iterdir()}
    expected = net.predict_curves(questions)
    for load in (load_predictor, CurveNet.from_pretrained, CurvePredictor.from_pretrained):
        np.testing.assert_array_equal(load(tmp_path / "predictor").predict_curves(questions), expected)


def test_questions_give_what_their_ready_features_give(net, questions, backbone):
    from ps_train.common.features import extract_features
    from ps_train.common.text_features import text_features

    ready = {**extract_features(backbone, questions, [2]), "text": text_features(questions)}
    curves = net.predict_curves(ready)
    assert curves.shape == (len(questions), 8)
    np.testing.assert_allclose(net.predict_curves(questions), curves, atol=1e-6)
    assert net.predict_curves({name: values[:0] for name, values in ready.items()}).shape == (0, 8)


def test_predictor_and_backbone_can_be_moved_together_and_the_backbone_overridden(
    net, questions, backbone, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(backbone, first / "backbone")
    moved = CurveNet(
        CurveSchema({"layer_2": 32}, num_windows=8, window=16, backbone=str(first / "backbone")), [8]
    )
    moved.save_pretrained(first / "predictor")
    expected = moved.predict_curves(questions)
    shutil.move(first, second)
    np.testing.assert_array_equal(load_predictor(second / "predictor").predict_curves(questions), expected)
    shutil.rmtree(second / "backbone")
    with pytest.raises(ValueError, match="backbone must be a language model's folder"):
        load_predictor(second / "predictor").predict_curves(questions)
    overridden = load_predictor(second / "predictor", backbone=backbone)
    np.testing.assert_array_equal(overridden.predict_curves(questions), expected)


def test_bad_features_are_refused_with_one_sentence(net):
    rows = {"layer_2": np.zeros((3, 32)), "text": np.zeros((3, 22))}
    for changes, message in (
        (
            {"layer_2": np.zeros((3, 31))},
            r"x\['layer_2'\] must be an array of shape \(N, 32\), got \(3, 31\)",
        ),
        ({"text": np.zeros((4, 22))}, r"x\['text'\] must have 3 rows, got 4"),
        ({"text": np.full((3, 22), np.nan)}, "x must be finite, got NaN or infinity in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            net.predict_curves({**rows, **changes})
    with pytest.raises(ValueError, match=r"x must hold the feature 'text', got \['layer_2'\]"):
        net.predict_curves({"layer_2": rows["layer_2"]})
    with pytest.raises(ValueError, match="got one string"):
        net.predict_curves("how many eggs ?")
    bare = CurveNet(CurveSchema({"layer_2": 32}, num_windows=8, window=16), [8])
    with pytest.raises(
        ValueError, match=r"config names none: pass load_predictor\(…, backbone=PATH\) or --backbone"
    ):
        bare.predict_curves(["how many eggs ?"])


def test_missing_or_damaged_folders_are_named(net, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a predictor must be a folder with config.json, got .*nowhere"):
        load_predictor(tmp_path / "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"a predictor must be a folder or a Hub id, got runs/predictr: "):
        load_predictor("runs/predictr")
    folder = tmp_path / "predictor"
    net.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"model.safetensors must hold the weights its config describes"):
        load_predictor(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"a predictor folder must hold model.safetensors"):
        load_predictor(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "oracle"}))
    unknown = r"architecture in .* must be one of \[.*'curve_mlp'.*\], got 'oracle'"
    with pytest.raises(ValueError, match=unknown):
        load_predictor(folder)
    for damaged in ({"architecture": "curve_mlp"}, {**config, "schema": {"window": 16}}):
        (folder / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"config.json must hold a predictor's schema and settings, but"):
            load_predictor(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"but .* has none"):
        load_predictor(folder)
