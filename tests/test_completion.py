"""`--print-completion`: what a real shell offers after the commands, from the script that they print."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ps_alloc.cli import main as ps_alloc
from ps_eval.cli import main as ps_eval
from ps_train.cli import main as ps_train

Main = Callable[[list[str]], int]
MAINS: dict[str, Main] = {"ps-alloc": ps_alloc, "ps-train": ps_train, "ps-eval": ps_eval}
# As bash does when tab is pressed behind the last word.
PRESS_TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$((COMP_CWORD - 1))]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("completion"), {}

    def script(command: str) -> Path:
        if command not in made:
            done = subprocess.run(
                [str(Path(sys.executable).parent / command), "--print-completion", "bash"],
                capture_output=True,
                text=True,
                check=True,
                timeout=300,
            )
            made[command] = folder / command
            made[command].write_text(done.stdout, encoding="utf-8")
        return made[command]

    return script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ps-alloc gr", {"greedy"}),
        ("ps-alloc greedy --pr", {"--predictions"}),
        ("ps-alloc greedy --method my", {"myopic"}),
        ("ps-train li", {"light"}),
        ("ps-train fit --config curve_l", {"curve_lora"}),
        ("ps-train fit --model.hidden", {"--model.hidden_sizes"}),
        ("ps-train novelty --que", {"--questions", "--question_field"}),
        ("ps-eval an", {"answer"}),
        ("ps-eval answer --unl", {"--unlike"}),
        ("ps-eval answer --policy my", {"myopic"}),
        ("ps-eval answer --engine transf", {"transformers"}),
        ("ps-eval trace --num-tr", {"--num-traces"}),
    ],
)
def test_tab_completes_commands_flags_and_names(
    scripts: Callable[[str], Path], typed: str, offered: set[str]
) -> None:
    words = typed.split()
    done = subprocess.run(
        ["bash", "-c", PRESS_TAB, "bash", str(scripts(words[0])), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert set(done.stdout.split()) == offered


def test_tab_completes_files(scripts: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").touch()
    words = ["ps-eval", "answer", "--questions", f"{tmp_path}/n"]
    script = str(scripts("ps-eval"))
    done = subprocess.run(
        ["bash", "-c", PRESS_TAB, "bash", script, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"{tmp_path}/new.jsonl"]


@pytest.mark.parametrize("command", MAINS)
def test_an_unknown_shell_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAINS[command](["--print-completion", "csh"]) == 2
    assert "must be followed by one of bash, zsh, fish, tcsh, got csh" in capsys.readouterr().err


def test_without_shtab_it_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert ps_alloc(["--print-completion", "bash"]) == 2
    assert "needs the package shtab, which is not installed: pip install shtab" in capsys.readouterr().err
