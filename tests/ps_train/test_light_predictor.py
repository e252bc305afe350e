from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ps_train.cli import main
from ps_train.light.fit import fit_light
from ps_train.light.predictor import LightPredictor
from ps_train.load import load_predictor
from ps_train.question_hashes import seen_in_training
from tests.ps_train.light_tables import GRID, text_table


@pytest.fixture(scope="module")
def fitted() -> LightPredictor:
    return fit_light(text_table())


@pytest.fixture(scope="module")
def fresh():
    return text_table(200, seed=1)


def test_fresh_questions_are_predicted_on_the_grid_in_accuracy_and_use(fitted, fresh) -> None:
    said = fitted.predict(fresh.questions)
    np.testing.assert_array_equal(said.budgets, GRID)
    for predicted, measured in ((said.curves, fresh.curves), (said.use / GRID, fresh.use / GRID)):
        error = ((predicted - measured) ** 2).mean()
        assert error < 0.5 * measured.var(axis=0).mean()
    assert np.corrcoef(said.use[:, 3], fresh.use[:, 3])[0, 1] > 0.8


def test_predictions_are_calibrated_on_the_whole(fitted, fresh) -> None:
    said = fitted.predict(fresh.questions)
    assert np.abs(said.curves.mean(axis=0) - fresh.curves.mean(axis=0)).max() < 0.05
    assert np.abs(said.use / GRID - fresh.use / GRID).mean(axis=0).max() < 0.12


def test_accuracy_rises_under_a_strict_cap_and_use_is_possible(fitted, fresh) -> None:
    said = fitted.predict(fresh.questions)
    assert (np.diff(said.curves, axis=1) >= 0).all()
    assert said.curves.min() >= 0
    assert said.curves.max() <= 1
    assert (np.diff(said.use, axis=1) >= 0).all()
    assert (said.use <= GRID).all()


def test_a_curve_of_forced_answers_may_fall() -> None:
    table = text_table()
    falling = replace(table, curves=table.curves[:, ::-1].copy(), metadata={"answer": "forced"})
    curves = fit_light(falling).predict(table.questions).curves
    assert (np.diff(curves.mean(axis=0)) < 0).any()


def test_one_question_is_predicted_as_in_a_batch(fitted, fresh) -> None:
    together = fitted.predict(fresh.questions[:5])
    for row in range(5):
        alone = fitted.predict([fresh.questions[row]])
        np.testing.assert_allclose(alone.curves[0], together.curves[row], atol=1e-6)
        np.testing.assert_allclose(alone.use[0], together.use[row], rtol=1e-5)


def test_strange_texts_are_predicted_too(fitted) -> None:
    texts = ["", "?", "\0\ud800", "x" * 1_000_000, "9" * 5000, "数学" * 50]
    said = fitted.predict(texts)
    assert np.isfinite(said.curves).all()
    assert (said.use <= GRID).all()
    assert fitted.predict_curves([]).shape == (0, 6)


def test_a_saved_predictor_says_the_same(fitted, fresh, tmp_path) -> None:
    fitted.save(tmp_path / "p")
    loaded = load_predictor(tmp_path / "p")
    np.testing.assert_array_equal(
        loaded.predict_curves(fresh.questions), fitted.predict_curves(fresh.questions)
    )
    assert seen_in_training(tmp_path / "p", fresh.questions) == 0
    assert seen_in_training(tmp_path / "p", text_table().questions) == 120
    training = json.loads((tmp_path / "p/config.json").read_text())["training"]
    assert training["served_model"] == "toy"
    assert training["grader"] == "exact"
    assert training["num_questions"] == 120
    np.testing.assert_allclose(loaded.training_mean, text_table().curves.mean(axis=0), atol=1e-6)


def test_inference_imports_neither_torch_nor_scipy_nor_pyarrow(fitted, tmp_path) -> None:
    fitted.save(tmp_path / "p")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'scipy', 'pyarrow', 'transformers', 'rich', 'numba']))\n"
        "from ps_train import load_predictor\n"
        "print(load_predictor(sys.argv[1]).predict(['how many eggs', 'sam buys two']).use.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p")], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 6)"


