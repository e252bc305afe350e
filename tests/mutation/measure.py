"""`make mutation`: is a change of the allocator's core seen by its tests? A sample of changes is tried.

    python tests/mutation/measure.py --sample 120 --seed 0

cosmic-ray makes the changes, of one place each (another operator, number, condition, a missing `not`); each
runs the tests of its file, in a forked child in a copy of the tree. Changes of annotations and messages are
left out. Kernels run as Python, on the tests that are small enough for it; three times as long as unchanged
counts as seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import pytest
import scipy.optimize  # noqa: F401
from cosmic_ray.mutating import Visitor, get_ast, mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
ALLOCATION = ("test_fuzz", "test_allocate", "test_use", "test_optimality", "test_scale", "test_invalid")
TESTS = {
    "_checks": ("test_checks", "test_invalid", "test_allocate", "test_pacing", "test_options"),
    "_choices": ("test_pacing",),
    "_hull": (*ALLOCATION, "test_frontier"),
    "_invalid": ("test_invalid", "test_allocate"),
    "_leftover": ALLOCATION,
    "_menus": ("test_fuzz", "test_options_fuzz", "test_options", "test_use", "test_optimality", "test_scale"),
    "_problem": (*ALLOCATION, "test_checks"),
    "_reserve": ("test_use", "test_allocate", "test_fuzz"),
    "allocate": (*ALLOCATION, "test_checks"),
    "allocation": ("test_allocate", "test_use", "test_fuzz", "test_alloc_cli"),
    "baselines": ("test_baselines", "test_allocate"),
    "calibration": ("test_calibration",),
    "conformal": ("test_conformal",),
    "difficulty": ("test_difficulty",),
    "frontier": ("test_frontier",),
    "guard": ("test_guard",),
    "ledger": ("test_pacing",),
    "options": ("test_options", "test_options_fuzz"),
    "pacing": ("test_pacing",),
    "predictions": ("test_predictions", "test_alloc_cli"),
    "price": ("test_pacing",),
    "reallocation": ("test_reallocation",),
    "stopping": ("test_stopping",),
    "kernels/access": ALLOCATION,
    "kernels/core": ("test_fuzz", "test_options_fuzz", "test_use", "test_optimality"),
    "kernels/curves": ALLOCATION,
    "kernels/menus": ("test_fuzz", "test_options_fuzz", "test_options", "test_optimality"),
    "kernels/myopic": ("test_fuzz", "test_allocate"),
    "kernels/stream": ("test_stream", "test_fuzz", "test_scale", "test_optimality"),
}
"""File of ps_alloc to the tests that must see its changes, the quickest first."""
COPIED = ("ps_alloc/", "tests/ps_alloc/", "tests/conftest", "benchmarks/", "pyproject")
TOO_SLOW = (
    "warming_up or command or subset_sums or thousand or streaming or honest or endless or real_curves or "
    "highs or identical or beyond_every or leftover_is_spread or depend_on_the_sample or equal_numbers or "
    "bracket or great_weight or at_scale or any_size or 99_percent or threads"
)
"""Tests whose names hold one of these take long where kernels run as Python."""


@dataclass(frozen=True)
class Mutant:
    file: str
    operator: str
    occurrence: int


def plain(source: str) -> str:
    """The program without annotations, docstrings, messages of errors and the kernels' decorator."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
            node.decorator_list = [one for one in node.decorator_list if ast.unparse(one) != "kernel"]
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


class _Places(Visitor):  # type: ignore[misc]
    """Counts where each operator could change a program, in one walk."""

    def __init__(self) -> None:
        names = [name for name in operator_names() if "Variable" not in name]  # those want to be told which
        self.operators = {name: get_operator(name)() for name in names}
        self.counts = dict.fromkeys(self.operators, 0)

    def visit(self, node: Any) -> Any:
        for name, operator in self.operators.items():
            self.counts[name] += sum(1 for _ in operator.mutation_positions(node))
        return node


def all_mutants(files: list[str]) -> list[Mutant]:
    """Every change of every file, those that no program could notice among them."""
    found = []
    for file in files:
        places = _Places()
        places.walk(get_ast((ROOT / "ps_alloc" / f"{file}.py").read_text(encoding="utf-8")))
        found += [Mutant(file, name, k) for name, count in places.counts.items() for k in range(count)]
    return found


