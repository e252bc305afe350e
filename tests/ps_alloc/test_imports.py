"""`import ps_alloc` loads a name when it is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ps_alloc

ROOT = Path(__file__).parents[2]


def fresh(script: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_every_public_name_has_a_home_for_the_interpreter_and_one_for_type_checkers():
    tree = ast.parse((ROOT / "ps_alloc" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    typed = {
        alias.name: node.module.removeprefix("ps_alloc.")
        for node in imports
        if node.module and node.module.startswith("ps_alloc.")
        for alias in node.names
    }
    assert typed == ps_alloc._HOMES
    assert sorted(typed) == sorted(ps_alloc.__all__)
    for name in ps_alloc.__all__:
        assert getattr(ps_alloc, name).__name__ == name
    assert set(ps_alloc.__all__) <= set(dir(ps_alloc))


@pytest.mark.parametrize(
    "first",
    ["pass", "import ps_alloc.allocate", "from ps_alloc.allocate import Method", "import ps_alloc.cli"],
)
def test_allocate_is_the_function_whatever_was_imported_first(first):
    script = f"{first}\nimport ps_alloc\nfrom ps_alloc import allocate\nprint(allocate is ps_alloc.allocate, "
    assert fresh(script + "type(allocate).__name__)") == "True function"


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ps_alloc' has no attribute 'alocate'"):
        _ = ps_alloc.alocate


@pytest.mark.parametrize(
    "use",
    [
        "from ps_alloc import Pacer; Pacer(64).decide([0.2, 0.5])",
        "from ps_alloc import PlattCalibrator, UseCalibrator, Guard, BudgetCalibrator",
        "from ps_alloc import BudgetCalibrator; BudgetCalibrator.fit([9, 5], [8, 4]).budgets([3.0], 0.4)",
        "import numpy as np; from ps_alloc import Guard; Guard(*np.ones((3, 1)), 2.0).allows(1)",
        "from ps_alloc import Predictions; Predictions([[0.5]], [16]).save(FILE); Predictions.load(FILE)",
        "from ps_alloc.files import write_json, read_json; write_json(FILE, 1); read_json(FILE)",
        "from ps_alloc.cli import main; main([])",
        "import ps_alloc.diffusion",
    ],
)
def test_who_only_paces_calibrates_or_reads_files_waits_for_no_compiler(use, tmp_path):
    printed = fresh(f"FILE = {str(tmp_path / 'f')!r}\n{use}\nimport sys\nprint('numba' in sys.modules)")
    assert printed.splitlines()[-1] == "False"
