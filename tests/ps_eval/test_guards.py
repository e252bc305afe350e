from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ps_eval.engines.base import Sampling
from ps_eval.run_folder import append_lines, locked_folder
from ps_eval.run_settings import RunSettings, predictor_identity
from ps_eval.spending.guards import check_predictor
from ps_train.question_hashes import (
    HASHES_FILE,
    hash_question,
    load_question_hashes,
    save_question_hashes,
    seen_in_training,
)

SETTINGS = RunSettings({"engine": "transformers", "dtype": "float32"}, Sampling(), "math-1")


@pytest.fixture
def predictor(tmp_path: Path) -> Path:
    """A folder that says what it learned from; no weights."""
    config = {
        "architecture": "curve_mlp",
        "schema": {"served_model": "models/tiny"},
        "training": {"served_model": "models/tiny", "grader": "math-1"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_question_hashes(tmp_path, ["How many ?", "Who ?", "Who ?"])
    return tmp_path


def test_a_predictor_where_it_belongs_passes_without_a_remark(predictor: Path) -> None:
    belongs = check_predictor(
        predictor, questions=["New ?"], served_model="/elsewhere/models/tiny/", grader="math-1"
    )
    assert belongs == []


@pytest.mark.parametrize(
    ("use", "allow", "message"),
    [
        ({"questions": ["Who ?", "New ?"]}, "allow_training_questions", "1 of 2 questions are ones the pred"),
        ({"served_model": "models/large"}, "allow_other_model", "from models/tiny, but models/large answers"),
        ({"grader": "exact-1"}, "allow_other_grader", "from grades of math-1, but exact-1 grades"),
    ],
)
def test_a_predictor_on_the_wrong_thing_is_refused_unless_that_is_meant(
    predictor: Path, use: dict, allow: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{message}.*{allow} \(--{allow.replace('_', '-')}\) goes on"):
        check_predictor(predictor, **use)
    (remark,) = check_predictor(predictor, **use, **{allow: True})
    assert message in remark


def test_what_a_predictor_does_not_say_is_not_held_against_it(tmp_path: Path) -> None:
    use = {"questions": ["Who ?"], "served_model": "m", "grader": "math-1"}
    assert check_predictor("someone/predictor-on-a-hub", **use) == []
    (tmp_path / "config.json").write_text(json.dumps({"schema": {"served_model": "unknown"}}))
    assert check_predictor(tmp_path, **use) == []


def test_question_hashes_know_a_text_again_whatever_its_spaces_and_case(predictor: Path) -> None:
    hashes = load_question_hashes(predictor)
    assert hashes is not None
    assert hashes.tolist() == sorted({hash_question("How many ?"), hash_question("Who ?")})
    assert seen_in_training(predictor, ["  WHO\n?", "Why ?"]) == 1
    assert not (predictor / HASHES_FILE).read_bytes().count(b"Who")


@pytest.mark.parametrize("content", [b"\x93NUMPY", b"nothing"])
def test_damaged_hashes_are_named(predictor: Path, content: bytes) -> None:
    (predictor / HASHES_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{HASHES_FILE} must be a .npy file of hashes"):
        load_question_hashes(predictor)
    np.save(predictor / HASHES_FILE, np.zeros(3))
    with pytest.raises(ValueError, match="must hold uint64 hashes, got float64"):
        load_question_hashes(predictor)


def test_run_settings_have_one_hash_and_name_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    SETTINGS.guard(path)
    SETTINGS.guard(path)
    assert json.loads(path.read_text())["hash"] == SETTINGS.hash
    for changed, message in (
        ({"engine": {"engine": "transformers", "dtype": "float16"}}, "dtype was 'float32' and is 'float16'"),
        ({"grader": "exact-1"}, "grader was 'math-1' and is 'exact-1'"),
        ({"predictor": "p@1"}, "predictor was None and is 'p@1'"),
        ({"sampling": Sampling(seed=3)}, "seed was 0 and is 3"),
        ({"more": {"num_traces": 2}}, "num_traces was None and is 2"),
    ):
        other = replace(SETTINGS, **changed)
        assert other.hash != SETTINGS.hash
        with pytest.raises(ValueError, match=f"begun with, but {message}$"):
            other.guard(path)


def test_a_predictor_trained_again_is_another_one(predictor: Path) -> None:
    before = predictor_identity(predictor)
    assert before == predictor_identity(predictor)
    (predictor / "model.safetensors").write_bytes(b"weights")
    assert predictor_identity(predictor) != before
    assert predictor_identity("someone/predictor") == "someone/predictor"


def test_a_folder_is_free_again_when_the_block_ends_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked_folder(tmp_path / "new"):  # noqa: PT012
        with pytest.raises(ValueError, match="by one process at a time"), locked_folder(tmp_path / "new"):
            pass
        raise RuntimeError
    with locked_folder(tmp_path / "new"):
        pass
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_is_named_and_what_is_kept_said() -> None:
    with pytest.raises(OSError, match=r"No space .* \(what is there is kept, .* goes on\): '/dev/full'"):
        append_lines(Path("/dev/full"), ["a"])