def draw(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """A sample of those that a program could notice, by file, kernels last."""
    drawn: list[Mutant] = []
    for mutant in random.Random(seed).sample(mutants, len(mutants)):
        source = (ROOT / "ps_alloc" / f"{mutant.file}.py").read_text(encoding="utf-8")
        try:
            noticed = plain(changed(mutant, source)) != plain(source)
        except SyntaxError:
            continue
        if noticed:
            drawn.append(mutant)
        if len(drawn) == number:
            break
    return sorted(drawn, key=lambda mutant: (mutant.file.startswith("kernels"), mutant.file))


def changed(mutant: Mutant, source: str) -> str:
    return str(mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence))


def survives(tests: tuple[str, ...], tree: Path, log: Path, seconds: float = 600.0) -> tuple[bool, float]:
    """Whether the tests pass on the tree as it is within so many CPU seconds, and how many they took."""
    child = os.fork()
    if not child:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds)))
            code = _tests_pass(tests, tree, log)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        _, status, used = os.wait4(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    return os.waitstatus_to_exitcode(status) == 0, used.ru_utime + used.ru_stime


def _tests_pass(tests: tuple[str, ...], tree: Path, log: Path) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    numba.config.DISABLE_JIT = True
    names = [str(tree / "tests" / "ps_alloc" / f"{name}.py") for name in tests]
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=0"]
    return int(pytest.main([*quiet, "-k", f"not ({TOO_SLOW})", "--rootdir", str(tree), *names]))


def difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "  ".join(line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def read_results(path: Path | None) -> dict[Mutant, bool]:
    """Changes that were tried to whether a test saw them; the last line on a change counts."""
    if path is None or not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {Mutant(**line["mutant"]): line["seen"] for line in map(json.loads, lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--least", type=float, default=0.85, help="share seen, below which 1 is returned")
    parser.add_argument(
        "--results", type=Path, help="JSON Lines of what was found; those in it are not tried again"
    )
    parser.add_argument("--again", action="store_true", help="try those in it again that no test saw")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the change that is tried may loop for ever
    mutants = all_mutants(given.files)
    drawn = draw(mutants, given.sample, given.seed)
    print(f"{len(drawn)} of about {len(mutants)} changes, drawn with seed {given.seed}", flush=True)
    known = read_results(given.results)
    seen = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        command = ["git", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in listed.split("\0"):
            if name.startswith(COPIED):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        undisturbed: dict[tuple[str, ...], float] = {}
        for number, mutant in enumerate(drawn, start=1):
            tests, path = TESTS[mutant.file], tree / "ps_alloc" / f"{mutant.file}.py"
            source = path.read_text(encoding="utf-8")
            change = difference(source, changed(mutant, source))
            if known.get(mutant) or (mutant in known and not given.again):
                seen += known[mutant]
                if not known[mutant]:
                    print(f"not seen: {mutant.file}: {change[:200]}", flush=True)
                continue
            if tests not in undisturbed:
                passed, undisturbed[tests] = survives(tests, tree, Path(folder) / "log")
                if not passed:
                    print((Path(folder) / "log").read_text()[-2000:])
                    raise SystemExit(f"{tests} must pass before anything is changed")
            path.write_text(changed(mutant, source), encoding="utf-8")
            alive, seconds = survives(tests, tree, Path(folder) / "log", 3 * undisturbed[tests] + 5)
            path.write_text(source, encoding="utf-8")
            seen += not alive
            if alive:
                print(f"not seen: {mutant.file}: {change[:200]}", flush=True)
            if given.results:
                record = {"mutant": asdict(mutant), "seen": not alive, "change": change}
                record["seconds"] = round(seconds, 1)
                with given.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            if number % 10 == 0:
                print(f"{seen} of {number} seen", flush=True)
    print(f"{seen} of {len(drawn)} changes were seen: {seen / len(drawn):.1%}")
    return int(seen / len(drawn) < given.least)


if __name__ == "__main__":
    sys.exit(main())
