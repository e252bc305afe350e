"""The shipped configs of the text predictors go through the commands, on tiny models of the same classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_curves import CHAT_TEMPLATE, WORDS, make_tokenizer
from tiny_texts import make_text_table
from transformers import AutoConfig, LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

from ps_train.budget.budgets import BudgetSet
from ps_train.budget.labels import needed_budgets
from ps_train.cli import main
from ps_train.curve_table import CurveTable
from ps_train.load import load_predictor

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}

BRIEF = [f"--trainer.{name}=1" for name in ("max_epochs", "limit_train_batches", "limit_val_batches")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tables, and a tiny model of DeepSeek-R1-Distill-Qwen-1.5B's class and one of SmolLM2-135M's."""
    make_text_table(80, seed=1).save(tmp_path / "train")
    make_text_table(20, seed=2).save(tmp_path / "test")
    torch.manual_seed(0)
    for name, model in (
        ("qwen2", Qwen2Model(Qwen2Config(**SMALL, num_hidden_layers=28))),
        ("llama", LlamaModel(LlamaConfig(**SMALL, num_hidden_layers=30))),
    ):
        model.save_pretrained(tmp_path / name)
        make_tokenizer(CHAT_TEMPLATE).save_pretrained(tmp_path / name)
    return tmp_path


def run(command: str, kind: str, folder: Path, model: str, *arguments: str) -> None:
    configs = ["--config", str(CONFIGS / "gsm8k" / f"{kind}_lora.yaml")]
    if model == "llama":  # the CPU twin: the same settings, another size
        configs += ["--config", str(CONFIGS / "gsm8k" / f"{kind}_lora_smollm2.yaml")]
        configs += ["--model.frozen_cache", str(folder / "frozen")]
    one_process = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.accelerator", "cpu"]
    data = ["--data.backbone", str(folder / model), "--data.train", str(folder / "train")]
    root = ["--data.test", str(folder / "test"), "--trainer.default_root_dir", str(folder / "run")]
    data.append("--data.allow_overlap=true")
    assert main([command, *configs, *one_process, *data, *root, *arguments]) == 0


@pytest.mark.parametrize("kind", ["curve", "difficulty"])
@pytest.mark.parametrize("model", ["qwen2", "llama"])
def test_a_config_fits_tests_and_predicts(kind, model, folder):
    run("fit", kind, folder, model, *BRIEF, "--model.schedule.warmup_steps", "0")
    predictor = load_predictor(folder / "run" / "predictor")
    settings = predictor.backbone.settings
    assert (settings.r, settings.alpha, settings.dropout) == (16, 32, 0.05)
    assert settings.target_modules == ["q_proj", "v_proj"]
    assert settings.num_layers == (22 if model == "llama" else None)
    assert AutoConfig.from_pretrained(folder / model).model_type == model
    source = ["--model.predictor", str(folder / "run" / "predictor")]
    run("test", kind, folder, model, *source)
    run("predict", kind, folder, model, *source)
    assert (folder / "run" / ("predictions.npy" if kind == "curve" else "predictions.json")).is_file()


@pytest.mark.parametrize(
    "twin", [pytest.param(False, marks=pytest.mark.slow), True], ids=["llama32_3b", "smollm2"]
)
def test_a_budget_config_fits_tests_and_predicts(twin, folder):
    """Both language models are Llamas; the CPU twin has all settings but the size."""
    table = CurveTable.load(folder / "train")
    budgets, _ = needed_budgets(table.curves, table.window)
    for name in ("train", "test"):
        BudgetSet(table.ids, table.questions, budgets, table.window, table.curves).save(
            folder / f"{name}.jsonl"
        )
    configs = ["--config", str(CONFIGS / "budget" / "llama32_3b.yaml")]
    if twin:
        configs += ["--config", str(CONFIGS / "budget" / "smollm2.yaml")]
        configs += ["--model.frozen_cache", str(folder / "frozen")]
    here = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.accelerator", "cpu"]
    data = [f"--data.{name}={folder / f'{name}.jsonl'}" for name in ("train", "test")]
    common = [*configs, *here, *data, f"--data.backbone={folder / 'llama'}"]
    common += ["--data.allow_overlap=true", f"--trainer.default_root_dir={folder / 'run'}"]
    assert main(["fit", *common, *BRIEF, "--model.schedule.warmup_steps", "0"]) == 0
    predictor = load_predictor(folder / "run" / "predictor")
    lora = predictor.backbone.settings
    assert (lora.r, lora.alpha, lora.dropout, lora.dtype) == (32, 64, 0.05, "bfloat16")
    assert len(lora.target_modules) == 7
    assert (lora.num_layers, lora.gradient_checkpointing) == ((16, False) if twin else (None, True))
    assert (predictor.settings["loss"], predictor.settings["delta"]) == ("huber", 1000)
    assert [layer.out_features for layer in predictor.head.layers if hasattr(layer, "out_features")] == [
        1024,
        256,
    ]
    source = ["--model.predictor", str(folder / "run" / "predictor")]
    assert main(["test", *common, *source]) == 0
    assert main(["predict", *common, *source]) == 0
    assert (folder / "run" / "budgets.json").is_file()
