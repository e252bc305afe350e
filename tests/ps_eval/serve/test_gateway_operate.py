"""Running it: state, readiness, routes, servers, logs, what it finds at the start."""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import OK, RawServer, RunningGateway, UpstreamProcess, eventually, flat_curves, one_lane

from ps_alloc import Pacer
from ps_eval.serve.adapters import Field, fields_of, server_of
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.decision_log import DecisionLog
from ps_eval.serve.grant import AnswerReserve
from ps_eval.serve.lanes import Lane, Lanes
from ps_eval.serve.logs import ALWAYS, JsonLines, OnceInAWhile
from ps_eval.serve.pacer_state import StateFile
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.routes import RouteTable

Start = Callable[..., RunningGateway]
CHAT = "/v1/chat/completions"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    file = StateFile(tmp_path / "pacer.json")
    yield file
    file.close()


def test_a_pacer_goes_on_from_its_file_at_todays_target(
    upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path
) -> None:
    path = tmp_path / "pacer.json"
    gateway = start_gateway(upstream.url, state=path, pacer=Pacer(48, step=0.02), save_seconds=0.05)
    gateway.post({"prompt": "hard"})
    assert eventually(lambda: path.is_file() and json.loads(path.read_text())["n_requests"] == 1)
    with pytest.raises(ValueError, match=r"pacer.json is in use by another gateway"):
        StateFile(path)
    price = gateway.pacer.price
    again = StateFile(copied(path))
    restored = again.restore(Pacer(96, max_windows=4))
    assert (restored.price, restored.n_requests) == (price, 1)
    assert (restored.tokens_per_request, restored.max_windows) == (96, 4)


def saved(**changed: object) -> str:
    fields = {"version": 1, "price": 1, "log_price": 0, "n_requests": 0, "spent_tokens": 0}
    return json.dumps({**fields, **changed})


def copied(path: Path) -> Path:
    other = path.with_name("copy.json")
    other.write_bytes(path.read_bytes())
    return other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a pacer's state, got a list"),
        ('{"version": 9}', "must hold a pacer's state: .* version 1 or 2, got 9"),
        ('{"version": 1, "price": 0.1, "log_price": 0}', "must hold a pacer's state: .* field"),
        (saved(log_price=None), "must hold a pacer's state"),
        (saved(log_price=900), "must hold a pacer's state"),
        (saved(log_price=-90), "log_price must lie in"),
        (saved(n_requests=-1), "must hold a pacer's state"),
        (saved(n_requests=[]), "must hold a pacer's state"),
        ('{"version": 1, "others": 3}', "others must be an object of objects"),
    ],
)
def test_a_state_file_that_is_none_is_said_in_one_sentence(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "pacer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        StateFile(path).restore(Pacer(48))


def test_a_state_file_that_was_refused_can_be_mended_and_taken(tmp_path: Path) -> None:
    path = tmp_path / "pacer.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"pacer\.json"):
        StateFile(path)
    path.write_text(saved(n_requests=3))
    file = StateFile(path)
    assert file.restore(Pacer(48)).n_requests == 3
    file.close()


def test_a_state_that_cannot_be_written_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"state must be a file that can be written, .*file/pacer\.json"):
        StateFile(tmp_path / "file" / "pacer.json")
    with pytest.raises(ValueError, match="state must be a file that can be written"):
        StateFile(tmp_path)


