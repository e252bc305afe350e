"""Compiled code against its plain Python form, and the import's weight."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numba
import numpy as np
import pytest

from ps_alloc.kernels.simd import LANES, _best_of_sixteen_python, best_by_grid, best_by_use

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
def call_by_grid(*arguments):
    return best_by_grid(*arguments)


@numba.njit
def call_by_use(*arguments):
    return best_by_use(*arguments)


BAD_VALUES = [np.nan, -0.1, 1.1, -0.0, np.inf]


@pytest.mark.parametrize("width", [1, 7, 16, 33, 128])
@pytest.mark.parametrize("values", ["continuous", "few"])
@pytest.mark.parametrize("used", [False, True])
def test_the_vector_code_computes_what_its_python_form_says(width, values, used):
    for trial in range(50):
        rows = np.zeros((LANES + 16, width), np.float32)  # vectors are read past the end of a narrow row
        block = rows[:LANES]
        block[:] = RNG.random(block.shape) if values == "continuous" else RNG.integers(0, 5, block.shape) / 4
        uses = np.zeros_like(rows)
        uses[:LANES] = np.cumsum(RNG.random(block.shape), axis=1)
        grid = np.zeros((width + 15) // 16 * 16, np.float32)
        grid[:width] = np.arange(1, width + 1)
        bad = trial % 5 == 0
        if bad and used and trial % 2:
            uses[trial % LANES, trial % width] = [np.nan, -0.1, 1e9][trial // 5 % 3]
        elif bad:
            block[trial % LANES, trial % width] = BAD_VALUES[trial // 5 % 5]
        start = np.full(LANES, -np.inf, np.float32) if trial % 2 else RNG.random(LANES).astype(np.float32)
        low = (RNG.integers(0, 9, LANES) / 64).astype(np.float32)
        high = (low * 1.5).astype(np.float32)
        tolerance = (RNG.choice([0.0, 1e-6, 0.25], LANES)).astype(np.float32)
        compiled, python = np.empty((2, LANES), np.int32), np.empty((2, LANES), np.int32)
        lanes = np.stack((start, low, high, tolerance))
        call = call_by_use if used else call_by_grid
        flag = call(block, uses[: LANES if used else 0], grid, lanes, compiled)
        assert (
            flag == _best_of_sixteen_python(block, uses[: LANES if used else 0], grid, lanes, python) == bad
        )
        if not bad:
            np.testing.assert_array_equal(compiled, python)
            if not tolerance.any():
                cost = uses[:LANES] if used else grid[None, :width]
                reduced = np.concatenate((start[:, None], block - high[:, None] * cost), axis=1)
                np.testing.assert_array_equal(compiled[1], np.argmax(reduced, axis=1))


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


def test_a_change_of_one_compiled_file_is_noticed_by_the_machine_code_of_all(tmp_path):
    shutil.copytree(
        REPOSITORY / "ps_alloc", tmp_path / "ps_alloc", ignore=shutil.ignore_patterns("__pycache__")
    )
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from ps_alloc.kernels.curves import mean_accuracy
print(mean_accuracy(np.full((1, 1), 0.5), np.ones(1, np.int64), np.ones(1), np.zeros(1)))
"""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DISABLE_JIT": "0", "PYTHONPATH": ""}
    assert float(run(script, **environment)) == 0.5
    access = tmp_path / "ps_alloc" / "kernels" / "access.py"
    text = access.read_text()
    assert "return np.float64(curves[r, k - 1])" in text
    access.write_text(
        text.replace("return np.float64(curves[r, k - 1])", "return 2 * np.float64(curves[r, k - 1])")
    )
    assert float(run(script, **environment)) == 1.0
