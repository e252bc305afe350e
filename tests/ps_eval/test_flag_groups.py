"""Settings that commands share: a flag a field, the same of all commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ps_eval.cli import main
from ps_eval.command_line import CommandParser
from ps_eval.engines.base import Sampling
from ps_eval.flag_groups import Allowed, EngineFlags, QuestionFlags
from ps_eval.flag_values import as_flags, flat_settings


@dataclass(frozen=True)
class Oven:
    """How it is baked.

    Not in the help.
    """

    dish: str
    """What goes in."""
    degrees: int = 180
    """Celsius."""
    fan: bool = False
    """Blow."""
    options: dict[str, Any] | None = None
    """Of the oven's own."""

    def __post_init__(self) -> None:
        if self.degrees > 300:
            raise ValueError(f"degrees must be at most 300, got {self.degrees}")


def bake(guests: int, *, oven: Oven, table: str = "round") -> None:
    """Bake.

    Args:
        guests: Who comes.
        oven: Is flags.
        table: Its shape.
    """


def test_a_parameter_that_is_a_dataclass_is_a_flag_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parser = CommandParser("ps-eval bake", bake)
    given = ["4", "--dish", "cake", "--fan", "--options.steam", "3"]
    found = parser.settings(given)
    assert found == {"guests": 4, "oven": Oven("cake", fan=True, options={"steam": 3})}
    assert "usage: ps-eval bake [flags] GUESTS --dish TEXT" in parser.format_usage()
    text = parser.format_help()
    assert re.search(r"How it is baked:\n  --dish TEXT +What goes in", text)
    assert "Not in the help" not in text
    assert re.search(r"--degrees N +Celsius. \(default: 180\)", text)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fan"], "GUESTS, --dish must be given"),
        (["4", "--dish", "cake", "--degrees", "hot"], "--degrees must be a whole number, got 'hot'"),
        (["4", "--dish", "cake", "--degrees", "400"], "error: degrees must be at most 300, got 400"),
        (["4", "--dish", "cake", "--oven", "gas"], "there is no --oven"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_like_of_any_flag(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        CommandParser("ps-eval bake", bake).settings(args)
    assert message in capsys.readouterr().err


def test_a_settings_file_names_fields(tmp_path: Path) -> None:
    (tmp_path / "bake.yaml").write_text("guests: 2\ndish: bread\ndegrees: 220\n")
    found = CommandParser("ps-eval bake", bake).settings(
        ["--config", f"{tmp_path}/bake.yaml", "--degrees", "9"]
    )
    assert found == {"guests": 2, "oven": Oven("bread", 9)}


def test_records_keep_groups_taken_apart() -> None:
    assert flat_settings({"oven": Oven("cake"), "table": "round"}) == {
        **{"dish": "cake", "degrees": 180, "fan": False, "options": None},
        "table": "round",
    }


def test_commands_share_what_they_share(capsys: pytest.CaptureFixture[str]) -> None:
    shared = {
        "trace": (QuestionFlags, Sampling, EngineFlags),
        "run": (QuestionFlags, Sampling, EngineFlags, Allowed),
        "answer": (QuestionFlags, Sampling, EngineFlags, Allowed),
        "replay": (Allowed,),
    }
    for command, groups in shared.items():
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        for group in groups:
            for name in group.__dataclass_fields__:
                assert f"--{name.replace('_', '-')}" in text
    assert main(["run", "--questions", "q", "--model", "m", "--output", "o", "--top-p", "2"]) == 2
    assert "error: top_p must lie in (0, 1], got 2.0" in capsys.readouterr().err


def test_an_engines_arguments_leave_out_what_is_not_set() -> None:
    assert EngineFlags().arguments == {"batch_size": 128}
    whole = EngineFlags("vllm", {"dtype": "float32", "batch_size": 3}, {"think_end": "x"}, {"system": "y"}, 8)
    assert whole.arguments == {
        **{"batch_size": 3, "dtype": "float32"},
        **{"format": {"think_end": "x"}, "prompt": {"system": "y"}},
    }


def test_groups_are_typed_again_as_they_were_without_the_defaults() -> None:
    source = QuestionFlags("my questions.csv", question_field="what")
    runner = EngineFlags("vllm", {"dtype": "float32"}, batch_size=8)
    assert as_flags(source, Sampling(), runner, Allowed(allow_code=True)) == (
        "--questions 'my questions.csv' --question-field what --engine vllm --engine-options.dtype float32 "
        "--batch-size 8 --allow-code"
    )
