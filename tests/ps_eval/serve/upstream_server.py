"""A hand-written upstream over real HTTP: `python upstream_server.py PORT`. Headers say how it behaves.

Completions come from a small deterministic "model" that counts aloud: to a prompt that ends in `L<think>` it
thinks ` 1 2 … L`, ends with `</think>` and answers with the last number it had reached. A word is a token.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from typing import Any

ODD_JSON = b'{ "id":"x",\r\n  "choices" : [ {"text":"caf\xc3\xa9 \\u00e9"} ],  "usage": %s }\n'
STREAM = [
    b'data: {"choices":[{"text":"a"}]}\r\n\r\n: a comment\n\ndata: {"cho',
    b'ices":[{"text":"\xc3',
    b'\xa9"}]}\n\n',
    b'data: {"choices":[],"usage":{"completion_tokens":9,',
    b'"completion_tokens_details":{"reasoning_tokens":7}}}',
    b"\n\ndata: [DONE]\n\n",
]
EOS = "<eos>"

received: list[dict[str, Any]] = []
counts = {"aborted": 0, "open": 0}
held: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))
"""What `X-Hold: NAME` waits for: each answer, or part of a stream, for one of `/release/NAME/COUNT`."""


def next_token(text: str) -> str:
    limit = int(re.findall(r"(\d+)<think>", text)[-1])
    thought, end, answer = text.rpartition("<think>")[2].partition("</think>")
    reached = len(thought.split())
    if not end:
        return f" {reached + 1}" if reached < limit else "</think>"
    words = [" Answer", " :", f" {reached}", EOS]
    return words[len(answer.split())]


def generate(body: dict[str, Any]) -> tuple[list[str], str, str | None]:
    """Tokens, finish_reason, stop_reason."""
    tokens: list[str] = []
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    while len(tokens) < body.get("max_tokens", 16):
        token = next_token(body["prompt"] + "".join(tokens))
        if token == EOS:
            return tokens, "stop", None
        if token in stops:
            return tokens, "stop", token
        tokens.append(token)
    return tokens, "length", None


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
    asked = dict(headers)
    path = scope["raw_path"].decode()
    if path in ("/received", "/counts"):
        content = json.dumps(received if path == "/received" else counts).encode()
        await answer(send, 200, content, [])
        return
    if path.startswith("/release/"):
        _, _, name, number = path.split("/")
        for _ in range(int(number)):
            held[name].release()
        await answer(send, 200, b"null", [])
        return
    received.append(
        {
            "method": scope["method"],
            "target": path + ("?" + scope["query_string"].decode() if scope["query_string"] else ""),
            "headers": headers,
            "body": body.decode("latin-1"),
        }
    )
    counts["open"] += 1
    work = asyncio.ensure_future(respond(scope, asked, body, send))
    gone = asyncio.ensure_future(receive())
    await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
    counts["open"] -= 1
    if not work.done():
        counts["aborted"] += 1
        work.cancel()
    gone.cancel()
    await asyncio.gather(work, gone, return_exceptions=True)


async def respond(scope: dict[str, Any], asked: dict[str, str], body: bytes, send: Any) -> None:
    mode = asked.get("x-mode", "odd")
    extra = [
        (b"x-request-id", b"abc"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"keep-alive", b"timeout=9"),
        (b"x-hop", b"1"),
        (b"connection", b"x-hop"),
    ]
    if mode == "count" and scope["path"] == "/tokenize":
        asked_for = json.loads(body)
        text = asked_for.get("prompt") or asked_for["messages"][-1]["content"] + "<think>"
        # llama.cpp's has another field for the text, and finds none.
        ids = {"none": [], "empty": {"tokens": []}}.get(asked.get("x-tokenize", ""))
        found = {"tokens": list(map(ord, text))} if ids is None else ids
        await answer(send, 200, json.dumps(found).encode(), [])
        return
    if mode == "count":
        asked_for = json.loads(body)
        if asked.get("x-refuse-phase") == ("1" if "</think>" in asked_for.get("stop", []) else "2"):
            await answer(send, 429, b'{"error":{"message":"too many tokens"}}', [])
            return
        await count(asked_for, send)
        return
    if mode in ("events", "endless", "die-streaming"):
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), *extra],
            }
        )
        parts = STREAM if mode == "events" else STREAM[:2] * 10**6
        for number, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await told_to_go_on(asked)
            if mode == "die-streaming" and number == 4:
                os._exit(1)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    await told_to_go_on(asked)
    if mode == "large":
        await answer(send, 200, b"x" * int(asked["x-size"]), [])
        return
    await answer(
        send, int(asked.get("x-status", 200)), ODD_JSON % asked.get("x-usage", "null").encode(), extra
    )


async def told_to_go_on(asked: dict[str, str]) -> None:
    await asyncio.sleep(float(asked.get("x-delay", 0)))
    if name := asked.get("x-hold"):
        await held[name].acquire()


async def answer(send: Any, status: int, content: bytes, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def count(body: dict[str, Any], send: Any) -> None:
    as_ids = isinstance(body["prompt"], list)  # a character is a token id
    if as_ids:
        body = {**body, "prompt": "".join(map(chr, body["prompt"]))}
    tokens, reason, stop = generate(body)
    prompt_tokens = len(body["prompt"].replace("</think>", " </think>").split())
    # The token that stopped it was generated too.
    made = len(tokens) + (reason == "stop")
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": made, "total_tokens": prompt_tokens + made}
    head = {"id": f"cmpl-{len(received)}", "object": "text_completion", "model": "counter"}
    end: dict[str, Any] = {"finish_reason": reason, "stop_reason": stop}
    if as_ids and body.get("return_token_ids"):
        end["token_ids"] = list(map(ord, "".join(tokens) + (stop or "")))
    if not body.get("stream"):
        choice = {"index": 0, "text": "".join(tokens), **end}
        await answer(send, 200, json.dumps({**head, "choices": [choice], "usage": usage}).encode(), [])
        return
    events = [{"index": 0, "text": t, "finish_reason": None, "stop_reason": None} for t in tokens]
    events = [*events[:-1], {"index": 0, "text": tokens[-1] if tokens else "", **end}]
    lines = [{**head, "choices": [event]} for event in events]
    if (body.get("stream_options") or {}).get("include_usage"):
        lines.append({**head, "choices": [], "usage": usage})
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    )
    for line in [*map(json.dumps, lines), "[DONE]"]:
        await send({"type": "http.response.body", "body": f"data: {line}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", server_header=False)
