"""Every shipped YAML goes through the command that reads it, on small data."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_curves import make_table

from ps_train.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
# The others: test_tiny_reasoner, test_lora_configs and test_budget_regressor.
CURVE_CONFIGS = sorted(p for p in CONFIGS.rglob("*.yaml") if "CurveDataModule" in p.read_text())


def test_there_are_configs_to_check() -> None:
    assert len(CURVE_CONFIGS) >= 3


@pytest.mark.parametrize("config", CURVE_CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_fits_and_exports_a_predictor(config: Path, tmp_path: Path) -> None:
    table = make_table(60, seed=1)
    table.save(tmp_path / "train")
    feature = next(iter(table.features))
    arguments = [
        "--config",
        str(config),
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.max_epochs",
        "1",
    ]
    arguments += [
        "--data.train",
        str(tmp_path / "train"),
        "--data.test",
        "null",
        "--data.features",
        f"[{feature}]",
    ]
    arguments += ["--data.backbone", "null", "--data.encoder", "null"]
    assert main(["fit", *arguments]) == 0
    assert (tmp_path / "predictor" / "model.safetensors").is_file()


def test_a_table_too_small_to_hold_rows_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_table(4, seed=1).save(tmp_path / "train")
    arguments = [
        "--config",
        str(CONFIGS / "tiny" / "curve_mlp.yaml"),
        "--data.train",
        str(tmp_path / "train"),
    ]
    arguments += ["--data.features", "[layer_2]", "--data.backbone", "null"]
    assert main(["fit", *arguments, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert "val_fraction must leave rows on both sides, got 0.1 of 4 rows" in capsys.readouterr().err