def test_ready_is_apart_from_live_and_health_tells_the_truth(
    mortal_upstream: UpstreamProcess, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ps_eval.serve.status.READY_SECONDS", 0.0)
    gateway = start_gateway(mortal_upstream.url)

    def seen() -> tuple[int, int, str]:
        live, ready = (gateway.post(b"", path, method="GET")[0] for path in ("/live", "/ready"))
        return live, ready, json.loads(gateway.post(b"", "/health", method="GET")[2])["upstream"]

    assert seen() == (200, 200, "reachable")
    mortal_upstream.kill()
    assert seen() == (200, 503, "unreachable")
    mortal_upstream.start()
    assert seen() == (200, 200, "reachable")
    gateway.gateway.draining = True
    assert seen() == (200, 503, "reachable")
    assert gateway.post({"prompt": "x"})[0] == 200  # until the socket closes


@pytest.mark.parametrize(
    ("path", "policy", "name"),
    [
        ("/v1/chat/completions", "budget", "chat"),
        ("//v1//chat/completions/", "budget", "chat"),
        ("/v1/chat/completions/batch", "budget", "chat_batch"),
        ("/v1/messages", "budget", "messages"),
        ("/v1/messages/count_tokens", "pass", "other"),
        ("/generate", "pass", "native"),
        ("/v1/models", "pass", "other"),
        ("/sleep", "deny", "admin"),
        ("//sleep", "deny", "admin"),
        ("/sleep/", "deny", "admin"),
        ("/collective_rpc", "deny", "admin"),
        ("/update_weights_from_disk", "deny", "admin"),
        ("/v1/load_lora_adapter", "deny", "admin"),
        ("/slots/0", "deny", "admin"),
        ("/x/../sleep", "deny", "admin"),  # as proxies before a server read it
        ("/./v1/chat/completions", "budget", "chat"),
        ("/responses", "budget", "responses"),
        ("/cohere/v2/chat", "pass", "native"),
        ("/v1/chat/completions/control", "deny", "admin"),  # ends the reasoning of others' requests
        ("/cors-proxy", "deny", "admin"),  # llama.cpp asks any host there
        ("/tools", "deny", "admin"),
        ("/v1/stream/abc", "deny", "admin"),
        ("/props", "deny", "admin"),
        ("/sleepy", "pass", "other"),
    ],
)
def test_each_path_has_its_policy(path: str, policy: str, name: str) -> None:
    route = RouteTable().of("POST", path)
    assert (route.policy, route.name) == (policy, name)


def test_what_steers_where_it_is_written_may_be_read() -> None:
    table = RouteTable()
    assert [table.of(method, "/props").policy for method in ("GET", "POST")] == ["pass", "deny"]
    assert [table.of(method, "/models").policy for method in ("GET", "DELETE")] == ["pass", "deny"]


def test_routes_can_be_changed_and_wrong_ones_are_said() -> None:
    table = RouteTable({"/v1/responses": "deny", "/sleep": "pass", "/private/*": "deny"})
    policies = [table.of("POST", path).policy for path in ("/v1/responses", "/sleep", "/private/a", "/a")]
    assert policies == ["deny", "pass", "deny", "pass"]
    table = RouteTable({"/v1/*": "deny", "/v1/messages": "budget"})
    paths = ("/v1/completions", "/v1/models", "/v1/messages", "/invocations", "/sleep")
    assert [table.of("POST", path).policy for path in paths] == ["deny", "deny", "budget", "budget", "deny"]
    passed = RouteTable({"/*": "pass"}).of("POST", "/v1/completions")
    assert (passed.policy, passed.name, passed.thinks) == ("pass", "completions", True)
    for changes, message in (
        ({"v1": "deny"}, "a path in routes must begin with /, got 'v1'"),
        ({"/a": "drop"}, "a policy in routes must be budget, pass or deny, got 'drop'"),
        ({"/a": "budget"}, "budgets can be given on .*, got '/a'"),
    ):
        with pytest.raises(ValueError, match=message):
            RouteTable(changes)  # type: ignore[arg-type]


def test_denied_routes_reach_nobody_and_unbudgeted_ones_are_counted(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url)
    before = len(upstream.get("/received"))
    assert gateway.post(b"", "/sleep?level=2")[0] == 403
    assert len(upstream.get("/received")) == before
    assert gateway.outcomes("denied", "admin") == 1
    body = b'{"input": "how hard can that be for you"}'
    status, headers, _ = gateway.post(body, "/v1/responses")  # vLLM has no field for a budget there
    assert (status, upstream.last()["body"].encode()) == (200, body)
    assert "x-ps-budget" not in headers
    gateway.post(b'{"text": "x"}', "/generate")
    assert gateway.count("unbudgeted_total", route="responses") == 1
    assert gateway.count("unbudgeted_total", route="native") == 1


def test_invocations_and_batches_get_their_budget(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    chat = [{"role": "user", "content": "a hard one, and long enough"}]
    assert gateway.post({"messages": chat}, "/invocations")[1]["x-ps-budget"] == "128"
    assert gateway.post({"prompt": "hard"}, "/invocations")[1]["x-ps-budget"] == "128"
    _, headers, _ = gateway.post({"messages": [chat, chat]}, CHAT + "/batch")
    assert headers["x-ps-budget"] == "128"
    assert json.loads(upstream.last()["body"])["thinking_token_budget"] == 128
    assert gateway.pacer.n_requests == 4


def test_beams_have_no_budget_and_are_counted(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url)
    body = b'{"prompt": "hard", "use_beam_search": true, "n": 4}'
    _, headers, _ = gateway.post(body)
    assert "x-ps-budget" not in headers
    assert upstream.last()["body"].encode() == body
    assert gateway.count("unbudgeted_total", route="completions") == 1
    assert gateway.pacer.n_requests == 0


@pytest.mark.parametrize("server", ["vllm", "sglang", "llama.cpp", "nim", "other"])
@pytest.mark.parametrize("observe", [False, True])
def test_a_completion_without_max_tokens_gets_no_more_than_its_server_makes(
    upstream: UpstreamProcess, start_gateway: Start, server: str, observe: bool
) -> None:
    def lanes(budgets: Budgets) -> Lanes:
        return Lanes(Lane(budgets, fields_of(server, "budget")))  # type: ignore[arg-type]

    gateway = start_gateway(upstream.url, lanes=lanes, gateway={"observe": observe})
    expected = "8" if server in ("vllm", "sglang", "nim") else "128"  # of 16, half is the answer's
    for body in ({"prompt": "hard"}, {"prompt": "hard", "max_tokens": None}):
        assert gateway.post(body)[1]["x-ps-budget"] == expected
    assert gateway.pacer.spent_tokens == 2 * int(expected)
    assert gateway.post({"prompt": "hard", "max_tokens": 500})[1]["x-ps-budget"] == "128"
    chat = {"messages": [{"role": "user", "content": "a hard one, and long enough"}]}
    for path in (CHAT, "/invocations"):
        assert gateway.post(chat, path)[1]["x-ps-budget"] == "128"


def of_llama(first: int, second: int | None = None) -> dict[str, int]:
    """llama.cpp's two names of one budget."""
    return {
        "reasoning_budget_tokens": first,
        "thinking_budget_tokens": first if second is None else second,
    }


@pytest.mark.parametrize(
    ("server", "route", "body", "sent"),
    [
        ("vllm", "chat", {}, {"thinking_token_budget": 128}),
        ("sglang", "chat", {}, {"custom_params": {"thinking_budget": 128}}),
        (
            "sglang",
            "chat",
            {"custom_params": {"a": 1}},
            {"custom_params": {"a": 1, "thinking_budget": 128}},
        ),
        (
            "sglang",
            "chat",
            {"custom_params": {"thinking_budget": 9}},
            {"custom_params": {"thinking_budget": 9}},
        ),
        ("llama.cpp", "chat", {}, of_llama(128)),
        ("llama.cpp", "responses", {}, of_llama(128)),
        # The server prefers the first: whoever sends the second, or both, is held to the lower.
        ("llama.cpp", "chat", of_llama(4096, -1), of_llama(128)),
        ("llama.cpp", "chat", of_llama(-1, 9), of_llama(9)),
        ("llama.cpp", "chat", {"reasoning_budget_tokens": 7}, of_llama(7)),
        ("nim", "chat", {"nvext": {}}, {"nvext": {"max_thinking_tokens": 128}}),
        ("llama.cpp", "messages", {}, {"thinking": {"type": "enabled", "budget_tokens": 128}}),
        (
            "vllm",
            "messages",
            {"max_tokens": 4096},
            {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        ),
        ("vllm", "messages", {"max_tokens": 1000}, {"max_tokens": 1000}),  # no word for so little
    ],
)
def test_every_servers_field_is_written(
    upstream: UpstreamProcess, start_gateway: Start, server: str, route: str, body: dict, sent: dict
) -> None:
    def lanes(budgets: Budgets) -> Lanes:
        return Lanes(Lane(budgets, fields_of(server)))  # type: ignore[arg-type]

    gateway = start_gateway(upstream.url, lanes=lanes)
    chat = [{"role": "user", "content": "a hard one, and long enough"}]
    asked = {"input" if route == "responses" else "messages": chat, **body}
    status, headers, _ = gateway.post(asked, CHAT if route == "chat" else f"/v1/{route}")
    assert status == 200
    assert json.loads(upstream.last()["body"]) == {**asked, **sent}
    if sent.get("thinking", {}).get("budget_tokens") == 1024:
        assert headers["x-ps-budget"] == "1024"
        assert gateway.pacer.spent_tokens == 1024


def test_a_dotted_field_of_ones_own() -> None:
    field = fields_of("other", "extra.deep.budget")["chat"]
    assert field == Field("extra.deep.budget")
    request = CompletionRequest.parse(b'{"extra": {"a": 1}}', is_chat=True, budget_field=field.path)
    assert json.loads(request.with_budget(5)) == {"extra": {"a": 1, "deep": {"budget": 5}}}
    with pytest.raises(ValueError, match=r"budget_field must be a name, or names joined by dots, got 'a..b'"):
        fields_of("vllm", "a..b")
    rows = {"data": [{"id": "x", "owned_by": "sglang"}]}
    assert [server_of(models) for models in (rows, {}, None, {"data": [3]})] == ["sglang", None, None, None]


def test_observed_requests_are_decided_and_not_changed(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, gateway={"observe": True})
    body = b'{"prompt": "hard" }'
    _, headers, _ = gateway.post(body)
    assert (headers["x-ps-budget"], upstream.last()["body"].encode()) == ("128", body)
    assert gateway.pacer.spent_tokens == 128


def test_models_have_their_own_budgets(upstream: UpstreamProcess, start_gateway: Start) -> None:
    def lanes(budgets: Budgets) -> Lanes:
        default = one_lane(budgets).default
        pacer = Pacer(80, initial_price=0.001)
        own = Budgets(pacer, budgets._metrics, batcher=None, reader=budgets._reader, name="big-*")
        off = Lane(own, default.fields, enabled=False)
        return Lanes(default, {"big-*": Lane(own, fields_of("sglang")), "off": off})

    gateway = start_gateway(upstream.url, lanes=lanes)
    assert gateway.post({"prompt": "hard", "model": "small"})[1]["x-ps-budget"] == "128"
    assert gateway.post({"prompt": "hard", "model": "big-7b", "max_tokens": 500})[1]["x-ps-budget"] == "80"
    assert json.loads(upstream.last()["body"])["custom_params"] == {"thinking_budget": 80}
    assert "x-ps-budget" not in gateway.post({"prompt": "hard", "model": "off"})[1]
    assert gateway.count("unbudgeted_total", route="completions") == 1
    assert 'lane_price{lane="big-*"}' in gateway.post(b"", "/metrics", method="GET")[2].decode()


def test_every_decision_is_logged_and_feedback_beside_it(
    upstream: UpstreamProcess, start_gateway: Start, tmp_path: Path
) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path, questions="text")
    gateway = start_gateway(upstream.url, gateway={"decisions": log})
    usage = {"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 70}}
    sent = {"X-Usage": json.dumps(usage), "X-Request-Id": "mine-1", "Authorization": "Bearer secret"}
    assert gateway.post({"prompt": "hard", "model": "m"}, headers=sent)[1]["x-ps-request-id"] == "mine-1"
    assert gateway.post({"request_id": "mine-1", "correct": 1}, "/ps/feedback")[0] == 200
    for wrong in (b"[]", b'{"request_id": "a b", "correct": 1}', b'{"request_id": "a", "correct": 2}'):
        assert gateway.post(wrong, "/ps/feedback")[0] == 400
    assert eventually(lambda: path.read_text().count("\n") == 2)
    decided, feedback = map(json.loads, path.read_text().splitlines())
    assert decided["questions"][0]["text"] == "hard"
    assert decided["budgets"][:2] == [16, 32]
    assert decided["curve"] == pytest.approx(flat_curves(["hard"])[0].tolist(), abs=1e-4)
    expected = {"request_id": "mine-1", "model": "m", "granted": 128, "used": 70, "outcome": "ok"}
    assert {name: decided[name] for name in expected} == expected
    assert (feedback["request_id"], feedback["correct"]) == ("mine-1", 1.0)
    assert "secret" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_the_decision_log_hashes_is_bounded_and_refuses_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path, max_bytes=4096, files=2)
    for number in range(400):
        log.feedback(json.dumps({"request_id": f"r{number}", "correct": 0.5}).encode())
    one, other = log._question("a private text"), log._question("a private text")
    assert one == other
    assert "private" not in json.dumps(one)
    log.close()
    files = sorted(p.name for p in tmp_path.glob("decisions.jsonl*") if not p.name.endswith(".key"))
    assert files == ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2"]
    assert all((tmp_path / name).stat().st_size <= 4096 for name in files)
    assert DecisionLog(path)._question("a private text") == one  # the key is kept
    with pytest.raises(ValueError, match="decision_log_mb must be at least"):
        DecisionLog(path, max_bytes=1)


def test_exploring_grants_the_largest_budget(upstream: UpstreamProcess, start_gateway: Start) -> None:
    gateway = start_gateway(upstream.url, budgets={"explore": 1.0})
    assert gateway.post({"prompt": "easy"})[1]["x-ps-budget"] == "128"
    assert gateway.post({"prompt": "easy", "max_tokens": 100})[1]["x-ps-budget"] == "76"
    assert gateway.count("explored_total") == 2
    assert gateway.count("explored_tokens_total") == 96 + 44


@pytest.mark.parametrize(
    ("max_tokens", "room"), [(0, 0), (1, 0), (2, 1), (32, 16), (48, 24), (64, 40), (240, 216), (4096, 3686)]
)
def test_the_answers_reserve(max_tokens: int, room: int) -> None:
    assert AnswerReserve(24, 0.1).room(max_tokens) == room
    for wrong in ((-1, 0.1), (1, 1.0)):
        with pytest.raises(ValueError, match="answer_tokens must be at least 0 and answer_share lie in"):
            AnswerReserve(*wrong)


def test_errors_can_be_read_by_a_page_and_origins_be_allowed(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    origin = {"Origin": "https://chat.example.org"}
    gateway = start_gateway(upstream.url)
    assert gateway.post(b"{", headers=origin)[1]["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in gateway.post(b"{")[1]
    gateway = start_gateway(upstream.url, gateway={"cors_origins": ["https://chat.example.org"]})
    _, headers, _ = gateway.post({"prompt": "hard"}, headers=origin)
    assert headers["access-control-allow-origin"] == "https://chat.example.org"
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    assert gateway.post(b"", headers=preflight, method="OPTIONS")[0] == 200


def test_a_post_that_was_worked_on_is_not_sent_again(start_gateway: Start) -> None:
    server = RawServer(OK + b"\r\n{}", delay=0.3)
    gateway = start_gateway(server.url)
    assert gateway.post({"prompt": "hard"})[0] == 200
    assert gateway.post({"prompt": "hard"})[0] == 502  # the reused connection broke after 0.3 s
    assert server.received == 2


@pytest.mark.parametrize(("patience", "second"), [(30.0, 200), (0.2, 502)])
def test_a_post_that_a_busy_server_closed_unread_is_sent_again(
    start_gateway: Start, monkeypatch: pytest.MonkeyPatch, patience: float, second: int
) -> None:
    """As uvloop does: what was idle for too long is closed before what has come meanwhile is read.

    What is reset after longer than a server is too busy to read may have been read: it is not sent again.
    """
    monkeypatch.setattr("ps_eval.serve.upstream.RESET_SECONDS", patience)
    listening = socket.create_server(("127.0.0.1", 0))
    received = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                received.append(connection.recv(65536))
                connection.sendall(OK + b"\r\n{}")
                if len(received) == 1:  # the second request comes, and is not read
                    select.select([connection], [], [], 30)
                    time.sleep(0.6 if patience < 0.6 else 0.0)

    threading.Thread(target=serve, daemon=True).start()
    gateway = start_gateway(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert [gateway.post({"prompt": "hard"})[0] for _ in range(2)] == [200, second]
    assert len(received) == (2 if second == 200 else 1)
    assert len({request.splitlines()[0] for request in received}) == 1
    listening.close()


@pytest.mark.parametrize(
    ("answer", "status", "name", "value"),
    [
        (OK + b"X-Trace: " + b"a" * 9000 + b"\r\n\r\n{}", 200, "x-trace", "a" * 9000),
        (OK + b"".join(b"X-%d: a\r\n" % i for i in range(300)) + b"\r\n{}", 200, "x-299", "a"),
        (OK + b"X-Trace: " + b"a" * 70_000 + b"\r\n\r\n{}", 502, "x-trace", None),
        (OK + b"X-Ps-Budget: 7\r\n\r\n{}", 200, "x-ps-budget", "128"),
        (OK.replace(b"200 OK", b"307 Go") + b"Location: %s/v1/x\r\n\r\n{}", 307, "location", "/v1/x"),
        (
            OK.replace(b"200 OK", b"307 Go") + b"Location: http://other/\r\n\r\n{}",
            307,
            "location",
            "http://other/",
        ),
        (OK.replace(b"200 OK", b"999 Odd") + b"\r\n{}", 502, "x-trace", None),
    ],
)
def test_odd_heads_of_an_upstream(
    start_gateway: Start, answer: bytes, status: int, name: str, value: str | None
) -> None:
    server = RawServer()
    server.answers = [answer.replace(b"%s", server.url.encode())]
    gateway = start_gateway(server.url)
    body = b'{"prompt": "hard"}'
    received = b""
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while part := client.recv(2**20):
            received += part
    head = received.partition(b"\r\n\r\n")[0].decode().lower()
    assert head.startswith(f"http/1.1 {status}")
    values = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith(f"{name}:")]
    assert values == ([] if value is None else [value])
    assert gateway.outcomes("defect") == 0


def test_a_warning_comes_once_in_a_while_and_logs_can_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ps_eval.serve.logs.time", SimpleNamespace(monotonic=lambda: now[0]))
    limited = OnceInAWhile(10.0)

    def record(message: str, *args: object) -> logging.LogRecord:
        return logging.LogRecord("ps", logging.WARNING, "", 0, message, args, None)

    shown = [limited.filter(record("upstream %s", number)) for number in range(5)]
    assert shown == [True, False, False, False, False]
    assert limited.filter(record("something else"))
    answer = record("upstream %s", 6)
    vars(answer).update(ALWAYS)
    assert limited.filter(answer)  # somebody's signal
    now[0] += 10.5
    again = record("upstream %s", 9)
    assert limited.filter(again)
    assert again.getMessage() == "upstream 9 (4 more like this were not logged)"
    again.fields = {"request_id": "r1"}
    line = json.loads(JsonLines().format(again))
    assert (line["level"], line["request_id"], line["message"][:10]) == ("warning", "r1", "upstream 9")


def test_the_access_log_names_the_request_and_no_more(
    upstream: UpstreamProcess, start_gateway: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ps_eval.serve.access")
    gateway = start_gateway(upstream.url)
    sent = {"Authorization": "Bearer secret", "X-Request-Id": "mine-2"}
    gateway.post({"prompt": "a private text"}, "/v1/completions?key=secret", sent)
    assert eventually(lambda: any(r.name == "ps_eval.serve.access" for r in caplog.records))
    fields = next(r.fields for r in caplog.records if r.name == "ps_eval.serve.access")  # type: ignore[attr-defined]
    assert fields["request_id"] == "mine-2"
    assert (fields["route"], fields["status"], fields["budget"]) == ("completions", 200, 32)
    assert "secret" not in repr(fields)
    assert "private" not in repr(fields)
