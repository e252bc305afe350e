from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from completion_server import CompletionServer, running

from ps_alloc.predictions import uniform_budgets
from ps_eval.cli import main
from ps_eval.engines import load_engine
from ps_eval.engines.base import Failure, Reasoning, Request, RequestsFailedError, Sampling, stream_of
from ps_eval.engines.openai import OpenAIEngine
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.measuring.probing import measure_curves
from ps_eval.reporting.summary import SUMMARY_FILE, load_summary
from ps_eval.spending.live import run_live
from ps_eval.spending.policies import PolicyInputs
from ps_train.curve_table import CURVES_FILE, CurveTable
from ps_train.questions import Question, save_questions

SAMPLING = Sampling(temperature=1.0, top_p=0.95, seed=3)


@pytest.fixture
def server(random_reasoner: Path) -> Iterator[CompletionServer]:
    # One row a batch: its numbers cannot depend on which requests arrive together.
    with running(TransformersEngine(random_reasoner, batch_size=1)) as server:
        yield server


def connect(server: CompletionServer, **options: object) -> OpenAIEngine:
    engine = OpenAIEngine(
        server.model, base_url=server.url, tokenizer=server.engine.name, **{"timeout": 30, **options}
    )
    server.bodies.clear()
    return engine


def requests(questions: list[Question], max_tokens: int = 40) -> list[Request]:
    return [Request(q.question, max_tokens, stream_of(q.id)) for q in questions]


def texts(questions: list[Question]) -> list[str]:
    return [q.question for q in questions]


@pytest.mark.parametrize(("takes_ids", "returns_ids"), [(True, True), (True, False), (False, False)])
def test_greedy_results_equal_those_of_the_engine_behind_the_server(
    server: CompletionServer, questions: list[Question], takes_ids: bool, returns_ids: bool
) -> None:
    server.takes_ids, server.returns_ids = takes_ids, returns_ids
    engine, reference = connect(server), server.engine
    greedy = Sampling(temperature=0)
    ours, theirs = (e.reason(requests(questions, 48), greedy) for e in (engine, reference))
    assert list(ours) == list(theirs)
    traces = reference.reason(requests(questions, 96), SAMPLING)
    assert {r.finished for r in traces} == {True, False}
    assert engine.answer(texts(questions), traces) == reference.answer(texts(questions), traces)
    cuts = [0, 16, 48, 96]
    assert engine.probe(texts(questions), traces, cuts) == reference.probe(texts(questions), traces, cuts)


def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook(
    server: CompletionServer, questions: list[Question]
) -> None:
    async def cell() -> list[Reasoning | Failure]:
        return list(connect(server).reason(requests(questions), SAMPLING))

    assert asyncio.run(cell()) == list(connect(server).reason(requests(questions), SAMPLING))


def test_every_request_carries_its_own_budget_and_none_is_exceeded(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server)
    budgets = [0, 1, 7, 16, 33, 64, 2, 0, 50, 5, 48, 3]
    asked = [Request(q.question, b, stream_of(q.id)) for q, b in zip(questions, budgets, strict=True)]
    reasonings = engine.reason(asked, SAMPLING)
    assert sorted(b["max_tokens"] for b in server.bodies) == sorted(b for b in budgets if b)
    for reasoning, budget in zip(reasonings, budgets, strict=True):
        assert isinstance(reasoning, Reasoning)
        assert len(reasoning.token_ids) <= budget
        assert reasoning.finished or len(reasoning.token_ids) == budget


def test_a_smaller_budget_gives_a_prefix_of_the_same_trace(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server)
    long, short = (engine.reason(requests(questions, budget), SAMPLING) for budget in (50, 20))
    assert [r.cut(20) for r in long] == list(short)
    assert len(set(long)) == len(questions)


def test_overloads_breakdowns_disconnects_and_time_outs_are_retried_to_the_same_results(
    server: CompletionServer, questions: list[Question]
) -> None:
    expected = connect(server).reason(requests(questions), SAMPLING)
    engine = connect(server, timeout=4.0)
    faults = [429, 500, "disconnect", "hang", 503, 408]
    server.faults.extend(faults)
    assert engine.reason(requests(questions), SAMPLING) == expected
    assert not server.faults
    assert len(server.bodies) >= len(questions) + len(faults)  # a slow machine can time out once more


