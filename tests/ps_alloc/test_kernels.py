"""Compiled code against its plain Python form, and the import's weight."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numba
import numpy as np
import pytest

from ps_alloc._simd import LANES, _best_of_sixteen_python, best_of_sixteen

REPOSITORY = Path(__file__).parents[2]
RNG = np.random.default_rng(0)

# Run with and without the compiler: every path of the allocator, on inputs small enough for plain Python.
SCRIPT = """
import json, sys
sys.path.insert(0, "tests/ps_alloc")
import numpy as np
from naive import KINDS, make_curves
from ps_alloc import OptionMenus, _hull, allocate, allocate_options
windows = []
for kind in KINDS:
    curves = make_curves(kind, 30, 6, np.random.default_rng(1))
    for method in ("hull", "myopic", "uniform"):
        for leftover in ("keep", "spread"):
            windows.append(allocate(curves, 30 * 60, method=method, leftover=leftover).windows.tolist())
    windows.append(allocate(curves, 30 * 60, min_windows=0, weights=np.arange(30) + 1.0,
                            window_cost=np.arange(30) % 3 + 10, base_accuracy=0.1).windows.tolist())
    menus = OptionMenus(np.arange(31) * 6, np.tile(np.arange(1, 7) ** 2, 30), curves.ravel())
    windows.append(allocate_options(menus, 400).options.tolist())
_hull.DIRECT_ROWS, _hull.SAMPLE_ROWS = 40, 30
for kind in KINDS:
    for width in (9, 16):
        curves = make_curves(kind, 200, width, np.random.default_rng(2))
        windows.append(allocate(curves, 200 * 70).windows.tolist())
print(json.dumps(windows))
"""


def run(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_without_the_compiler_the_answers_are_the_same():
    interpreted = json.loads(run(SCRIPT, NUMBA_DISABLE_JIT="1"))
    assert interpreted == json.loads(run(SCRIPT))
    assert len(interpreted) == 5 * 8 + 10


@pytest.mark.slow
def test_the_optimality_tests_pass_without_the_compiler():
    chosen = "tiny or limits_weights or envelopes or hundred"
    command = [sys.executable, "-m", "pytest", "-q", "tests/ps_alloc/test_optimality.py", "-k", chosen]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]


@numba.njit
def call(block, start, low_step, high_step, low_windows, high_windows):
    return best_of_sixteen(block, start, low_step, high_step, low_windows, high_windows)


@pytest.mark.parametrize("width", [16, 48, 128])
@pytest.mark.parametrize("values", ["continuous", "few"])
def test_the_vector_code_computes_what_its_python_form_says(width, values):
    for trial in range(50):
        block = (
            RNG.random((LANES, width)) if values == "continuous" else RNG.integers(0, 5, (LANES, width)) / 4
        )
        block = block.astype(np.float32)
        if trial % 5 == 0:
            block[trial % LANES, trial % width] = [np.nan, -0.1, 1.1, -0.0, np.inf][trial // 5 % 5]
        start = np.full(LANES, -np.inf, np.float32) if trial % 2 else RNG.random(LANES).astype(np.float32)
        low = (RNG.integers(0, 9, LANES) / 64).astype(np.float32)
        high = (low * 1.5).astype(np.float32)
        compiled, python = np.empty((2, LANES), np.int32), np.empty((2, LANES), np.int32)
        flag = call(block, start, low, high, *compiled)
        assert flag == _best_of_sixteen_python(block, start, low, high, *python) == (trial % 5 == 0)
        if not np.isnan(block).any():
            np.testing.assert_array_equal(compiled, python)


IMPORTED = """
import json, sys
{}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
HEAVY = {"torch", "transformers", "pytorch_lightning", "pandas", "pyarrow", "sklearn", "matplotlib"}


def test_all_of_ps_alloc_imports_numpy_and_numba_only():
    modules = set(json.loads(run(IMPORTED.format("from ps_alloc import *"))))
    assert not modules & HEAVY
    # numba looks at scipy's version where scipy is installed; the slow test below goes without.
    numba_alone = set(json.loads(run(IMPORTED.format("import numpy, numba, numba.extending, llvmlite.ir"))))
    standard = set(sys.stdlib_module_names)
    assert modules - numba_alone - standard == {"ps_alloc"}


@pytest.mark.slow
def test_the_base_dependencies_alone_allocate_by_call_and_by_command(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(REPOSITORY)], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    ).stdout
    loaded = subprocess.run(
        [python, "-c", IMPORTED.format("import ps_alloc")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert not set(json.loads(loaded)) & {*HEAVY, "scipy"}
    installed = {package["name"].lower().replace("_", "-") for package in json.loads(listed)}
    assert installed <= {"numpy", "numba", "llvmlite", "predictive-scheduling", "pip", "setuptools"}
    np.save(tmp_path / "p.npy", RNG.random((10, 8)))
    command = [tmp_path / "venv" / "bin" / "ps-alloc", "greedy", "--predictions", tmp_path / "p.npy"]
    subprocess.run([*command, "--budget", "64", "--output", tmp_path / "a.json"], check=True, cwd=tmp_path)
    assert len(json.loads((tmp_path / "a.json").read_text())["tokens"]) == 10


def test_a_machine_where_nothing_can_be_cached_still_allocates(tmp_path):
    # numba refuses cache=True where neither the source folder nor the user's cache can be written.
    script = """
import numba.core.caching as caching
(getattr(caching, "CacheImpl", None) or caching._CacheImpl)._locator_classes = []
import numpy as np
from ps_alloc import allocate
print(allocate(np.eye(3), 9 * 16, leftover="keep").windows.tolist())
"""
    assert run(script, HOME=str(tmp_path), NUMBA_DISABLE_JIT="0").strip() == "[1, 2, 3]"
