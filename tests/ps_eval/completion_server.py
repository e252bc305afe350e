"""An OpenAI-compatible completions server on 127.0.0.1 that generates with the transformers engine.

It can be told to misbehave in the ways real servers do.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ps_eval.engines.base import Sampling
from ps_eval.engines.token_engine import Stops
from ps_eval.engines.transformers import TransformersEngine

Body = dict
Script = Callable[[socket.socket], None]
OPENAI_FIELDS = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop"}


@dataclass
class CompletionServer:
    """What a test sees and sets of the running server."""

    url: str
    engine: TransformersEngine
    model: str = "random-reasoner"
    takes_ids: bool = True
    """Accepts token-id prompts and fields that are not OpenAI's; else it answers 400."""
    returns_ids: bool = True
    takes_fields: bool = True
    """Accepts sampling fields that are not OpenAI's; else it answers 422."""
    completes: bool = True
    """Has a completions endpoint; else it is for chat alone, and lists its model."""
    faults: deque[int | str | bytes | Script] = field(default_factory=deque)
    """What happens to the next requests instead of an answer: a status, `disconnect`, `hang` or `empty`; a
    body that is sent with status 200; what is done to the connection before it is closed."""
    refuses: Callable[[Body], bool] = lambda body: False
    """Requests that are answered with 400 whatever is tried."""
    delay: float = 0.0
    bodies: list[Body] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, body: Body) -> Body:
        prompt, tokenizer = body["prompt"], self.engine.tokenizer
        ids = tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else prompt
        stops = body.get("stop_token_ids") or self.engine._eos_ids
        written = [stop for stop in body.get("stop", []) if stop not in tokenizer.get_vocab()]
        stops = [*stops, *(tokenizer.get_vocab()[s] for s in body.get("stop", []) if s not in written)]
        ends = Stops(tuple(stops), *written)
        sampling = Sampling(body["temperature"], body["top_p"], body.get("seed") or 0)
        with self.lock:
            (generated,) = self.engine._generate([ids], [body["max_tokens"]], ends, sampling, [0], None)
        reasoning = self.engine._as_reasoning(generated, ends)
        stopped = reasoning.finished
        text = tokenizer.decode(list(reasoning.token_ids))
        choice = {
            "index": 0,
            "text": text,
            "finish_reason": "stop" if stopped else "length",
            "logprobs": None,
        }
        if body.get("return_token_ids") and self.returns_ids:
            choice["token_ids"] = generated
        return {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": self.model,
            "choices": [choice],
        }


@contextmanager
def running(engine: TransformersEngine) -> Iterator[CompletionServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if state.completes or self.path != "/v1/models":
                self.reply(404, {"detail": "Not Found"})
            else:
                self.reply(200, {"object": "list", "data": [{"id": state.model, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.bodies.append(body)
                state.keys.add(self.headers["Authorization"])
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                fault = state.faults.popleft() if state.faults else None
            try:
                self.answer(body, fault)
            finally:
                with state.lock:
                    state.at_once -= 1

        def answer(self, body: Body, fault: int | str | bytes | Script | None) -> None:
            time.sleep(state.delay)
            if fault == "hang":
                time.sleep(6)
            if fault in ("hang", "disconnect"):
                self.close_connection = True
                self.connection.close()
            elif fault == "empty":
                self.reply(200, {})
            elif callable(fault):
                self.close_connection = True
                fault(self.connection)
            elif isinstance(fault, bytes):
                self.send(200, fault)
            elif not state.completes or self.path != "/v1/completions":
                self.reply(404, {"detail": "Not Found"})
            elif isinstance(fault, int):
                self.reply(fault, {"error": {"message": f"injected {fault}"}})
            elif body["model"] != state.model:
                self.reply(404, {"error": {"message": f"no model {body['model']}"}})
            elif state.refuses(body):
                message = f"refused, said the server to {self.headers['Authorization']}"
                self.reply(400, {"error": {"message": message}})
            elif not state.takes_fields and set(body) - OPENAI_FIELDS:
                self.reply(422, {"error": {"message": f"extra fields {sorted(set(body) - OPENAI_FIELDS)}"}})
            elif not state.takes_ids and (not isinstance(body["prompt"], str) or "return_token_ids" in body):
                self.reply(400, {"error": {"message": "prompt must be text"}})
            else:
                self.reply(200, state.complete(body))

        def reply(self, status: int, content: Body) -> None:
            self.send(status, json.dumps(content).encode())

        def send(self, status: int, payload: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), OSError):  # clients that go away are what some tests are about
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    with Server(("127.0.0.1", 0), Handler) as server:
        state = CompletionServer(f"http://127.0.0.1:{server.server_port}/v1", engine)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
