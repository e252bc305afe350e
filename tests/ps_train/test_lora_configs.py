"""The shipped configs of the text predictors go through the commands, on tiny models of the same classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_curves import CHAT_TEMPLATE, WORDS, make_tokenizer
from tiny_texts import make_text_table
from transformers import AutoConfig, LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

from ps_train.cli import main
from ps_train.predictor import load_predictor

CONFIGS = Path(__file__).parents[2] / "configs" / "gsm8k"
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


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
    configs = ["--config", str(CONFIGS / f"{kind}_lora.yaml")]
    if model == "llama":  # the CPU twin: the same settings, another size
        configs += ["--config", str(CONFIGS / f"{kind}_lora_smollm2.yaml")]
        configs += ["--model.frozen_cache", str(folder / "frozen")]
    one_process = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.accelerator", "cpu"]
    data = ["--data.backbone", str(folder / model), "--data.train", str(folder / "train")]
    root = ["--data.test", str(folder / "test"), "--trainer.default_root_dir", str(folder / "run")]
    assert main([command, *configs, *one_process, *data, *root, *arguments]) == 0


@pytest.mark.parametrize("kind", ["curve", "difficulty"])
@pytest.mark.parametrize("model", ["qwen2", "llama"])
def test_a_config_fits_tests_and_predicts(kind, model, folder):
    run("fit", kind, folder, model, "--trainer.fast_dev_run", "true")
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
