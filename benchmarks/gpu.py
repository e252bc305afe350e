"""What prediction and training cost on a GPU, with models of the sources' shapes and random weights.

    python benchmarks/gpu.py --tables ../shared/data/gsm8k_r1_distill_1.5b --work /tmp/gpu

Speed and memory do not depend on what weights say; nothing here measures accuracy. The tables' questions are
read by a byte-level tokenizer of 8,000 pieces made from them. Medians over rounds that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from ps_alloc import allocate
from ps_eval.engines.base import Request, Sampling
from ps_eval.engines.transformers import TransformersEngine
from ps_train.budget.budgets import BudgetSet
from ps_train.budget.labels import needed_budgets
from ps_train.cli import main as ps_train
from ps_train.common.features import extract_features
from ps_train.common.loading import load_backbone
from ps_train.curve.mlp_net import CurveNet
from ps_train.curve_table import CurveTable
from ps_train.schema import CurveSchema

TEMPLATE = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>{% endif %}"
QWEN_1_5B = Qwen2Config(  # DeepSeek-R1-Distill-Qwen-1.5B
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
)
LLAMA_3B = LlamaConfig(  # Llama-3.2-3B-Instruct
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)


def save_model(config: PretrainedConfig, texts: list[str], folder: Path) -> Path:
    """A model of a shape, its weights random, in bfloat16; and a tokenizer made from texts."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<think>", "</think>"]
    pieces.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    config.update({"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None})
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def medians(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each way, in turns; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def prediction(folder: Path, table: CurveTable, rounds: int) -> None:
    """Reading the questions' states, predicting, allocating; beside reasoning itself."""
    model, tokenizer = load_backbone(folder, dtype=torch.bfloat16, device="cuda")
    texts = table.questions
    schema = CurveSchema(features={"layer_28": 1536}, num_windows=16, window=16)
    net = CurveNet(schema, hidden_sizes=[256], num_members=8)
    states = extract_features(model, texts, [28], 128, tokenizer=tokenizer)

    def read(layer: int, some: list[str], batch_size: int = 128) -> Callable[[], object]:
        return lambda: extract_features(model, some, [layer], batch_size, tokenizer=tokenizer)

    curves = net.predict_curves(states)
    total = 96 * len(texts)
    found = medians(
        {
            **{f"states of all, {n} blocks": read(n, texts) for n in (2, 14, 28)},
            **{f"states of one, {n} blocks": read(n, texts[:1]) for n in (2, 14, 28)},
            "predicted curves of all, on the CPU": lambda: net.predict_curves(states),
            "budgets of all, on the CPU": lambda: allocate(curves, total, window=16),
        },
        rounds,
    )
    engine = TransformersEngine(folder, batch_size=128, device="cuda", dtype="bfloat16")
    asked = [Request(text, 64, i) for i, text in enumerate(texts[:128])]
    reasoned: list[int] = []

    def reason() -> None:
        reasoned[:] = [len(r.token_ids) for r in engine.reason(asked, Sampling(temperature=1.0))]

    found |= medians({"128 reasonings of at most 64 tokens": reason}, 3)
    print(f"{len(texts)} questions, {rounds} rounds, {torch.cuda.get_device_name()}")
    for name, value in found.items():
        print(f"{name:40s} {1e3 * value:10.2f} ms")
    print(f"tokens reasoned: {sum(reasoned)}")


def training(config: str, folder: Path, *flags: str) -> None:
    """One of the shipped configs as it stands, on a model of random weights."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    code = ps_train(["fit", "--config", config, "--data.backbone", str(folder), *flags])
    seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30
    print(f"{config} {' '.join(flags)}: exit {code}, {seconds:.1f} s, at most {peak:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, required=True, help="folder with curve tables train and test")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and runs, some 10 GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["prediction"], help="also: lora budget")
    arguments = parser.parse_args()
    train, test = (CurveTable.load(arguments.tables / name, features=[]) for name in ("train", "test"))
    qwen = save_model(QWEN_1_5B, train.questions, arguments.work / "qwen")
    if "prediction" in arguments.parts:
        prediction(qwen, test, arguments.rounds)
    tables = ["--data.train", str(arguments.tables / "train"), "--data.test", str(arguments.tables / "test")]
    if "lora" in arguments.parts:
        for config in ("curve_lora", "difficulty_lora"):
            root = ["--trainer.default_root_dir", str(arguments.work / config)]
            training(f"configs/gsm8k/{config}.yaml", qwen, *tables, *root, "--trainer.max_epochs", "1")
    if "budget" in arguments.parts:
        llama = save_model(LLAMA_3B, train.questions, arguments.work / "llama")
        for name, table in (("train", train), ("test", test)):
            needed, _ = needed_budgets(table.curves, 16)
            BudgetSet(table.ids, table.questions, needed, 16, table.curves).save(
                arguments.work / f"{name}.jsonl"
            )
        files = [f"--data.{name}={arguments.work / f'{name}.jsonl'}" for name in ("train", "test")]
        root = ["--trainer.default_root_dir", str(arguments.work / "budget")]
        few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "320"]
        few += ["--model.schedule.warmup_steps", "2", "--trainer.limit_val_batches", "20"]
        training("configs/budget/llama32_3b.yaml", llama, *files, *root, *few)


if __name__ == "__main__":
    main()
