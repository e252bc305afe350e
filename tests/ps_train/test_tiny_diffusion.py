from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from ps_train.cli import main
from ps_train.embedded import problem_batches
from ps_train.embedded.diffusion_data import DiffusionDataModule, encode_example
from ps_train.embedded.problem_families import make_problems
from ps_train.embedded.tiny_diffusion import TinyDiffusion
from ps_train.embedded.tiny_reasoner import TinyReasoner
from ps_train.embedded.tiny_tokenizer import MASK, build_diffusion_tokenizer, build_tokenizer

CONFIG = Path(__file__).parents[2] / "configs" / "tiny" / "diffusion.yaml"


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_batches, "PROBLEMS_PER_POOL", 64)


@pytest.fixture
def reasoner(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    TinyReasoner(num_layers=1, hidden_size=32, num_heads=1, mlp_size=32).export(tmp_path / "reasoner")
    return tmp_path / "reasoner" / "model"


def test_the_mask_is_one_token_after_the_reasoners(tmp_path: Path) -> None:
    plain, tokenizer = build_tokenizer(), build_diffusion_tokenizer()
    assert tokenizer.mask_token_id == len(plain) == len(tokenizer) - 1
    text = " Jan Sam has 3 eggs .</think> Answer : 3<eos>"
    assert tokenizer.encode(text) == plain.encode(text)
    assert tokenizer.encode(f" Jan{MASK} has") == [*plain.encode(" Jan"), len(plain), *plain.encode(" has")]
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).mask_token_id == tokenizer.mask_token_id


def test_a_response_is_the_reasoners_solution_and_then_eos() -> None:
    tokenizer = build_diffusion_tokenizer()
    (problem,) = make_problems(1, seed=3, max_steps=2)
    lengths = set()
    for seed in range(20):
        example = encode_example(problem, tokenizer, 128, 32, np.random.default_rng(seed))
        text = tokenizer.decode(example.response[: example.solved])
        assert text == f" {problem.reasoning}{problem.ending}<eos>"
        assert set(example.response[example.solved :]) <= {tokenizer.eos_token_id}
        lengths.add(len(example.response))
    assert lengths == {n for n in (32, 64, 96, 128) if n >= example.solved}


@pytest.mark.parametrize("block_share", [0.0, 1.0])
def test_what_is_masked_is_what_is_asked(block_share: float) -> None:
    data = DiffusionDataModule(block_share=block_share, tokens_per_batch=1024, max_steps=2)
    tokenizer = data.tokenizer
    for batch in data.epoch_batches(5, 4):
        masked = batch.input_ids == tokenizer.mask_token_id
        assert torch.equal(masked, batch.labels != -100)
        assert masked.any(1).all()
        assert (batch.weights[masked] > 0).all()
        assert not batch.weights[~masked].any()
        # With the labels put back, every row is a prompt, a solution that ends, EOS and padding.
        whole = torch.where(masked, batch.labels, batch.input_ids)
        real = batch.attention_mask[:, 0, 0]
        for row, seen, hidden in zip(whole, real, masked, strict=True):
            text = tokenizer.decode(row[seen])
            assert text.count("<think>") == text.count("Answer") == 1
            assert (row[~seen] == tokenizer.pad_token_id).all()
            assert not hidden[: int((row == tokenizer.encode("<think>")[0]).nonzero()[0]) + 1].any()
            if block_share:  # after the block all is masked
                assert hidden[seen][-1] or hidden[seen].nonzero().max() - hidden[seen].nonzero().min() < 64


def test_an_epoch_depends_on_its_seed_and_number_alone() -> None:
    first, again, other = (
        DiffusionDataModule(seed=1, tokens_per_batch=1024).epoch_batches(epoch, 2) for epoch in (6, 6, 7)
    )
    for a, b, c in zip(first, again, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not torch.equal(a.input_ids, c.input_ids)


def test_problems_grow_in_the_first_epochs() -> None:
    data = DiffusionDataModule(curriculum_epochs=2, max_steps=3, max_distractors=2)
    assert [data.limits(epoch)["max_steps"] for epoch in range(4)] == [1, 2, 3, 3]
    assert data.limits(9) == data.val_limits() == {"max_steps": 3, "max_distractors": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length_step": 20}, "gen_length must be a multiple of length_step, both positive, got 96 and 20"),
        ({"tokens_per_batch": 100}, "tokens_per_batch must be at least 4 gen_length = 384, got 100"),
        ({"block_share": 2}, r"block_share must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_data_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionDataModule(**settings)


def test_attention_is_bidirectional_and_the_reasoners_weights_are_kept(reasoner: Path) -> None:
    module = TinyDiffusion(str(reasoner)).eval()
    before = AutoModelForCausalLM.from_pretrained(reasoner).eval()
    embeddings = module.model.get_input_embeddings().weight
    assert torch.equal(embeddings[:-1], before.get_input_embeddings().weight)
    ids = torch.randint(5, 100, (1, 12))
    changed = ids.clone()
    changed[0, -1] += 1
    with torch.inference_mode():
        first, second = (module.model(input_ids=x).logits[0, 0] for x in (ids, changed))
        everything = torch.ones(1, 1, 12, 12, dtype=torch.bool)
        expected = before(input_ids=ids, attention_mask=everything).logits[0, 0]
    assert not torch.equal(first, second)
    torch.testing.assert_close(first[:-1], expected)


def test_the_loss_is_that_of_the_hidden_tokens_one_place_before(reasoner: Path) -> None:
    module = TinyDiffusion(str(reasoner))
    module.log = lambda *_, **__: None  # no trainer
    (batch,) = DiffusionDataModule(tokens_per_batch=512).epoch_batches(5, 1)
    logits = module.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.log_softmax(
        -1
    )
    total = weight = 0.0
    for row, column in (batch.labels != -100).nonzero().tolist():
        w = batch.weights[row, column].item()
        total -= w * logits[row, column - 1, batch.labels[row, column]].item()
        weight += w
    assert module.training_step(batch, 0).item() == pytest.approx(total / weight, rel=1e-4)


def test_a_model_of_another_vocabulary_is_refused(reasoner: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reasoner)
    model.resize_token_embeddings(99)
    model.save_pretrained(reasoner)
    with pytest.raises(ValueError, match="model of 223 tokens, the tiny reasoner's, got 99"):
        TinyDiffusion(str(reasoner))


def test_the_shipped_recipe_trains_exports_and_resumes(tmp_path: Path, reasoner: Path) -> None:
    """The shipped configuration, in one process and small."""
    small = ["--data.batches_per_epoch", "3", "--data.tokens_per_batch", "512", "--data.val_problems", "2"]
    small += ["--model.val_length", "8", "--trainer.check_val_every_n_epoch", "1"]
    one_process = ["--trainer.strategy", "auto", "--trainer.devices", "1"]
    root = ["--config", str(CONFIG), "--model.init_from", str(reasoner)]
    root += ["--trainer.default_root_dir", str(tmp_path), *small, *one_process]
    assert main(["fit", *root, "--trainer.max_epochs", "1"]) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert main(["fit", *root, "--trainer.max_epochs", "2", "--ckpt_path", str(last)]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 6
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "model"))
    assert (model.config.mask_token_id, model.config.shifted_logits) == (223, True)
    assert model.config.is_causal is False


def test_the_shipped_recipe_is_for_two_processes() -> None:
    trainer = yaml.safe_load(CONFIG.read_text())["trainer"]
    assert (trainer["strategy"], trainer["devices"]) == ("ddp", 2)
    assert trainer["reload_dataloaders_every_n_epochs"] == 1  # else every epoch repeats the first's problems
