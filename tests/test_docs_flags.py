"""Every flag that README and docs name is one of the command that they name it for."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from ps_alloc.cli import _parser
from ps_eval.completion import completion_parser as ps_eval
from ps_train.completion import completion_parser as ps_train
from ps_train.embedded.diffusion_data import DiffusionDataModule

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for name in ("README.md", "CONTRIBUTING.md", "docs", "checkpoints", "configs", "examples")
    for page in ([ROOT / name] if name.endswith(".md") else (ROOT / name).rglob("*.md"))
)
FENCED = re.compile(r"^ *```(?:bash)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ANY_FENCED = re.compile(r"^ *```\w*\n.*?^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    \S.*$", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
COMMAND = re.compile(r"\b(ps-eval|ps-train|ps-alloc) ([a-z][a-z-]*)\b")
SCRIPT = re.compile(r"\b((?:benchmarks|examples|docs|tests)/[\w/]+\.py)\b")
# Of pip, docker, systemctl, kubectl, vLLM and its benchmark, SGLang and its benchmark, lm-evaluation-harness.
FOREIGN = {
    *("--require-hashes", "--no-deps", "--dry-run", "--build", "--now", "--from-file"),
    *("--reasoning-config", "--reasoning-parser", "--distributed-executor-backend"),
    *("--no-enable-chunked-prefill", "--save-detailed", "--enable-strict-thinking", "--output-details"),
    "--log_samples",
}
# Where `make` runs a script that takes flags.
MADE = {"make mutation": "tests/mutation/measure.py", "make reliability": "tests/reliability/measure.py"}
MADE["make fuzz"] = "tests/reliability/guided.py"


@cache
def flags_of_commands() -> dict[tuple[str, str], set[str]]:
    tools = {"ps-eval": ps_eval(), "ps-train": ps_train(), "ps-alloc": _parser()[0]}
    found = {}
    for tool, parser in tools.items():
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        for name, command in commands.choices.items():
            found[tool, name] = set(command._option_string_actions) | {"--help", "--config"}
    trainer = {f"--trainer.{name}" for name in [*inspect.signature(Trainer).parameters, "limit"]}
    embedded = {f"--data.{name}" for name in inspect.signature(DiffusionDataModule).parameters}
    for name in ("fit", "validate", "test", "predict"):
        found["ps-train", name] |= trainer | embedded
    return found


def spelled(flag: str) -> str:
    return flag.replace("_", "-").rstrip(".-")


def is_flag(flag: str, known: set[str]) -> bool:
    """A nested one counts where what it lies in does: `--model.optimizer.lr`, `--engine-options.dtype`."""
    parts = spelled(flag).split(".")
    names = {spelled(name) for name in known} | {"--model.help"}
    least = 2 if len(parts) > 1 and any(name.startswith(f"{parts[0]}.") for name in names) else 1
    return any(".".join(parts[:n]) in names for n in range(least, len(parts) + 1))


def segments(page: Path) -> Iterator[str]:
    """What may be one command: lines of blocks, with what a backslash adds, and code within a sentence."""
    text = page.read_text(encoding="utf-8")
    blocks = FENCED.findall(text)
    rest = ANY_FENCED.sub("", text)
    blocks += INDENTED.findall(rest.replace("\\\n", " "))
    prose = INDENTED.sub("", rest)
    for code in [*blocks, *(" ".join(inline.split()) for inline in INLINE.findall(prose))]:
        for line in code.replace("\\\n", " ").splitlines():
            yield from re.split(r" #|[;|]| && ", line)


def flags_of_scripts(page: Path) -> set[str]:
    """Of those that the page names: what stands in quotes in their source."""
    text = page.read_text(encoding="utf-8")
    names = {*SCRIPT.findall(text), *(script for target, script in MADE.items() if target in text)}
    names = {name for name in names if (ROOT / name).is_file()}
    return {f for name in names for f in re.findall(r'"(--[a-z][\w-]*)"', (ROOT / name).read_text("utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_flag_of_a_page_is_one_of_its_command(page: Path) -> None:
    commands = flags_of_commands()
    anywhere = {*set().union(*commands.values()), *flags_of_scripts(page), *FOREIGN, "--print-completion"}
    wrong = []
    for segment in segments(page):
        command = COMMAND.search(segment)
        known = commands.get((command[1], command[2]), anywhere) if command else anywhere
        flags = FLAG.findall(segment[command.end() if command else 0 :])
        wrong += [f"{flag} in: {segment.strip()}" for flag in flags if not is_flag(flag, known)]
    assert not wrong
