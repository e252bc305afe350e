from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
)

from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_families import make_problems, vocabulary
from ps_train.embedded.tiny_tokenizer import build_tokenizer


@pytest.fixture(params=[("diary",), ("diary", "handovers")], ids=lambda families: "+".join(families))
def families(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture(params=["as built", "AutoTokenizer on a Qwen2 folder", "PreTrainedTokenizerFast"])
def tokenizer(
    request: pytest.FixtureRequest, families: tuple[str, ...], tmp_path: Path
) -> PreTrainedTokenizerBase:
    built = build_tokenizer(families)
    if request.param == "as built":
        return built
    built.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=len(built)).save_pretrained(tmp_path)
    loader = AutoTokenizer if request.param.startswith("Auto") else PreTrainedTokenizerFast
    return loader.from_pretrained(tmp_path)


def test_every_word_and_marker_is_one_token_with_the_same_id(
    tokenizer: PreTrainedTokenizerBase, families: tuple[str, ...]
) -> None:
    tokens = [
        "<pad>",
        "<eos>",
        "<unk>",
        "<think>",
        "</think>",
        *(f" {word}" for word in vocabulary(families)),
    ]
    assert len(tokenizer) == len(tokens)
    for number, token in enumerate(tokens):
        assert tokenizer.encode(token, add_special_tokens=False) == [number]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_a_problem_and_its_solution_survive_encoding_and_decoding(
    tokenizer: PreTrainedTokenizerBase, families: tuple[str, ...]
) -> None:
    for problem in make_problems(20, 0, families):
        text = f" {problem.question}<think> {problem.reasoning}{problem.ending}<eos>"
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == len(text.replace("<", " <").split())
        assert tokenizer.decode(ids) == text


def test_the_prompt_ends_with_the_single_token_think(tokenizer: PreTrainedTokenizerBase) -> None:
    for prompt in encode_prompts(tokenizer, [p.question for p in make_problems(5, seed=0)]):
        assert prompt.count(3) == 1
        assert prompt[-1] == 3


def test_transformers_still_takes_any_qwen2_folder_for_its_own_tokenizer(tmp_path: Path) -> None:
    """The reason for added tokens; when this fails, `build_tokenizer` can become simpler."""
    build_tokenizer().save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), Qwen2Tokenizer)
