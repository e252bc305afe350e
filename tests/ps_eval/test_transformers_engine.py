from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    PretrainedConfig,
    Qwen2Config,
    RwkvConfig,
    T5Config,
)
from transformers.cache_utils import DynamicCache

from ps_eval.engines import load_engine, load_pool, reading
from ps_eval.engines.base import Reasoning, Request, Sampling, stream_of, uniforms
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.kv_cache import GrowingLayer, cache_of, fork, keep_rows
from ps_eval.engines.sampling import chooser
from ps_eval.engines.self_check import Ways
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.vllm_load import ENVIRONMENT
from ps_train.common.prompts import encode_prompts
from ps_train.questions import Question

SAMPLING = Sampling(temperature=0.8, top_p=0.95, seed=3)


def requests(questions: list[Question], max_tokens: int) -> list[Request]:
    return [Request(q.question, max_tokens, stream_of(q.id)) for q in questions]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


def test_greedy_reasoning_equals_transformers_generate(
    random_reasoner: Path, questions: list[Question]
) -> None:
    engine = TransformersEngine(random_reasoner, batch_size=5)
    ours = engine.reason(requests(questions, 24), Sampling(temperature=0))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(random_reasoner),
        AutoTokenizer.from_pretrained(random_reasoner),
    )
    (end,) = tokenizer.encode("</think>")
    for question, reasoning in zip(questions, ours, strict=True):
        prompt = torch.tensor(encode_prompts(tokenizer, [question.question]))
        theirs = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=[end, tokenizer.eos_token_id],
        )[0, prompt.shape[1] :].tolist()
        assert list(reasoning.token_ids) == [t for t in theirs if t not in (end, tokenizer.eos_token_id)]


def test_sampled_tokens_equal_a_plain_one_row_twin(random_reasoner: Path, questions: list[Question]) -> None:
    """Twin: whole forward passes without a cache, numpy's softmax, sort and cumulative sum."""
    engine = TransformersEngine(random_reasoner, batch_size=8)
    ours = engine.reason(requests(questions[:3], 12), SAMPLING)
    for question, reasoning in zip(questions, ours, strict=False):
        ids = encode_prompts(engine.tokenizer, [question.question])[0]
        draws = uniforms(SAMPLING, stream_of(question.id), 12)
        expected: list[int] = []
        for u in draws:
            with torch.inference_mode():
                logits = engine.model(torch.tensor([ids + expected])).logits[0, -1].double().numpy()
            probabilities = np.exp((logits - logits.max()) / SAMPLING.temperature)
            probabilities /= probabilities.sum()
            ranked = np.argsort(-probabilities)
            before = np.cumsum(probabilities[ranked]) - probabilities[ranked]
            kept = np.zeros_like(probabilities)
            kept[ranked[before < SAMPLING.top_p]] = probabilities[ranked[before < SAMPLING.top_p]]
            token = int(np.searchsorted(np.cumsum(kept), u * kept.sum(), side="right"))
            if token in engine._reasoning_stops.ids:
                break
            expected.append(token)
        assert list(reasoning.token_ids) == expected


def test_a_draw_of_zero_picks_no_token_outside_the_nucleus() -> None:
    choose = chooser(Sampling(temperature=1.0, top_p=0.5), [np.zeros(1)])
    assert choose(torch.tensor([[0.0, 5.0, 1.0]]), np.array([0]), 0).tolist() == [1]


