import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from ps_eval import cli
from ps_eval.cli import COMMANDS, main

RECEIVED: list[dict] = []


def fake_command(
    folder: str,
    *,
    budgets: tuple[int, ...] = (32, 48),
    layers: list[int] | None = None,
    policies: list[str] | None = None,
    min_windows: int = 1,
    scale: float = 1.0,
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
def test_every_flag_of_every_command_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    module, attribute = COMMANDS[command][0].split(":")
    function = getattr(importlib.import_module(module), attribute)
    documented = str(inspect.getdoc(function))
    for name in inspect.signature(function).parameters:
        assert name in printed
        assert f"    {name}: " in documented


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
        (["--policies", "hull,uniform"], "policies", ["hull", "uniform"]),
        (["--min-windows", "2"], "min_windows", 2),
        (["--min-windows=2"], "min_windows", 2),
        (["--min_windows", "2"], "min_windows", 2),
        (["--scale", "-0.5"], "scale", -0.5),
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
        ([], 'expected "command" to be one of'),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["fake"], "required: fake.folder"),
        (["fake", "good", "--budgets", "many"], "many"),
        (["fake", "good", "--depth", "3"], "--depth"),
    ],
)
def test_wrong_flags_end_2_and_are_named(
    fake: list[dict], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert message in capsys.readouterr().err
    assert fake == []


def test_the_process_arguments_are_the_default(fake: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.sys, "argv", ["ps-eval", "fake", "good"])
    assert main() == 0
    assert fake[0]["folder"] == "good"
