"""Models and predictors that come with the package, by name, from any folder."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ps_alloc.files import atomic_path
from ps_eval.engines import load_engine
from ps_eval.spending.guards import check_predictor
from ps_train import load_predictor
from ps_train.common.loading import load_tokenizer, resolve_model
from ps_train.common.model_card import model_card
from ps_train.shipped import FOLDER, embedded_names, resolve_embedded

QUESTION = "Jan Sam has 3 eggs . Feb Sam finds 4 eggs . How many eggs does Sam have in Feb ?"


def test_what_is_shipped_has_a_name_a_card_and_weights() -> None:
    assert {"tiny-diffusion", "tiny-light", "tiny-predictor", "tiny-reasoner"} <= set(embedded_names())
    for name in embedded_names():
        assert (FOLDER / name / "README.md").is_file()
        assert (FOLDER / name / "model.safetensors").stat().st_size < 5 << 20


@pytest.mark.parametrize(
    "name", ["no-such", "../checkpoints/tiny-reasoner", "/etc", "", "tiny-reasoner/../x"]
)
def test_a_name_that_is_not_shipped_is_refused_and_the_known_are_listed(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"embedded:<name> must name one of \['tiny-diffusion', .*, got embedded:"
    ):
        resolve_embedded(f"embedded:{name}")


def test_other_paths_come_back_as_they_are() -> None:
    assert resolve_embedded("name/on-a-hub") == "name/on-a-hub"
    assert resolve_embedded(Path("embedded")) == Path("embedded")


def test_the_shipped_predictor_and_model_load_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = load_predictor("embedded:tiny-predictor")
    assert predictor.predict([QUESTION]).curves.shape == (1, 16)
    assert Path(resolve_model("embedded:tiny-reasoner")).is_dir()
    assert load_tokenizer("embedded:tiny-reasoner").vocab_size > 50
    assert load_engine("transformers", "embedded:tiny-reasoner") is not None
    told = {"served_model": "embedded:tiny-reasoner", "allow_other_model": False}
    assert check_predictor("embedded:tiny-predictor", **told) == []
    with pytest.raises(
        ValueError, match="the predictor learned from checkpoints/tiny-reasoner, but x/other answers"
    ):
        check_predictor("embedded:tiny-predictor", served_model="x/other")


def test_the_shipped_light_predictor_gives_hard_questions_more() -> None:
    light = load_predictor("embedded:tiny-light")
    long = "Mar Eva has 10 apples . Apr Eva gives 7 apples . May Eva packs 6 boxes of 6 apples . " * 2
    short, hard = light.predict([QUESTION, f"{long}How many apples does Eva have in May ?"]).curves
    assert short[1] > hard[1] + 0.2


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, ""),
        (
            {"left_out": {"pearson_use": 0.5, "choices": {}}},
            "On questions left out, mean over budgets: pearson use 0.50.",
        ),
        ({"held_out": {"title": "9 held-out", "rows": [{"mean tokens": "48", "gain": "+8"}]}}, "| 48 | +8 |"),
    ],
)
def test_a_card_says_what_was_measured_and_nothing_else(training: dict[str, Any], said: str) -> None:
    schema = {"features": {}, "budgets": [16], "served_model": "m", "backbone": None}
    card = model_card({"architecture": "light_text", "schema": schema, "training": training})
    assert ("## Scores" in card) == bool(said)
    assert said in card
    assert "the question's text, with numpy alone" in card


def test_weights_get_the_mode_of_any_file_their_user_creates(tmp_path: Path) -> None:
    """safetensors puts a file of its own, readable by its user alone, where it was told to write."""
    (tmp_path / "plain").touch()
    wanted = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    target = tmp_path / "model.safetensors"
    for _ in range(2):
        with atomic_path(target) as temporary:
            save_file({"weight": np.zeros(3)}, temporary)
        assert stat.S_IMODE(target.stat().st_mode) == wanted
    target.chmod(0o640)
    with atomic_path(target) as temporary:
        temporary.unlink()
        torch.save({}, temporary)
        temporary.chmod(0o600)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
