import importlib
import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from ps_eval import cli
from ps_eval.cli import COMMANDS, GROUPS, main, settings_of
from ps_eval.command_examples import EXAMPLES
from ps_eval.command_line import CommandParser
from ps_eval.docstrings import field_docstrings, read_docstring

RECEIVED: list[dict] = []


def fake_command(
    folder: str,
    *,
    budgets: tuple[int, ...] = (32, 48),
    layers: list[int] | None = None,
    policies: list[str] | None = None,
    min_windows: int = 1,
    scale: float = 1.0,
    quick: bool = False,
    mode: Literal["a", "b"] = "a",
    options: dict[str, Any] | None = None,
) -> None:
    """Record what it was given."""
    if folder == "bad":
        raise ValueError("folder must be good, got bad")
    RECEIVED.append(dict(locals()))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setitem(COMMANDS, "fake", (f"{__name__}:fake_command", "Record what it was given."))
    RECEIVED.clear()
    return RECEIVED


def test_a_commands_line_in_the_help_is_the_first_line_of_its_docstring() -> None:
    for target, summary in COMMANDS.values():
        module, attribute = target.split(":")
        function = getattr(importlib.import_module(module), attribute)
        assert inspect.getdoc(function) is not None
        assert str(inspect.getdoc(function)).splitlines()[0] == summary


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_flag_of_every_command_is_explained(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "Raises:" not in printed
    module, attribute = COMMANDS[command][0].split(":")
    imported = importlib.import_module(module)
    function, fields_of = getattr(imported, attribute), getattr(imported, "SETTINGS", None)
    explained = field_docstrings(fields_of) if fields_of else read_docstring(function)[1]
    flags = dict(inspect.signature(fields_of or function).parameters)
    for name, group in get_type_hints(function).items():
        if is_dataclass(group):  # a flag a field
            del flags[name]
            flags |= inspect.signature(group).parameters  # type: ignore[arg-type]
            explained |= field_docstrings(group)  # type: ignore[arg-type]
    for name in flags:
        assert name.replace("_", "-") in printed.casefold()
        assert explained[name]


def test_every_command_stands_in_one_group_of_the_overview_and_has_an_example() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("command", list(EXAMPLES))
def test_the_examples_of_a_command_are_what_it_takes(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text("upstream: http://127.0.0.1:8000\ntokens_per_request: 512\n")
    main([command, "--help"])
    printed = capsys.readouterr().out.replace(" \\\n      ", " ")
    for example in EXAMPLES[command]:
        assert f"  ps-eval {command} {example}".rstrip() in printed.splitlines()
        settings_of([command, *shlex.split(example, comments=True)])


def test_the_overview_imports_no_heavy_library() -> None:
    code = (
        "import sys; from ps_eval.cli import main; assert main(['--help']) == 0; "
        "heavy = {'torch', 'numba', 'matplotlib', 'pyarrow', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


def test_a_replay_of_ready_predictions_imports_no_torch() -> None:
    code = "import sys, ps_eval.spending.replay; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--budgets", "32,48,64"], "budgets", (32, 48, 64)),
        (["--budgets=32,48,64"], "budgets", (32, 48, 64)),
        (["--budgets", "[32, 48]"], "budgets", (32, 48)),
        (["--budgets", "32"], "budgets", (32,)),
        (["--layers", "8,16"], "layers", [8, 16]),
        (["--layers", "8,16", "--layers=24"], "layers", [8, 16, 24]),
        (["--policies", "hull,uniform"], "policies", ["hull", "uniform"]),
        (["--min-windows", "2"], "min_windows", 2),
        (["--min-windows=2"], "min_windows", 2),
        (["--min_windows", "2"], "min_windows", 2),
        (["--scale", "-0.5"], "scale", -0.5),
        (["--scale", "2"], "scale", 2.0),
        (["--quick"], "quick", True),
        (["--quick", "true"], "quick", True),
        (["--no-quick"], "quick", False),
        (["--quick", "false"], "quick", False),
        (["--mode", "b"], "mode", "b"),
        (["--layers", "null"], "layers", None),
        (["--options.dtype", "bfloat16"], "options", {"dtype": "bfloat16"}),
        (["--options.max_len=3", "--options.deep", "[1, 2]"], "options", {"max_len": 3, "deep": [1, 2]}),
        (
            ["--options", "{dtype: half}", "--options.max_len", "3"],
            "options",
            {"dtype": "half", "max_len": 3},
        ),
        ([], "budgets", (32, 48)),
    ],
)
def test_lists_take_commas_and_flags_take_dashes_or_underscores(
    fake: list[dict], flags: list[str], name: str, value: object
) -> None:
    assert main(["fake", "good,one", *flags]) == 0
    assert fake[0][name] == value
    assert fake[0]["folder"] == "good,one"


def test_settings_can_come_from_a_file_and_flags_after_it_win(fake: list[dict], tmp_path: Path) -> None:
    (tmp_path / "fake.yaml").write_text("folder: good\nbudgets: [16]\nmin_windows: 3\n")
    assert main(["fake", "--config", f"{tmp_path}/fake.yaml", "--min-windows=4"]) == 0
    assert (fake[0]["folder"], fake[0]["budgets"], fake[0]["min_windows"]) == ("good", (16,), 4)


