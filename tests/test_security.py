"""What a file from elsewhere cannot do: run code, read or write other files, take secrets along."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoConfig

from ps_alloc import Predictions
from ps_eval.cli import main as ps_eval
from ps_eval.logs.read import read_samples
from ps_eval.redaction import redacted
from ps_eval.reporting.record import RECORD_FILE, ExperimentRecord
from ps_eval.reporting.summary import collect_run_info
from ps_eval.serve.settings import ServeSettings
from ps_train.cli import main as ps_train
from ps_train.common.loading import load_backbone, resolve_model
from ps_train.load import load_predictor
from ps_train.question_hashes import load_question_hashes
from ps_train.shipped import FOLDER

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for name in ("ps_alloc", "ps_train", "ps_eval") for path in sorted((ROOT / name).rglob("*.py"))
]
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLE_ALLOWED = {
    "ps_eval/engines/ray_pool.py": "tasks of one's own Ray cluster, which pickles by itself",
    "ps_train/training_cli.py": "names the error of a refused checkpoint",
}


def calls() -> Iterator[tuple[str, int, str, dict[str, str]]]:
    """File, line, name and keywords of every call in the packages."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {k.arg or "**": ast.unparse(k.value) for k in node.keywords}
                yield str(path.relative_to(ROOT)), node.lineno, ast.unparse(node.func), keywords


def test_no_source_unpickles_or_evaluates_what_it_reads() -> None:
    found = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if name not in PICKLE_ALLOWED:
                found += [(name, m) for m in modules if m.split(".")[0] in PICKLES]
    for file, line, name, keywords in calls():
        unsafe = (
            name
            in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load")
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or (name == "np.load" and keywords.get("allow_pickle") != "False")
            or name.endswith((".extractall", ".extract_all", "unpack_archive"))
            or keywords.get("shell") == "True"
            or "trust_remote_code" in keywords
        )
        if unsafe:
            found.append((file, f"line {line}: {name}"))
    assert not found


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "the trap was sprung"


def test_pickles_in_arrays_and_checkpoints_are_refused_unread(
    sprung: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = np.array([Trap(sprung)], dtype=object)
    np.savez(tmp_path / "predictions.npz", curves=trap, budgets=np.array([16]))
    np.save(tmp_path / "curves.npy", trap)
    np.save(tmp_path / "training_questions.npy", trap)
    for name in ("predictions.npz", "curves.npy"):
        with pytest.raises(ValueError, match=name):
            Predictions.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"must be a \.npy file of hashes"):
        load_question_hashes(tmp_path)
    torch.save({"state_dict": Trap(sprung), "pytorch-lightning_version": "2.6.0"}, tmp_path / "last.ckpt")
    fit = [
        "fit",
        "--config",
        "curve_mlp",
        f"--data.train={tmp_path}",
        f"--ckpt_path={tmp_path / 'last.ckpt'}",
    ]
    assert ps_train([*fit, f"--trainer.default_root_dir={tmp_path / 'run'}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    (tmp_path / "config.json").write_text((FOLDER / "tiny-predictor" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"model\.safetensors must hold the weights its config describes"):
        load_predictor(tmp_path)
    assert not sprung.exists()


def test_tags_in_yaml_are_not_followed(
    sprung: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{sprung}']]"
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(trap)
    config = tmp_path / "config.yaml"
    config.write_text(f"questions: {trap}\n", encoding="utf-8")
    assert ps_eval(["trace", f"--config={config}"]) == 2
    assert ps_eval(["experiment", "starvation", f"--config-file={config}", f"--output={tmp_path}"]) == 2
    assert ps_train(["fit", f"--config={config}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not sprung.exists()


def test_a_models_own_code_is_not_run(sprung: Path, tmp_path: Path) -> None:
    """`auto_map` names code in the model's folder; transformers runs it only where it is trusted."""
    for path in (FOLDER / "tiny-reasoner").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "nowhere", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(sprung)!r}).touch()\n")
    with pytest.raises(ValueError, match="backbone must be a language model's folder"):
        load_backbone(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoConfig.from_pretrained(tmp_path)
    assert not sprung.exists()


def test_a_predictors_config_runs_no_code_unless_allowed(tmp_path: Path) -> None:
    config = json.loads((FOLDER / "tiny-predictor" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "os:system"}))
    with pytest.raises(ValueError, match="runs only where you allow it"):
        load_predictor(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["package:ps_train/../../etc/passwd", "package:../x/y", "package:ps_train//etc/passwd", "package:/etc/x"],
)
def test_a_packages_file_lies_in_the_package(path: str) -> None:
    with pytest.raises(ValueError, match=r"without dots before it|must name a file of the package"):
        resolve_model(path)


def test_a_record_shows_no_other_pictures_than_its_own(tmp_path: Path) -> None:
    run = {"versions": {}, "commit": None, "config": {}, "seed": 0, "hardware": {}, "seconds": {}}
    record = {
        "name": "n",
        "question": "q",
        "command": "c",
        "finding": "f",
        "tables": [],
        "claims": [],
        "run": run,
    }
    for picture in ("../../etc/passwd", "/etc/passwd", 3):
        (tmp_path / RECORD_FILE).write_text(json.dumps(record | {"pictures": [picture]}))
        with pytest.raises(ValueError, match="pictures must be names of files beside the record, got"):
            ExperimentRecord.load(tmp_path)


def test_an_archive_that_is_encrypted_damaged_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"eval": {}}))
        archive.writestr("samples/../../q1.json", json.dumps({"id": "q1" * 40}))
    good = path.read_bytes()
    encrypted = bytearray(good)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = good.find(mark)
        while place >= 0:
            encrypted[place + at] |= 1
            place = good.find(mark, place + 4)
    path.write_bytes(encrypted)
    with pytest.raises(ValueError, match=r"must be an Inspect \.eval archive, but .*encrypted"):
        read_samples([str(path)])
    broken = bytearray(good)
    start = good.find(b"q1.json") + len("q1.json")
    broken[start : start + 8] = b"\xff" * 8
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"must be an Inspect \.eval archive"):
        read_samples([str(path)])
    assert [p.name for p in tmp_path.rglob("*")] == ["log.eval"]  # nothing is ever unpacked


def test_no_password_is_written_or_logged() -> None:
    config = {
        "engine_options": {"base_url": "http://me:hunter2@10.0.0.1:8000/v1", "api_key": "hunter2", "n": 3},
        "questions": "q.jsonl",
        "budgets": [16, 32],
        "more": ["https://hunter2@host/x?y=a@b"],
    }
    written = json.dumps(collect_run_info(config, 0, {}).config, ensure_ascii=False)
    assert "hunter2" not in written
    assert "http://…@10.0.0.1:8000/v1" in written
    assert redacted({"tokens_per_request": 3, "max_tokens": 4}) == {"tokens_per_request": 3, "max_tokens": 4}
    served = ServeSettings(
        upstream="http://me:hunter2@host:1", tokens_per_request=48, otlp_endpoint="http://a:hunter2@b"
    )
    assert "hunter2" not in str(served.shown())
