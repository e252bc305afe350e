"""Prompts and reasoning formats: what is put around a question, and how a reasoning ends."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from completion_server import running
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from ps_eval.engines import load_engine
from ps_eval.engines.base import Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.openai import OpenAIEngine
from ps_eval.engines.tokenizer import end_of_sequence_ids, load_engine_tokenizer
from ps_eval.engines.transformers import TransformersEngine
from ps_train.common.prompts import PromptFormat, encode_prompts
from ps_train.questions import Question

SAMPLING = Sampling(temperature=0.8, top_p=0.95, seed=3)
Ended = tuple[TransformersEngine, list[Reasoning]]


def requests(questions: list[Question], max_tokens: int) -> list[Request]:
    return [Request(q.question, max_tokens, stream_of(q.id)) for q in questions]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


@pytest.fixture(scope="module")
def two_word_end(random_reasoner: Path, questions: list[Question]) -> Ended:
    """An engine whose end marker is two tokens that the model really writes, and reasonings, some ended."""
    plain = TransformersEngine(random_reasoner, batch_size=8)
    written = plain.reason(requests(questions, 60), SAMPLING)[0].token_ids
    marker = plain._text(written[20:22])
    engine = TransformersEngine(random_reasoner, batch_size=8, format={"think_end": marker})
    return engine, list(engine.reason(requests(questions, 60), SAMPLING))


def test_a_marker_of_several_tokens_ends_the_reasoning_and_is_no_part_of_it(
    two_word_end: Ended,
) -> None:
    engine, traces = two_word_end
    marked = [r for r in traces if r.end_ids]
    assert marked
    assert {r.finished for r in traces} == {True, False}
    for trace in traces:
        assert engine.format.think_end not in engine._text(trace.token_ids)
        assert len(trace.token_ids) + len(trace.end_ids) <= 60
    for trace in marked:
        assert engine._text(trace.end_ids).endswith(engine.format.think_end)


def test_a_cut_inside_a_marker_of_several_tokens_is_no_end(
    two_word_end: Ended,
) -> None:
    trace = next(r for r in two_word_end[1] if r.end_ids)
    whole = len(trace.token_ids) + len(trace.end_ids)
    assert trace.cut(whole) == trace
    assert trace.cut(whole - 1) == Reasoning((*trace.token_ids, *trace.end_ids[:-1]), finished=False)
    assert trace.cut(3) == Reasoning(trace.token_ids[:3], finished=False)


def test_smaller_budgets_and_probes_hold_under_a_marker_of_several_tokens(
    two_word_end: Ended, questions: list[Question]
) -> None:
    engine, traces = two_word_end
    assert [r.cut(23) for r in traces] == list(engine.reason(requests(questions, 23), SAMPLING))
    cuts = [0, 20, 21, 22, 23, 60]
    probes = engine.probe(texts(questions), traces, cuts)
    for k, cut in enumerate(cuts):
        assert [row[k] for row in probes] == engine.answer(texts(questions), [r.cut(cut) for r in traces])


@pytest.mark.parametrize("returns_ids", [True, False])
def test_a_server_ends_at_a_marker_of_several_tokens(
    two_word_end: Ended, questions: list[Question], returns_ids: bool
) -> None:
    engine, _ = two_word_end
    greedy = Sampling(temperature=0)
    with running(TransformersEngine(engine.name, batch_size=1, format=engine.format)) as server:
        server.returns_ids = returns_ids
        client = OpenAIEngine(server.model, base_url=server.url, tokenizer=engine.name, format=engine.format)
        ours = client.reason(requests(questions[:4], 40), greedy)
    theirs = engine.reason(requests(questions[:4], 40), greedy)
    assert [r.finished for r in ours] == [r.finished for r in theirs]
    assert [engine.text_of(r) for r in ours] == [engine.text_of(r) for r in theirs]


def test_a_model_that_marks_no_end_reasons_in_its_whole_reply_and_the_answer_is_read_from_it(
    random_reasoner: Path, questions: list[Question]
) -> None:
    engine = TransformersEngine(random_reasoner, batch_size=8, format={"think_end": ""})
    traces = engine.reason(requests(questions, 90), SAMPLING)
    answers = engine.answer(texts(questions), traces)
    ended = [(r, a) for r, a in zip(traces, answers, strict=True) if r.finished]
    assert ended
    for trace, answer in ended:
        assert answer.text == engine.text_of(trace)
        assert (answer.num_tokens, answer.num_generated, answer.forced) == (0, 0, False)
    assert engine.probe(texts(questions), traces, [90]) == [[a] for a in answers]


def test_a_marker_that_the_model_knows_nothing_of_is_refused_unless_it_is_asked_for(
    random_reasoner: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_reasoner, tmp_path / "model")
    (folder / ReasoningFormat.FILE).unlink()
    tokenizer = (folder / "tokenizer.json").read_text().replace("</think>", "</done>")
    (folder / "tokenizer.json").write_text(tokenizer)
    config = (folder / "tokenizer_config.json").read_text().replace("</think>", "</done>")
    (folder / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"format.think_end must be how .* ends its reasoning, but neither"):
        load_engine("transformers", folder)
    assert load_engine("transformers", folder, format={"think_end": ""}).format.think_end == ""


def test_num_generated_counts_what_was_decoded_and_cut_says_where_the_limit_was_met(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    traces = engine.reason(requests(questions, 40), SAMPLING)
    for trace, answer in zip(traces, engine.answer(texts(questions), traces), strict=True):
        given = 1 if trace.finished else len(engine.forced_prefix)
        limit = engine.format.max_answer_tokens if trace.finished else engine.format.max_forced_tokens
        assert answer.num_generated == answer.num_tokens - given
        assert answer.num_generated <= limit
        assert not answer.cut or answer.num_generated == limit


def test_a_question_without_room_for_its_budget_and_answer_fails_and_the_others_go_on(
    engine: TransformersEngine, questions: list[Question]
) -> None:
    asked = requests(questions[:3], 20)
    expected = engine.reason(asked, SAMPLING)
    found = engine.reason([replace(asked[0], max_tokens=5000), *asked[1:]], SAMPLING)
    assert isinstance(found[0], Failure)
    assert "the model has room for 1024 tokens, but a prompt of" in found[0].reason
    assert list(found[1:]) == list(expected[1:])
    assert engine.answer(texts(questions[:3]), found)[0] == found[0]
    assert engine.probe(texts(questions[:3]), found, [8, 16])[0] == found[0]


def test_a_prompt_without_tokens_fails(engine: TransformersEngine) -> None:
    bare = TransformersEngine(engine.name, prompt={"chat_template": ""})
    assert bare.reason([Request("", 4)], SAMPLING) == [Failure("the prompt has no tokens")]


def test_what_is_put_around_a_question_reaches_the_prompt(random_reasoner: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_reasoner)
    template = (
        "{% if low %} eggs{% endif %}{% for m in messages %} {{ m.role }} : {{ m.content }}{% endfor %}"
    )

    def text(**fields: object) -> str:
        (ids,) = encode_prompts(
            tokenizer, ["How many ?"], PromptFormat.of({"chat_template": template, **fields})
        )
        return " ".join(tokenizer.convert_ids_to_tokens(ids))

    plain = text()
    assert text(suffix=" eggs") != plain
    assert text(template="Sam has {question}") != plain
    assert len(text(system="Sam has eggs").split()) > len(plain.split())
    assert len(text(chat_template_kwargs={"low": True}).split()) > len(plain.split())
    assert encode_prompts(tokenizer, ["How many ?"], PromptFormat(chat_template="")) == [
        tokenizer("How many ?")["input_ids"]
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "none"}, r"prompt.template must hold {question}, got 'none'"),
        ({"suffx": " ."}, r"prompt may set \['template', .* got \['suffx'\]"),
        ("text", "prompt must be fields among .* got 'text'"),
        ({"chat_template_kwargs": 3}, "prompt.chat_template_kwargs must be names with values, got 3"),
    ],
)
def test_bad_prompt_formats_are_refused(fields: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptFormat.of(fields)  # type: ignore[arg-type]


def test_messages_that_a_chat_template_refuses_are_named(random_reasoner: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_reasoner)
    strict = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match="the chat template must take these messages, but: no system role"):
        encode_prompts(tokenizer, ["a"], PromptFormat(chat_template=strict))
    with pytest.raises(ValueError, match=r"prompt.system needs a chat template, but the tokenizer has none"):
        encode_prompts(tokenizer, ["a"], PromptFormat(chat_template="", system="b"))


def test_an_end_of_sequence_that_the_tokenizer_appends_is_no_part_of_the_prompt(
    random_reasoner: Path,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_reasoner)
    tokenizer.chat_template = None
    expected = encode_prompts(tokenizer, ["How many ?"])
    eos = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos[0]}", special_tokens=[eos]
    )
    assert tokenizer("How many ?")["input_ids"][-1] == eos[1]
    assert encode_prompts(tokenizer, ["How many ?"]) == expected


def test_the_tokenizers_own_end_of_sequence_ends_a_row_where_the_model_names_another(
    random_reasoner: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_reasoner, tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, "eos_token_id": 7}))
    tokenizer = load_engine_tokenizer(folder)
    assert end_of_sequence_ids(folder, tokenizer) == [7, tokenizer.eos_token_id]


def test_a_tokenizers_folder_needs_no_config_of_a_model(random_reasoner: Path, tmp_path: Path) -> None:
    shutil.copy(random_reasoner / "tokenizer.json", tmp_path)
    tokenizer = load_engine_tokenizer(tmp_path)
    assert tokenizer("How many ?")["input_ids"]
    assert end_of_sequence_ids(tmp_path, tokenizer) == []
    shutil.copy(random_reasoner / "tokenizer_config.json", tmp_path)
    tokenizer = load_engine_tokenizer(tmp_path)
    assert end_of_sequence_ids(tmp_path, tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"suffix": "x"}, r"format may set \['think_end', .* got \['suffix'\]"),
        ({"max_forced_tokens": 0}, "format.max_forced_tokens must be a whole number, at least 1, got 0"),
        ({"max_answer_tokens": "9"}, "format.max_answer_tokens must be a whole number, at least 1, got '9'"),
        ({"think_end": None}, "format.think_end must be text, got None"),
        ("json", "format must be fields among .* got 'json'"),
    ],
)
def test_bad_reasoning_formats_are_refused(fields: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningFormat.of(fields)  # type: ignore[arg-type]


def test_a_format_given_by_fields_keeps_what_the_model_declares(random_reasoner: Path) -> None:
    declared = ReasoningFormat.of_model(random_reasoner)
    assert declared != ReasoningFormat()
    assert ReasoningFormat.of({"max_forced_tokens": 3}, random_reasoner) == replace(
        declared, max_forced_tokens=3
    )
    assert ReasoningFormat.of(None, random_reasoner) == declared
    assert ReasoningFormat.of(declared.as_dict()) == declared
    assert PromptFormat.of(PromptFormat(suffix="x").as_dict()) == PromptFormat(suffix="x")