def test_numbers_beside_the_text_help_and_may_be_unknown() -> None:
    table, fresh = text_table(60, samples=4), text_table(200, seed=1)
    texts = replace(table, questions=["what is it?"] * 60)
    with_hint = fit_light(texts, numbers={"scout": table.extra["scout"]})
    said = with_hint.predict(["what is it?"] * 200, numbers={"scout": fresh.extra["scout"]})
    assert np.corrcoef(said.use[:, 3], fresh.use[:, 3])[0, 1] > 0.8
    unknown = with_hint.predict(["what is it?"], numbers={"scout": [np.nan]})
    assert np.isfinite(unknown.curves).all()


def test_a_table_without_use_says_nothing_of_use() -> None:
    predictor = fit_light(text_table(use=False))
    said = predictor.predict(text_table().questions)
    assert said.use is None
    assert np.corrcoef(said.curves.mean(axis=1), text_table().curves.mean(axis=1))[0, 1] > 0.8


def test_many_questions_are_fitted_by_the_iterative_solver(fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps_train.light.ridge.EXACT_ROWS", 300)
    said = fit_light(text_table(1000)).predict(fresh.questions)
    assert np.corrcoef(said.use[:, 3], fresh.use[:, 3])[0, 1] > 0.85


def test_equal_curves_are_predicted_as_they_are() -> None:
    table = text_table()
    flat = replace(
        table, curves=np.full_like(table.curves, 0.25), use=np.tile(GRID / 2, (120, 1)).astype(np.float32)
    )
    said = fit_light(flat).predict(["anything at all"])
    np.testing.assert_allclose(said.curves, 0.25, atol=1e-5)
    np.testing.assert_allclose(said.use[0], GRID / 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.predict("one text"), "questions must be a list of texts, got str"),
        (lambda p: p.predict([1, 2]), "questions must be a list of texts, got list"),
        (lambda p: fit_light(text_table(10)), "needs at least 20 questions, got 10"),
        (lambda p: p.window, r"the predictor has no window: its budgets are \[128"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(fitted, call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_missing_or_wrong_numbers_are_refused() -> None:
    table = text_table(40)
    predictor = fit_light(table, numbers={"scout": table.extra["scout"]})
    with pytest.raises(ValueError, match=r"numbers must hold the columns \['scout'\]"):
        predictor.predict(["a question"])
    with pytest.raises(ValueError, match="must be one finite number a question"):
        predictor.predict(["a question"], numbers={"scout": [1.0, 2.0]})
    with pytest.raises(ValueError, match="must be numbers, but"):
        predictor.predict(["a question"], numbers={"scout": ["many"]})


def test_predictions_carry_ids_and_other_grids_are_refused(fitted) -> None:
    assert fitted.predict(["one", "two"], ids=["a", "b"]).ids == ["a", "b"]
    fitted.check_grid(GRID, "the table")
    np.testing.assert_array_equal(fitted.schema.grid, GRID)
    with pytest.raises(ValueError, match="the table must have the predictor's budgets"):
        fitted.check_grid(GRID[:3], "the table")


def test_a_damaged_folder_is_refused(fitted, tmp_path) -> None:
    folder = tmp_path / "p"
    fitted.save(folder)
    arrays = load_file(folder / "model.safetensors")
    save_file({**arrays, "map": arrays["map"][:, :3].copy()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="map must have the shape"):
        load_predictor(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="must hold the weights its config describes"):
        load_predictor(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "schema": {"budgets": [3, 2]}}))
    with pytest.raises(ValueError, match="must hold a light predictor's schema and settings"):
        load_predictor(folder)


def test_the_command_fits_and_says_how_well(tmp_path, capsys) -> None:
    table = text_table()
    table.save(tmp_path / "table")
    args = ["light", "--table", str(tmp_path / "table"), "--output", str(tmp_path / "p")]
    assert main([*args, "--numbers", '["scout"]']) == 0
    assert "learned from 120 questions, 6 budgets" in capsys.readouterr().out
    predictor = load_predictor(tmp_path / "p")
    assert predictor.predict(["sum of a list"], numbers={"scout": [150]}).curves.shape == (1, 6)
    assert main([*args, "--numbers", '["cost"]']) == 2
    assert "numbers must be columns of numbers of" in capsys.readouterr().err
