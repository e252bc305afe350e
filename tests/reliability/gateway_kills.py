"""`kill -9` of a gateway that keeps its state: it starts again, from prices that were written whole."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults import Row
from forked import start

from ps_alloc import Pacer
from ps_eval.cli import main as ps_eval
from ps_eval.serve import app
from ps_train.embedded.problem_families import make_problems

ROOT = Path(__file__).parents[2]
SAVE_SECONDS = 0.05
"""The state is written so often here, so that kills hit the writing."""
TARGET, SECONDS_TO_START = 48, 60


def _upstream(port: int) -> int:
    sys.path.append(str(ROOT / "benchmarks"))
    from gateway import serve_synthetic

    serve_synthetic(port, 20)
    return 0


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """A server that answers at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    child = start(lambda: _upstream(port), folder / "upstream.log")
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def ask(url: str, question: str) -> int:
    """The status of one completion."""
    body = json.dumps({"model": "m", "prompt": question, "max_tokens": 200}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            response.read()
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def kill_gateway(folder: Path, predictor: Path, kills: int, draw: random.Random) -> Row:
    """Requests, `kill -9`, again from the same state file, so many times.

    Wrong is: a state that cannot be read, a start that fails, a request that is refused after it, a count of
    requests that falls behind the last state seen, or decisions in the log that are no whole lines but the
    last.
    """
    row = Row("kill -9", "gateway with state")
    folder.mkdir(parents=True, exist_ok=True)
    state, log, decisions = folder / "state.json", folder / "gateway.log", folder / "decisions.jsonl"
    questions = [problem.question for problem in make_problems(50, seed=9)]
    booked = 0
    with upstream(folder) as server:
        flags = [f"--upstream={server}", f"--tokens-per-request={TARGET}", f"--predictor={predictor}"]
        flags += [f"--state={state}", "--port=0", f"--decision-log={decisions}", "--trust"]
        while row.kills < kills:
            row.trials += 1
            log.unlink(missing_ok=True)
            child = start(lambda: _serve(flags), log)
            try:
                url = _url(log, child)
                seconds = draw.uniform(0.02, 0.5)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    if (status := ask(url, draw.choice(questions))) != 200:
                        row.wrong.append(f"status {status} after restart {row.kills}")
            except RuntimeError as error:
                row.wrong.append(str(error))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            row.kills += 1
            if state.exists():
                try:
                    content = json.loads(state.read_bytes())
                    Pacer.from_state_dict({k: v for k, v in content.items() if k != "others"})
                    seen = content["n_requests"]
                    if seen < booked:
                        row.wrong.append(f"{booked} requests were booked, but {seen} are after a restart")
                    booked = seen
                except (ValueError, KeyError) as error:
                    row.wrong.append(f"the state is damaged: {error!r}")
    lines = decisions.read_bytes().splitlines(keepends=True) if decisions.exists() else []
    broken = [line for line in lines if not _is_json(line)]
    if len(broken) > row.kills:  # a line that a kill cut; each kill can cut one
        row.wrong.append(f"{len(broken)} decisions of {len(lines)} are no JSON")
    if not booked:
        row.wrong.append("no request was ever booked")
    return row


def _serve(flags: list[str]) -> int:
    app.Limits.__init__.__defaults__ = (*app.Limits.__init__.__defaults__[:-1], SAVE_SECONDS)
    return ps_eval(["serve", *flags])


def _url(log: Path, child: int) -> str:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        found = re.search(r"listening on (http://\S+)", text)
        if found and "startup complete" in text:
            return found[1]
        time.sleep(0.02)
    os.kill(child, 0)
    raise RuntimeError(f"the gateway must start, but its log ends: {text[-600:]}")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
