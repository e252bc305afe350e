"""Checkpoints and weights where the disk is full, or what is read was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError

from ps_alloc.files import atomic_path
from ps_train.cli import main
from ps_train.common.checkpoints import WholeCheckpoints
from ps_train.curve_table import CurveTable


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = WholeCheckpoints()
    writer.save_checkpoint({"epoch": 1, "weights": torch.ones(3)}, path)

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"epoch": 2}, path)
    assert TorchCheckpointIO().load_checkpoint(path, weights_only=True)["epoch"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_a_cut_checkpoint_is_refused_in_one_sentence(
    kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    curves = np.sort(rng.random((30, 4)), axis=1).astype(np.float32)
    names = [f"question {i}" for i in range(30)]
    features = {"layer_2": rng.random((30, 5)).astype(np.float32)}
    traces = np.full(30, 4, np.int32)
    CurveTable(names, names, ["1"] * 30, curves, traces, budgets=16, features=features).save(
        tmp_path / "table"
    )
    fit = ["fit", "--config", "curve_mlp", f"--data.train={tmp_path / 'table'}", "--trainer.accelerator=cpu"]
    fit += [f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.max_epochs=1"]
    fit += ["--trainer.enable_progress_bar=false"]
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2000)}}, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert main([*fit, f"--ckpt_path={path}"]) == 2
    said = capsys.readouterr().err
    assert "ckpt_path must be a whole checkpoint, but it is cut or damaged" in said
    assert "Traceback" not in said


def test_a_full_disk_is_an_error_of_the_system_whoever_writes(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"a\.safetensors cannot be written: .*I/O error: No space left"),
        atomic_path(tmp_path / "a.safetensors"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left")
    with pytest.raises(SafetensorError, match="something else"), atomic_path(tmp_path / "a.safetensors"):
        raise SafetensorError("something else")