def test_sampling_follows_the_models_distribution(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    draws = 2000
    first = engine.reason(
        [Request(questions[0].question, 1, stream) for stream in range(draws)], Sampling(1.0, 1.0)
    )
    with torch.inference_mode():
        ids = torch.tensor(encode_prompts(engine.tokenizer, [questions[0].question]))
        probabilities = engine.model(ids).logits[0, -1].softmax(-1).numpy()
    drawn = [r.token_ids[0] for r in first if r.token_ids]
    observed = np.bincount(drawn, minlength=len(probabilities)) / draws
    assert np.abs(observed - probabilities)[5:].max() < 4 * np.sqrt(probabilities.max() / draws)


def test_a_smaller_budget_gives_a_prefix_of_the_same_trace(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    long = engine.reason(requests(questions, 60), SAMPLING)
    short = engine.reason(requests(questions, 25)[::-1], SAMPLING)[::-1]
    assert [r.cut(25) for r in long] == short


def test_reasoning_never_exceeds_its_own_budget(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    budgets = [0, 1, 7, 16, 33, 64, 2, 0, 100, 5, 48, 3]
    asked = [replace(r, max_tokens=b) for r, b in zip(requests(questions, 0), budgets, strict=True)]
    reasonings = engine.reason(asked, SAMPLING)
    for reasoning, budget in zip(reasonings, budgets, strict=True):
        assert len(reasoning.token_ids) <= budget
        assert reasoning.finished or len(reasoning.token_ids) == budget


def test_probes_equal_answers_to_cut_reasoning(engine: TransformersEngine, questions: list[Question]) -> None:
    reasonings = engine.reason(requests(questions, 96), SAMPLING)
    assert {r.finished for r in reasonings} == {True, False}  # else one path goes untested
    cuts = [16, 32, 48, 64, 80, 96]
    probes = engine.probe(texts(questions), reasonings, cuts)
    for k, cut in enumerate(cuts):
        answers = engine.answer(texts(questions), [r.cut(cut) for r in reasonings])
        assert [row[k] for row in probes] == answers


def test_an_answer_is_forced_exactly_where_reasoning_is_not_finished(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    cut, whole = engine.answer(texts(questions[:1]) * 2, [Reasoning((), False), Reasoning((), True)])
    assert cut.forced
    assert cut.text.startswith("</think> Answer :")
    assert not whole.forced
    assert whole.text.startswith("</think>")
    assert cut.num_tokens <= 3 + engine.format.max_forced_tokens


def test_progress_counts_every_row_once(engine: TransformersEngine, questions: list[Question]) -> None:
    done: list[int] = []
    engine.reason(
        [replace(r, max_tokens=b) for b, r in enumerate(requests(questions, 0))], SAMPLING, done.append
    )
    assert sum(done) == len(questions)


def test_the_growing_cache_holds_what_transformers_own_holds() -> None:
    torch.manual_seed(0)
    ours, theirs = cache_of(Qwen2Config(num_hidden_layers=1)), DynamicCache()
    assert type(ours.layers[0]) is GrowingLayer
    for length in (5, 1, 1, 90, 1):
        keys, values = torch.randn(4, 2, length, 8), torch.randn(4, 2, length, 8)
        for cache in (ours, theirs):
            cache.update(keys, values, 0)
        assert torch.equal(ours.layers[0].keys, theirs.layers[0].keys)
        assert torch.equal(ours.layers[0].values, theirs.layers[0].values)
        assert ours.get_seq_length() == theirs.get_seq_length()
    kept = torch.tensor([0, 3])
    before = ours.layers[0].keys.clone()
    other = fork(ours)
    other.update(*torch.randn(2, 4, 2, 3, 8), 0)
    assert (other.get_seq_length(), ours.get_seq_length()) == (101, 98)
    assert torch.equal(ours.layers[0].keys, before)
    keep_rows(ours, kept)
    theirs.batch_select_indices(kept)
    for cache in (ours, theirs):
        cache.update(keys[kept], values[kept], 0)
    assert torch.equal(ours.layers[0].keys, theirs.layers[0].keys)
    assert torch.equal(other.layers[0].keys[:, :, :98], before)


def test_top_k_and_min_p_leave_out_what_they_say() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.9, 1.0, 2.5]])
    draws = [np.linspace(0, 0.999, 200)]

    def chosen(**settings: float) -> set[int]:
        choose = chooser(Sampling(1.0, 1.0, **settings), draws)
        return {int(choose(logits, np.array([0]), step)) for step in range(200)}

    assert chosen() == {0, 1, 2, 3, 4}
    assert chosen(top_k=2) == {1, 2}
    assert chosen(min_p=0.5) == {1, 2, 4}
    assert chosen(min_p=0.5, top_k=1) == {1}


def save_model(config: PretrainedConfig, tokenizer: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


SMALL = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            BertConfig(**SMALL, num_attention_heads=2, intermediate_size=32),
            r"needs a causal language model, but .* \(BertLMHeadModel\) says something else at a token",
        ),
        (
            RwkvConfig(**SMALL, attention_hidden_size=32),
            r"the transformers engine cannot run .* \(RwkvForCausalLM\): what it says from its cache differs",
        ),
    ],
)
def test_a_model_that_does_not_read_alike_in_every_way_is_refused_in_one_sentence(
    random_reasoner: Path, tmp_path: Path, config: PretrainedConfig, message: str
) -> None:
    folder = save_model(config, random_reasoner, tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        TransformersEngine(folder, dtype="float32", format=ReasoningFormat(max_forced_tokens=2))


def test_an_architecture_without_a_causal_language_model_is_refused_in_one_sentence(
    random_reasoner: Path, tmp_path: Path
) -> None:
    T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(random_reasoner).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="transformers knows no causal language model of its architecture"):
        TransformersEngine(tmp_path, format=ReasoningFormat(max_forced_tokens=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float99"}, r"dtype must be auto or one of \(.*\), got 'float99'"),
        ({"device": "abacus"}, "device must be auto or a torch device of this machine, got 'abacus'"),
        (
            {"device": "cpu", "device_map": "auto"},
            "device and device_map cannot both be given, got cpu and auto",
        ),
        ({"quantization": "3bit"}, r"quantization must be one of \('8bit', '4bit'\) or .* got '3bit'"),
        ({"attn_implementation": "abacus"}, r"model must have weights .* with .*'abacus'.*: "),
        ({"format": "x"}, "format must be fields among .* got 'x'"),
        ({"format": {"thinkend": "x"}}, r"format may set \[.*\], got \['thinkend'\]"),
    ],
)
def test_options_that_cannot_be_had_are_refused_in_one_sentence(
    random_reasoner: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_engine("transformers", random_reasoner, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(random_reasoner: Path) -> None:
    with pytest.raises(ValueError, match="device must be auto or a torch device of this machine, got 'cuda'"):
        load_engine("transformers", random_reasoner, device="cuda")


def test_long_pieces_are_read_in_parts_to_the_same_results(
    random_reasoner: Path,
    engine: TransformersEngine,
    questions: list[Question],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traces = engine.reason(requests(questions, 60), SAMPLING)
    probes = engine.probe(texts(questions), traces, [1, 40, 60])
    monkeypatch.setattr(reading, "QUERY_KEYS", 1)  # sixteen tokens at a time
    assert engine.reason(requests(questions, 60), SAMPLING) == traces
    assert engine.probe(texts(questions), traces, [1, 40, 60]) == probes


def test_without_padding_and_continuing_the_engine_gives_the_same(
    random_reasoner: Path, engine: TransformersEngine, questions: list[Question]
) -> None:
    other = TransformersEngine(random_reasoner, batch_size=8)
    other._ways = Ways(pads=False, continues=False)
    traces = engine.reason(requests(questions, 60), SAMPLING)
    assert other.reason(requests(questions, 60), SAMPLING) == traces
    cuts = [0, 16, 60]
    assert other.probe(texts(questions), traces, cuts) == engine.probe(texts(questions), traces, cuts)


def test_a_missing_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be a folder or a model name"):
        load_engine("transformers", tmp_path / "nothing")


def test_a_model_without_weights_is_refused_in_a_sentence(random_reasoner: Path, tmp_path: Path) -> None:
    shutil.copytree(random_reasoner, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"model must have weights that transformers can load, got .*model"):
        load_engine("transformers", tmp_path / "model")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    random_reasoner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRONMENT:  # restored afterwards
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match=r"engine vllm needs vLLM: pip install .*\[vllm\]"):
        load_engine("vllm", random_reasoner)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be one of"):
        load_engine("abacus", "model")
    with pytest.raises(ValueError, match="engine ray stands for many engines"):
        load_engine("ray", "model")


def test_a_ray_cluster_needs_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # not to be imported, installed or not
    with pytest.raises(ValueError, match=r"engine ray needs Ray Data: pip install .*\[ray\]"):
        load_pool("ray", "model")


def test_an_unknown_option_is_refused(random_reasoner: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must be among batch_size, device, .* unexpected keyword argument 'speed'"
    ):
        load_engine("transformers", random_reasoner, speed=9)


def test_an_unknown_field_of_the_reasoning_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / ReasoningFormat.FILE).write_text('{"suffix": "x"}')
    with pytest.raises(ValueError, match=r"may set .* got \['suffix'\]"):
        ReasoningFormat.of_model(tmp_path)
    (tmp_path / ReasoningFormat.FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"reasoning_format.json must hold a JSON object, got a list"):
        ReasoningFormat.of_model(tmp_path)
    (tmp_path / ReasoningFormat.FILE).write_text("{")
    with pytest.raises(ValueError, match=r"reasoning_format.json must hold valid JSON"):
        ReasoningFormat.of_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_p": 0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_sampling_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_a_batch_size_below_one_is_refused(random_reasoner: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, got 0"):
        TransformersEngine(random_reasoner, batch_size=0)
