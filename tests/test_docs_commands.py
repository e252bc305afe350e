"""The shell blocks of README and docs: each runs, in small, or says above it why it does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "checkpoints").rglob("README.md"),
    ]
)
BLOCK = re.compile(r"^```bash\n(.*?)^```$(\n+```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: ([^>]+) -->\s*\Z")
# Why a block may not run here, and how many do not. A block more is to be counted, or better, to be run.
NOT_RUN_HERE = {
    "makes the environment that tests run in": 2,
    "needs a GPU and a model hub": 10,
    "needs a server and its traffic": 5,
    "needs data that are not in this repository": 3,
    "needs docker, systemd or a cluster": 3,
    "needs questions and a model of yours": 1,
    "needs what the block above makes": 2,
    "trains for longer than a test may": 6,
}
MOST_PROBLEMS = 12
LARGE = re.compile(r"(--(?:num-problems|limit) )(\d{3,})")


def blocks(page: Path) -> list[tuple[str, str | None, str | None]]:
    """Commands, why they are not run, and what the page says that they print."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        reason = NOT_RUN.search(text[: match.start()])
        found.append((match[1], reason and reason[1], match[3]))
    return found


def in_small(commands: str) -> str:
    return LARGE.sub(lambda m: f"{m[1]}{min(int(m[2]), MOST_PROBLEMS)}", commands)


def runs(page: Path) -> list[tuple[str, str | None]]:
    return [(commands, printed) for commands, reason, printed in blocks(page) if reason is None]


def write_log(folder: Path) -> None:
    """An evaluation log as Inspect writes it: 60 questions, twice each, cut at 900 tokens."""
    folder.mkdir()
    head = {"version": 2, "status": "success", "eval": {"task": "sums", "model": "toy", "dataset": {}}}
    with zipfile.ZipFile(folder / "sums.eval", "w") as archive:
        archive.writestr("header.json", json.dumps(head))
        for number in range(120):
            question, epoch = number // 2, 1 + number % 2
            tokens = min(900, 40 + 17 * question + 30 * epoch)
            ended = tokens < 900
            sample = {
                "id": question,
                "epoch": epoch,
                "input": "What is " + " plus ".join(str(7 * i + question) for i in range(2 + question // 4)),
                "target": "B",
                "output": {"model": "toy", "choices": [{"stop_reason": "stop" if ended else "max_tokens"}]},
                "model_usage": {"toy": {"input_tokens": 9, "output_tokens": tokens}},
                "scores": {"match": {"value": "C" if ended and question % 5 else "I", "answer": "B"}},
            }
            archive.writestr(f"samples/{question}_epoch_{epoch}.json", json.dumps(sample))


def checkout(folder: Path) -> Path:
    """What a clone holds, as links, and logs as an evaluation leaves them."""
    for name in ("benchmarks", "checkpoints", "configs", "docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    write_log(folder / "logs")
    return folder


def test_every_shell_block_runs_or_says_why_not() -> None:
    reasons = Counter(reason for page in PAGES for _, reason, _ in blocks(page) if reason)
    assert dict(reasons) == NOT_RUN_HERE


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if runs(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_shell_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    folder = checkout(tmp_path)
    for commands, printed in runs(page):
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", in_small(commands)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        if printed is not None:
            assert done.stdout.split() == printed.split(), commands
