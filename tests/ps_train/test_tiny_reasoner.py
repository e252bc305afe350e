from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from ps_train.cli import main
from ps_train.embedded import problem_batches
from ps_train.embedded.problem_families import make_problems
from ps_train.embedded.reasoner_data import ReasonerBatch, ReasonerDataModule, collate, encode_example
from ps_train.embedded.tiny_reasoner import TinyReasoner, initialise_numbers
from ps_train.embedded.tiny_tokenizer import build_tokenizer
from ps_train.embedded.word_problems import MAX_NUMBER

CONFIG = Path(__file__).parents[2] / "configs" / "tiny" / "reasoner.yaml"
SMALL = [
    "--model.num_layers",
    "1",
    "--model.hidden_size",
    "32",
    "--model.num_heads",
    "1",
    "--model.mlp_size",
    "32",
]
SMALL += ["--data.batches_per_epoch", "4", "--data.tokens_per_batch", "512", "--data.val_problems", "4"]


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_batches, "PROBLEMS_PER_POOL", 64)


@pytest.fixture
def module() -> TinyReasoner:
    torch.manual_seed(0)
    return TinyReasoner(num_layers=2, hidden_size=32, num_heads=1, mlp_size=32).eval()


def batch_of(cuts: list[list[int]]) -> tuple[ReasonerBatch, list]:
    tokenizer = build_tokenizer()
    problems = make_problems(len(cuts), seed=2)
    examples = [encode_example(p, tokenizer, c) for p, c in zip(problems, cuts, strict=True)]
    return collate(examples, tokenizer.pad_token_id, branch_weight=0.3), examples


def test_a_branch_sees_its_prompt_its_reasoning_up_to_the_cut_and_itself(module: TinyReasoner) -> None:
    """The logits of each branch in the shared pass equal those of the branch written out as a sequence."""
    cuts = [[0, 7], [20, 3], [1, 12]]
    batch, examples = batch_of(cuts)
    with torch.inference_mode():
        shared = module.model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.attention_mask
        ).logits
        for row, example in enumerate(examples):
            start = len(example.prompt) + len(example.solution)
            for cut, ending in example.branches:
                alone = torch.tensor([example.prompt + example.solution[:cut] + ending])
                expected = module.model(input_ids=alone).logits[0, -len(ending) :]
                torch.testing.assert_close(shared[row, start : start + len(ending)], expected)
                start += len(ending)


def test_the_solution_is_not_changed_by_branches_or_by_other_rows(module: TinyReasoner) -> None:
    batch, examples = batch_of([[5, 9], [4, 30]])
    with torch.inference_mode():
        shared = module.model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.attention_mask
        ).logits
        for row, example in enumerate(examples):
            alone = torch.tensor([example.prompt + example.solution])
            torch.testing.assert_close(shared[row, : alone.shape[1]], module.model(input_ids=alone).logits[0])


def test_labels_are_the_solution_and_the_endings_and_nothing_else() -> None:
    batch, (example,) = batch_of([[5, 9]])
    labels = batch.labels[0]
    endings = [token for _, ending in example.branches for token in ending[1:]]
    assert labels[labels != -100].tolist() == example.solution + endings
    assert batch.weights[0].sum().item() == pytest.approx(len(example.solution) + 0.3 * len(endings))
    assert (batch.weights[batch.labels == -100] == 0).all()


def test_an_epoch_depends_on_its_seed_and_number_alone() -> None:
    first, again = (ReasonerDataModule(seed=1, tokens_per_batch=1024).epoch_batches(6, 3) for _ in range(2))
    other = ReasonerDataModule(seed=1, tokens_per_batch=1024).epoch_batches(7, 3)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.input_ids, b.input_ids)
        assert not torch.equal(a.input_ids, c.input_ids)
        assert a.input_ids.numel() <= 1024


