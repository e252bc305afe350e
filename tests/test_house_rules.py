"""Rules that no linter knows: the three floors, and error messages that are really tested."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What each package may import of the others, and what it may not import of the outside.
FORBIDDEN = {
    "ps_alloc": {"ps_train", "ps_eval", "torch", "pytorch_lightning", "transformers", "scipy", "vllm"},
    "ps_train": {"ps_eval", "vllm"},
    "ps_eval": set(),
}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_only_downward(package: str) -> None:
    upward = {
        str(path.relative_to(ROOT)): found
        for path in python_files(package)
        if (found := imported_packages(path) & FORBIDDEN[package])
    }
    assert not upward


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in FORBIDDEN for path in python_files(package)}


def imported_at_loading(body: list[ast.stmt]) -> set[str]:
    """Modules of ours that must be there before a file is: not what functions or type checkers import."""
    found = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & FILES.keys()) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Try):
            found |= imported_at_loading([*node.body, *(n for h in node.handlers for n in h.body)])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            found |= imported_at_loading([*node.body, *node.orelse])
    return found & FILES.keys()


def room(module: str) -> str | None:
    """The folder within its package; a package's root is no room: front doors stand there."""
    parts = FILES[module].relative_to(ROOT).parts
    return "/".join(parts[:2]) if len(parts) > 2 else None


def test_neither_files_nor_rooms_import_in_circles() -> None:
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}
    imports = {module: imported_at_loading(tree.body) - {module} for module, tree in trees.items()}
    assert "ps_train.schema" in imports["ps_train.predictor"]
    assert "ps_eval.spending.replay" in imports["ps_eval.experiments.policy_rows"]
    rooms: dict[str, set[str]] = {}
    for module, needed in imports.items():
        if (here := room(module)) is not None:
            others = {there for other in needed if (there := room(other)) is not None}
            rooms.setdefault(here, set()).update(others - {here})
    for graph in (imports, rooms):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_only_engine_adapters_import_vllm() -> None:
    users = [path for path in python_files("ps_eval") if "vllm" in imported_packages(path)]
    assert all(path.parent.name == "engines" for path in users)


def test_every_expected_error_is_matched_by_its_message() -> None:
    unmatched = []
    for path in python_files("tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_raises = isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.raises", "raises")
            if not is_raises or ast.unparse(node.args[0]) != "ValueError":
                continue
            if not any(keyword.arg == "match" for keyword in node.keywords):
                unmatched.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not unmatched


def test_every_command_and_path_that_the_readme_names_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    missing = [name for name in linked if not (ROOT / name).exists()]
    assert linked
    assert not missing
