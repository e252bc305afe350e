"""A real vLLM server on this machine, started and stopped by the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS_TO_START, SECONDS_TO_STOP = 300, 30
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # vLLM would pin every process to the first core, and two of them would share it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Engine and worker in one process, as vLLM has them on one GPU (with the executor below). As two, the CPU
    # build's default, they poll for each other's messages without sleeping and leave no core to others.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
CPU_ARGUMENTS = (
    *("--dtype", "float32"),
    "--enforce-eager",
    *("--block-size", "32"),
    *("--max-num-seqs", "128"),
    # With it, vLLM 0.32 ends with "CPU Generator does not use offset" where a prompt with a seed is chunked.
    "--no-enable-chunked-prefill",
    *("--distributed-executor-backend", "uni"),
)


@dataclass(frozen=True)
class VLLMServer:
    """A server that answers on `url`."""

    url: str
    """Without `/v1`."""
    model: str
    """The name it serves the model under."""
    pid: int
    log: Path


@contextmanager
def running_server(
    model: Path, log: Path, *arguments: str, python: str = sys.executable
) -> Iterator[VLLMServer]:
    """Serve a model on a free port of 127.0.0.1 until the block ends.

    Args:
        model: The model's folder; its name is the served name.
        log: File for what the server prints.
        arguments: Further arguments of vLLM's OpenAI server; they override `CPU_ARGUMENTS`.
        python: Interpreter of an environment with vLLM.

    Raises:
        RuntimeError: If the server ends or is not healthy in time; the message has the log's end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *CPU_ARGUMENTS, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **CPU_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C in the tests must not reach it before its own SIGINT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, url, log)
        yield VLLMServer(url, model.name, process.pid, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"vLLM's server must become healthy, but its log ends:\n{log.read_text()[-3000:]}")