def test_bad_input_ends_2_with_one_sentence(fake: list[dict], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "bad"]) == 2
    assert capsys.readouterr().err == "error: folder must be good, got bad\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rnu"], "error: there is no command 'rnu'; did you mean 'run'?"),
        (["fake"], "error: FOLDER must be given"),
        (["fake", "good", "--budgets", "many"], "error: --budgets must be a whole number, got 'many'"),
        (["fake", "good", "--min-windows", "1.5"], "error: --min-windows must be a whole number, got '1.5'"),
        (["fake", "good", "--scale", "much"], "error: --scale must be a number, got 'much'"),
        (["fake", "good", "--min-window", "3"], "there is no --min-window; did you mean '--min-windows'?"),
        (["fake", "good", "--mode", "c"], "error: --mode must be one of a, b, got 'c'"),
        (["fake", "good", "--min-windows", "null"], "error: --min-windows must be given a value, got none"),
        (["fake", "good", "--options", "3"], "error: --options must be names with values, such as"),
        (["fake", "good", "bad"], "unrecognized arguments: bad"),
        (["fake", "good", "--config", "nowhere.yaml"], "error: --config must be a readable YAML file, got"),
    ],
)
def test_wrong_flags_end_2_and_are_named_with_the_commands_own_usage(
    fake: list[dict], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert ("usage: ps-eval fake [flags] FOLDER" in printed) == (args[0] == "fake")
    assert fake == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("folder: good\nmin_window: 3\n", "there is no setting 'min_window'; did you mean 'min_windows'?"),
        ("- good\n", "--config must hold settings by name"),
        ("folder: good\nquick: 3\n", "--quick must be true or false, got 3"),
        ("folder: caf\u00e9\n".encode("cp1252"), "--config must be a readable YAML file, got"),
    ],
)
def test_a_settings_file_is_checked_like_flags(
    fake: list[dict],
    tmp_path: Path,
    content: str | bytes,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "fake.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["fake", "--config", f"{tmp_path}/fake.yaml"]) == 2
    assert message in capsys.readouterr().err


@dataclass(frozen=True)
class Rule:
    """A setting with settings of its own."""

    name: str
    limit: int = 3


@dataclass(frozen=True, kw_only=True)
class FakeSettings:
    """Flags."""

    upstream: str
    """Where the server
    is."""
    rules: list[Rule] | None = None
    """In a YAML file."""
    efforts: dict[str, int] | None = None
    """Tokens by name."""
    trust: bool = False
    """Ask nothing."""


def test_a_dataclass_may_hold_a_commands_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(**settings: Any) -> None:
        """Do it."""

    parser = CommandParser("ps-eval it", command, FakeSettings, "PS_TEST__")
    (tmp_path / "it.yaml").write_text("rules: [{name: a}, {name: b, limit: 4}]\nupstream: here\n")
    assert parser.settings(["--config", f"{tmp_path}/it.yaml", "--efforts.low", "5"]) == {
        "upstream": "here",
        "rules": [Rule("a"), Rule("b", 4)],
        "efforts": {"low": 5},
    }
    monkeypatch.setenv("PS_TEST__UPSTREAM", "there")
    monkeypatch.setenv("PS_TEST__TRUST", "true")
    assert parser.settings([]) == {"upstream": "there", "trust": True}
    assert parser.settings(["--upstream", "here", "--no-trust"]) == {"upstream": "here", "trust": False}
    assert "Where the server is." in parser.format_help()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("[{nam: a}]", "--rules must be settings of Rule, got 'nam'; did you mean 'name'"),
        ("[{limit: 3}]", "--rules must be settings of Rule with a name, got limit"),
        (
            "[{name: a, limit: x}]",
            "--rules must be settings of Rule, whose limit must be a whole number, got 'x'",
        ),
        ("3", "--rules must be a list, got 3"),
        ("[3]", "--rules must be settings by name, got 3"),
    ],
)
def test_settings_within_settings_are_checked(
    rules: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = CommandParser("ps-eval it", fake_command, FakeSettings)
    with pytest.raises(SystemExit):
        parser.settings(["--upstream", "here", "--rules", rules])
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_alone_it_says_what_it_is_for_and_what_to_type_first(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "ps-eval demo" in printed
    assert "ps-eval answer --questions" in printed
    for command in COMMANDS:
        assert f"\n  {command} " in printed


def test_versions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert "predictive-scheduling" in printed
    assert "torch" in printed


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "lost", ("a_package_nobody_has.cli:command", "Lost."))
    assert main(["lost"]) == 2
    assert (
        "error: ps-eval lost needs the package a_package_nobody_has, which is not installed: "
        "pip install 'predictive-scheduling[eval]'"
    ) in capsys.readouterr().err


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ps_eval", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "predictive-scheduling" in done.stdout


def test_the_process_arguments_are_the_default(fake: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.sys, "argv", ["ps-eval", "fake", "good"])
    assert main() == 0
    assert fake[0]["folder"] == "good"