def test_no_more_requests_are_under_way_than_allowed(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server, batch_size=3)
    server.delay = 0.05
    done: list[int] = []
    engine.reason(requests(questions, 2), SAMPLING, done.append)
    assert server.most_at_once == 3
    assert sum(done) == len(questions)


def test_a_refused_request_is_a_failure_with_its_reason_and_the_rest_goes_on(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server)
    expected = engine.reason(requests(questions), SAMPLING)
    refuse(server, questions[4])
    found = engine.reason(requests(questions), SAMPLING)
    assert [i for i, r in enumerate(found) if isinstance(r, Failure)] == [4]
    assert "400" in found[4].reason
    assert "refused" in found[4].reason
    assert [r for i, r in enumerate(found) if i != 4] == [r for i, r in enumerate(expected) if i != 4]
    assert engine.answer(texts(questions), found)[4] == found[4]
    assert engine.probe(texts(questions), found, [8, 16])[4] == found[4]


def refuse(server: CompletionServer, question: Question, phase: str = "reasoning") -> None:
    """Refuse the requests about a question: from the reasoning on, or its answers alone."""
    format = server.engine.format
    answers = (format.max_forced_tokens, format.max_answer_tokens)
    (prompt,) = encoded(server, question)
    server.refuses = lambda body: (
        body["prompt"][: len(prompt)] == prompt and (phase == "reasoning" or body["max_tokens"] in answers)
    )


def encoded(server: CompletionServer, *questions: Question) -> list[list[int]]:
    from ps_train.common.prompts import encode_prompts

    return encode_prompts(server.engine.tokenizer, texts(list(questions)))


