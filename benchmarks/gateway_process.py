"""A real `ps-eval serve` in a process of its own, for benchmarks and tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS_TO_START, SECONDS_TO_STOP = 120, 30


@dataclass
class GatewayProcess:
    """A gateway that listens."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        """A metric's value, such as `ps_gateway_price`; 0 where it is not there yet."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            text = response.read().decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def running_gateway(log: Path, *flags: str, code: Path | None = None) -> Iterator[GatewayProcess]:
    """Run `ps-eval serve` with these flags, on a free port unless they name one, until the block ends.

    Args:
        log: Where its log goes.
        flags: Its flags.
        code: A checkout whose code runs, instead of what is imported here.

    Raises:
        RuntimeError: If it does not start; the message has its log.
    """
    command = [sys.executable, "-c", "from ps_eval.cli import main; raise SystemExit(main())", "serve"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port=0", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=code,
            env={**os.environ, **({} if code is None else {"PYTHONPATH": str(code)})},
        )
    try:
        yield GatewayProcess(_url_when_ready(process, log), process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _url_when_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on (http://\S+)", log.read_text())
        if found and "startup complete" in log.read_text():
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the gateway must start, but its log ends:\n{log.read_text()[-3000:]}")