def test_near_numbers_begin_with_like_embeddings() -> None:
    embedding = torch.nn.Embedding(10 + MAX_NUMBER + 1, 64)
    initialise_numbers(embedding, first_id=10)
    numbers = torch.nn.functional.normalize(embedding.weight[10:], dim=1).detach()
    assert (numbers[50] @ numbers[51]) > (numbers[50] @ numbers[77])


def test_heads_too_small_for_vllm_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 32 for vLLM, got 64 / 4"):
        TinyReasoner(hidden_size=64, num_heads=4)


def test_a_batch_may_hold_a_whole_pool_of_problems() -> None:
    (batch,) = ReasonerDataModule(tokens_per_batch=100_000).epoch_batches(5, 1)
    assert len(batch.input_ids) == problem_batches.PROBLEMS_PER_POOL


def test_batches_too_small_for_a_problem_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 512"):
        ReasonerDataModule(tokens_per_batch=100)


def test_the_shipped_recipe_trains_exports_and_resumes(tmp_path: Path) -> None:
    """The shipped configuration, in one process and small; what it exports loads as any Qwen2."""
    root = ["--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path), *SMALL]
    one_process = ["--trainer.strategy", "auto", "--trainer.devices", "1"]
    assert main(["fit", *root, *one_process, "--trainer.max_epochs", "1"]) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert main(["fit", *root, *one_process, "--trainer.max_epochs", "2", "--ckpt_path", str(last)]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 8
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer)
    trained = torch.load(last, weights_only=True)["state_dict"]["model.model.norm.weight"]
    assert torch.equal(model.model.norm.weight, trained)


def test_a_reasoner_of_more_families_goes_on_from_one_of_fewer(module: TinyReasoner, tmp_path: Path) -> None:
    module.export(tmp_path)
    sizes = {"num_layers": 2, "hidden_size": 32, "num_heads": 1, "mlp_size": 32}
    both = TinyReasoner(**sizes, families=["diary", "handovers"], init_from=str(tmp_path / "model")).eval()
    assert len(both.tokenizer) > len(module.tokenizer)
    ids = torch.tensor([module.tokenizer.encode(" Apr Sam has 17 eggs .")])
    with torch.inference_mode():
        before, after = module.model(input_ids=ids).logits, both.model(input_ids=ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    with pytest.raises(ValueError, match=r"the same sizes, .* = \[2, 32, 1, 64\], got \[2, 32, 1, 32\]"):
        TinyReasoner(
            num_layers=2, hidden_size=32, num_heads=1, mlp_size=64, init_from=str(tmp_path / "model")
        )
    both.export(tmp_path / "both")
    with pytest.raises(ValueError, match="whose words are all known, with the same ids, got ' Who'"):
        TinyReasoner(**sizes, init_from=str(tmp_path / "both" / "model"))


def test_the_recipe_of_two_families_trains_on_from_the_shipped_reasoner(tmp_path: Path) -> None:
    arguments = ["--config", str(CONFIG.with_name("reasoner_two_families.yaml"))]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--trainer.strategy", "auto"]
    arguments += ["--trainer.devices", "1", "--trainer.max_epochs", "1", "--data.batches_per_epoch", "2"]
    arguments += ["--data.tokens_per_batch", "512", "--data.val_problems", "2"]
    arguments += ["--model.init_from", str(CONFIG.parents[2] / "checkpoints" / "tiny-reasoner")]
    assert main(["fit", *arguments]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer.encode(" Who passes")) == 2


def test_problems_whose_words_the_model_has_not_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path), *SMALL]
    arguments += ["--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.max_epochs", "1"]
    assert main(["fit", *arguments, "--data.families", "[diary,handovers]"]) == 2
    message = "families of the model must hold those of the data, got ['diary'] without 'handovers'"
    assert message in capsys.readouterr().err


def test_the_shipped_recipe_is_for_two_processes() -> None:
    trainer = yaml.safe_load(CONFIG.read_text())["trainer"]
    assert (trainer["strategy"], trainer["devices"]) == ("ddp", 2)
    assert trainer["reload_dataloaders_every_n_epochs"] == 1  # else every epoch repeats the first's problems