@pytest.mark.parametrize("phase", ["reasoning", "answer"])
def test_a_run_with_failures_keeps_the_rest_has_no_summary_and_is_completed_by_the_next(
    server: CompletionServer, questions: list[Question], tmp_path: Path, phase: str
) -> None:
    def run(name: str, skip_failed: bool = False) -> list:
        return run_live(
            questions,
            connect(server),
            PolicyInputs(len(questions), uniform_budgets(8, 8)),
            budgets=[16, 24],
            policies=["uniform"],
            output=tmp_path / name,
            sampling=SAMPLING,
            skip_failed=skip_failed,
        )

    whole = run("whole")
    refuse(server, questions[7], phase)
    with pytest.raises(RequestsFailedError, match=r"1 of 12 failed, diary-7 first: .*refused"):
        run("cut")
    assert not (tmp_path / "cut" / "answers").exists()
    (row, _) = run("cut", skip_failed=True)
    assert row.n == len(questions) - 1
    lines = (tmp_path / "cut" / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["diary-7"]
    server.refuses = lambda body: False
    server.bodies.clear()
    assert run("cut") == whole
    assert all(body["prompt"][: len(p)] == p for p in encoded(server, questions[7]) for body in server.bodies)
    assert sorted(f.name for f in (tmp_path / "cut").rglob("*.jsonl")) == [
        "asked_questions.jsonl",
        "responses.jsonl",
        "uniform-16.jsonl",
        "uniform-24.jsonl",
    ]
    for name in ("answers/uniform-16.jsonl", "answers/uniform-24.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_trace_with_failures_keeps_the_rest_and_is_completed_by_the_next(
    server: CompletionServer, questions: list[Question], tmp_path: Path
) -> None:
    settings = {"num_traces": 2, "window": 8, "num_windows": 3, "questions_per_chunk": 5}

    def trace(name: str) -> CurveTable:
        return measure_curves(questions, connect(server), tmp_path / name, sampling=SAMPLING, **settings)

    whole = trace("whole")
    refuse(server, questions[7], "answer")
    with pytest.raises(RequestsFailedError, match=r"1 of 12 failed, diary-7 first"):
        trace("cut")
    assert not (tmp_path / "cut" / CURVES_FILE).exists()
    server.refuses = lambda body: False
    cut = trace("cut")
    assert (cut.curves == whole.curves).all()
    assert cut.ids == whole.ids
    assert all(body["prompt"][: len(p)] == p for p in encoded(server, questions[7]) for body in server.bodies)
    assert not (tmp_path / "cut" / "failed.jsonl").exists()


def test_a_server_that_fails_everything_ends_the_run_at_once(
    server: CompletionServer, questions: list[Question], tmp_path: Path
) -> None:
    engine = connect(server, max_retries=0)
    server.refuses = lambda body: True
    with pytest.raises(RequestsFailedError, match=r"12 of 12 failed"):
        run_live(
            questions,
            engine,
            PolicyInputs(len(questions), uniform_budgets(8, 8)),
            budgets=[8, 16, 24],
            policies=["uniform"],
            output=tmp_path,
        )
    assert len(server.bodies) == len(questions)
    with pytest.raises(RequestsFailedError, match=r"5 of 12 failed"):
        measure_curves(questions, engine, tmp_path / "trace", num_traces=1, questions_per_chunk=5)


def test_the_commands_run_on_a_server_and_the_key_is_sent_but_written_nowhere(
    server: CompletionServer,
    questions: list[Question],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    save_questions(tmp_path / "questions.jsonl", questions)
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--model", server.model]
    arguments += ["--engine", "openai", "--engine-options.tokenizer", str(server.engine.name)]
    run = ["run", *arguments, "--budgets", "16", "--output", str(tmp_path / "run")]
    refuse(server, questions[0])
    assert main(run) == 2
    printed = capsys.readouterr()
    assert "error: 1 of 12 failed, diary-0 first: " in printed.err
    assert not (tmp_path / "run" / SUMMARY_FILE).exists()
    server.refuses = lambda body: False
    assert main(run) == 0
    assert [row.n for row in load_summary(tmp_path / "run").rows] == [12]

    trace = [
        "trace",
        *arguments,
        "--num-traces",
        "1",
        "--num-windows",
        "2",
        "--output",
        str(tmp_path / "trace"),
    ]
    assert main(trace) == 0
    assert CurveTable.load(tmp_path / "trace").metadata["engine"] == "openai"

    assert server.keys == {"Bearer sk-very-secret"}
    written = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(written) > 10
    assert not [f for f in written if b"sk-very-secret" in f.read_bytes()]
    assert "sk-very-secret" not in printed.err + printed.out


def test_ctrl_c_stops_at_once_and_sends_no_more(server: CompletionServer, questions: list[Question]) -> None:
    engine = connect(server, batch_size=2)
    server.delay = 0.3
    # A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    server.faults.append(lambda connection: os.kill(os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.reason(requests(questions * 20), SAMPLING)
    finally:
        signal.signal(signal.SIGINT, before)
    sent = len(server.bodies)
    assert 1 <= sent < 10
    time.sleep(0.3)
    assert len(server.bodies) == sent


def test_a_server_that_returns_too_much_has_failed(
    server: CompletionServer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(server)
    complete = CompletionServer.complete
    monkeypatch.setattr(
        CompletionServer, "complete", lambda self, body: complete(self, {**body, "max_tokens": 30})
    )
    found = engine.reason(requests(questions, 8), SAMPLING)
    assert any(isinstance(r, Failure) for r in found)
    for result in found:
        if isinstance(result, Failure):
            assert result.reason.endswith("max_tokens was 8")
        else:
            assert len(result.token_ids) < 8


def test_a_reply_without_choices_is_a_failure(server: CompletionServer, questions: list[Question]) -> None:
    engine = connect(server)
    server.faults.append("empty")
    (found,) = engine.reason(requests(questions[:1]), SAMPLING)
    assert found == Failure("the server's reply has no choices")


ODD_REPLIES = [
    (b"<html>login</html>", r"the server's reply is not JSON: '<html>login</html>'"),
    (b"[]", r"the server's reply is no completion: '\[\]'"),
    (b'{"error": {"message": "quota exceeded"}}', "the server's reply is an error: quota exceeded"),
    (b'{"choices": null}', "the server's reply has no choices"),
    (b'{"choices": [{"text": null, "finish_reason": "stop"}]}', "the server's reply has no text, got 'None'"),
    (
        b'{"choices": [{"text": "Sam", "finish_reason": "abort"}]}',
        "by stop or length, got .*'abort'",
    ),
    (b'{"choices": [{"text": "", "finish_reason": "content_filter"}]}', "finish_reason 'content_filter'"),
    (b'{"choices": [{"text": "Sam"}]}', "finish_reason None"),
    (b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": ["5"]}]}', "must be whole numbers"),
    (b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [-1]}]}', "must be whole numbers"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"choices": [{"text": "Sam \\ud83d", "finish_reason": "length"}]}', "is no valid text"),
    (b'{"choices": ["\xff"]}', "is not JSON"),
    (b'{"choices": [{"text": "a"}, {"text": "b"}]}', "must have one choice, got 2"),
    (b'{"choices": [{"text": "", "reasoning": "5", "finish_reason": "stop"}]}', "apart, in 'reasoning'"),
    (
        b'{"choices": [{"text": "5", "reasoning_content": "So", "finish_reason": "stop"}]}',
        "got its reasoning",
    ),
]


@pytest.mark.parametrize(("body", "message"), ODD_REPLIES)
def test_a_reply_that_is_no_completion_is_that_requests_failure_and_at_loading_one_sentence(
    server: CompletionServer, questions: list[Question], body: bytes, message: str
) -> None:
    engine = connect(server, batch_size=1)
    expected = engine.reason(requests(questions[:3], 8), SAMPLING)
    server.faults.append(body)
    found = engine.reason(requests(questions[:3], 8), SAMPLING)
    assert isinstance(found[0], Failure)
    assert re.search(message, found[0].reason)
    assert list(found[1:]) == list(expected[1:])
    server.faults.append(body)
    if b'"text"' in body:  # the server does complete prompts: what each request gets is looked at then
        assert connect(server).name == engine.name
        return
    with pytest.raises(ValueError, match=f"base_url must be a server that completes prompts, .*{message}"):
        connect(server)


ENDED_AT_5 = [
    b'{"choices": [{"text": "", "token_ids": [5, 6, 7, 8, 9], "finish_reason": "length"}]}',
    b'{"choices": [{"text": "Sam", "finish_reason": "length"}], "usage": {"completion_tokens": 5}}',
]


@pytest.mark.parametrize("body", ENDED_AT_5)
def test_a_server_that_ends_earlier_than_the_budget_by_a_limit_of_its_own_has_failed(
    server: CompletionServer, questions: list[Question], body: bytes
) -> None:
    engine = connect(server)
    server.faults.append(body)
    (found,) = engine.reason(requests(questions[:1], 8), SAMPLING)
    assert found == Failure("the server ended after 5 tokens, max_tokens was 8: its own limit is lower")
    server.faults.append(body)
    assert isinstance(engine.reason(requests(questions[:1], 5), SAMPLING)[0], Reasoning)


def test_a_stop_that_the_budget_leaves_no_room_for_is_an_unfinished_reasoning(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server)
    server.faults.append(b'{"choices": [{"token_ids": [5, 6], "finish_reason": "stop"}]}')
    assert engine.reason(requests(questions[:1], 2), SAMPLING) == [Reasoning((5, 6), finished=False)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_reply_is_read_in_whatever_encoding_of_unicode(
    server: CompletionServer, questions: list[Question], encoding: str
) -> None:
    engine = connect(server)
    server.faults.append('{"choices": [{"token_ids": [5], "finish_reason": "length"}]}'.encode(encoding))
    assert engine.reason(requests(questions[:1], 1), SAMPLING) == [Reasoning((5,), finished=False)]


REPLY = b'{"choices": [{"token_ids": [5], "finish_reason": "length"}], "usage": null}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(REPLY)


def limited(retry_after: str) -> bytes:
    return f"HTTP/1.1 429 Slow\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("sent", "tried_again"),
    [
        (OK + REPLY, False),
        (b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + REPLY, False),
        (OK + REPLY[:20], True),  # and closed
        (b"\x16\x03\x01\x00\x00", True),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n...", True),
        (limited("1"), True),
        (limited(formatdate(0, usegmt=True)), True),
        (limited("soon"), True),
    ],
)
def test_what_is_no_whole_reply_is_asked_again(
    server: CompletionServer, questions: list[Question], sent: bytes, tried_again: bool
) -> None:
    engine = connect(server)
    (expected,) = engine.reason(requests(questions[:1], 1), SAMPLING)
    server.bodies.clear()
    server.faults.append(lambda connection: connection.sendall(sent))
    (found,) = engine.reason(requests(questions[:1], 1), SAMPLING)
    assert len(server.bodies) == 1 + tried_again
    assert found == (expected if tried_again else Reasoning((5,), finished=False))


def test_a_reply_that_drips_for_ever_is_given_up(
    server: CompletionServer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(server, max_retries=0)
    monkeypatch.setattr(
        engine, "_timeout", 1.0
    )  # not before: what a slow machine asks at loading takes its time
    monkeypatch.setattr("ps_eval.engines.openai.LONGEST_PAUSE", 0.5)
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while not gone.wait(0.05):
                connection.sendall(b" ")
        except OSError:
            gone.set()

    server.faults.append(drip)
    (found,) = engine.reason(requests(questions[:1], 1), SAMPLING)
    assert found == Failure("no whole reply within 1.5 s, retries included")
    assert gone.wait(30)  # the connection is closed


def test_a_text_that_is_far_longer_than_its_limit_is_not_all_encoded(
    server: CompletionServer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(server)
    sizes: list[int] = []
    encode = engine.tokenizer.encode

    def counted(text: str, **how: object) -> list[int]:
        sizes.append(len(text))
        return list(encode(text, **how))

    monkeypatch.setattr(engine.tokenizer, "encode", counted)
    server.faults.append(b'{"choices": [{"text": "%s", "finish_reason": "length"}]}' % (b"Sam " * 10_000))
    (found,) = engine.reason(requests(questions[:1], 2), SAMPLING)
    assert isinstance(found, Reasoning)
    assert len(found.token_ids) == 2
    assert max(sizes) < 1000


def test_neutral_sampling_is_sent_where_nothing_is_set(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server)
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    engine.reason(requests(questions[:1], 4), SAMPLING)
    engine.answer(texts(questions[:1]), [Reasoning((), False)])
    for body in server.bodies:
        assert body.items() >= {**neutral, "top_k": -1}.items()
    assert "seed" not in server.bodies[-1]  # greedy
    server.bodies.clear()
    engine.reason(requests(questions[:1], 4), Sampling(0.7, 0.9, top_k=20, min_p=0.05))
    assert server.bodies[0].items() >= {**neutral, "top_k": 20, "min_p": 0.05, "top_p": 0.9}.items()


def test_a_server_of_openais_own_fields_alone_gets_those_and_refuses_others_in_one_sentence(
    server: CompletionServer, questions: list[Question]
) -> None:
    expected = connect(server).reason(requests(questions[:3], 16), Sampling(temperature=0))
    server.takes_fields = server.takes_ids = False
    engine = connect(server)
    assert engine.reason(requests(questions[:3], 16), Sampling(temperature=0)) == expected
    with pytest.raises(ValueError, match=r"top_k and min_p must be 0 on http://.*, got 20 and 0.0"):
        engine.reason(requests(questions[:1], 4), Sampling(top_k=20))


def test_seeds_are_as_short_as_the_server_wants_them(
    server: CompletionServer, questions: list[Question]
) -> None:
    engine = connect(server, seed_bits=31)
    engine.reason(requests(questions, 4), SAMPLING)
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(questions)
    assert 2**24 < max(seeds) < 2**31
    with pytest.raises(ValueError, match=r"seed_bits must lie in 1..53, got 64"):
        connect(server, seed_bits=64)


def test_an_address_without_v1_and_a_server_for_chat_alone_are_named(server: CompletionServer) -> None:
    tokenizer = server.engine.name
    with pytest.raises(ValueError, match=r"there is nothing at http://.*/completions \(is /v1 missing\?\)"):
        OpenAIEngine(server.model, base_url=server.url.removesuffix("/v1"), tokenizer=tokenizer)
    server.completes = False
    with pytest.raises(ValueError, match=r"must be a server with a completions endpoint, .* for chat alone"):
        OpenAIEngine(server.model, base_url=server.url, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"model must be one that .* serves \(random-reasoner\), got"):
        OpenAIEngine("other", base_url=server.url, tokenizer=tokenizer)


def test_an_unknown_model_is_refused(server: CompletionServer) -> None:
    with pytest.raises(ValueError, match=r"model must be one that http://.* serves, got 'other': .*no model"):
        OpenAIEngine("other", base_url=server.url, tokenizer=server.engine.name)


def test_no_address_is_refused(random_reasoner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="base_url must be given, as an engine option or in OPENAI_BASE_URL"):
        load_engine("openai", random_reasoner)


def test_an_address_where_nobody_answers_is_refused(random_reasoner: Path) -> None:
    with pytest.raises(ValueError, match="base_url must be a server that completes prompts, got http://127"):
        load_engine("openai", random_reasoner, base_url="http://127.0.0.1:9/v1", max_retries=0)


def test_a_batch_size_below_one_is_refused(random_reasoner: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, got 0"):
        load_engine("openai", random_reasoner, batch_size=0)
