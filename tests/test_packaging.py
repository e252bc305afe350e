"""What users install: a wheel built from this tree, in environments of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOWEST = ROOT / "constraints-lowest.txt"
MEGABYTES = 20
"""A wheel's most: embedded models are 15 of them."""
DECIDE = """
import numpy as np, sys
from ps_alloc import allocate
curves = 1 / (1 + np.exp(np.linspace(1, 12, 50)[:, None] - np.arange(1, 17)))
found = allocate(curves, total_tokens=96 * 50, window=16)
assert found.tokens.sum() <= 4800 and found.expected_accuracy > 0.5
heavy = {"torch", "transformers", "yaml", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
EXPORTED = "import ps_train.shipped as s; print(*s.embedded_names())"

pytestmark = pytest.mark.slow


def checked(*command: str | Path, cwd: Path, fails: int = 0) -> str:
    """Run without this tree in sight; returns what was printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    printed = done.stdout + done.stderr
    assert done.returncode == fails, printed[-3000:]
    return printed


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the tracked files as they are now, and the wheel made of that sdist."""
    folder = tmp_path_factory.mktemp("build")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout: what is packaged are the tracked files")
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() or source.exists():
            shutil.copy2(source, target, follow_symlinks=False)
    checked(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "tree", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_a_wheel_holds_what_is_read_at_run_time_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("ps_alloc", "ps_train", "ps_eval"):
        assert f"{package}/py.typed" in names
    shipped = [path for path in ROOT.glob("checkpoints/*/**/*") if path.is_file()]
    for path in (*shipped, *ROOT.glob("ps_train/presets/*.yaml")):
        inside = path.relative_to(ROOT).as_posix()
        assert inside.replace("checkpoints/", "ps_train/checkpoints/", 1) in names
    for path in ROOT.glob("configs/experiments/*.yaml"):
        assert f"ps_eval/experiments/configs/{path.name}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "ps_alloc",
        "ps_train",
        "ps_eval",
        "predictive_scheduling",
    }
    assert wheel.stat().st_size < MEGABYTES << 20


def test_an_sdist_holds_the_packages_and_their_data(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "ps_alloc/py.typed"} <= names
    assert "ps_train/checkpoints/tiny-reasoner/model.safetensors" in names


def interpreter(version: str) -> str:
    """A Python of that version on this machine, beside or below the one that runs this."""
    known = [*Path(sys.base_prefix).parent.glob(f"{version}*/bin/python{version}")]
    found = str(known[0]) if known else shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"needs Python {version}")
    return found


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_base_install_decides_and_says_what_more_needs(version: str, wheel: Path, tmp_path: Path) -> None:
    """numpy and numba alone, on the lowest versions that are supported and on the newest."""
    for constraints in ([], ["--constraint", LOWEST]) if version == "3.11" else ([],):
        home = tmp_path / f"env-{len(constraints)}"
        checked(interpreter(version), "-m", "venv", home, cwd=tmp_path)
        python, commands = home / "bin" / "python", home / "bin"
        checked(python, "-m", "pip", "install", "--quiet", *constraints, wheel, cwd=tmp_path)
        installed = checked(python, "-m", "pip", "list", "--format", "freeze", cwd=tmp_path)
        names = {line.partition("==")[0].casefold() for line in installed.splitlines()}
        extra = names - {"numpy", "numba", "llvmlite", "predictive-scheduling", "pip", "setuptools"}
        assert not {name for name in extra if "warning" not in name and name.isidentifier()}
        checked(python, "-W", "error", "-c", DECIDE, cwd=tmp_path)
        assert "tokens" in checked(commands / "ps-alloc", "greedy", "--help", cwd=tmp_path)
        assert "tiny-reasoner" in checked(python, "-c", EXPORTED, cwd=tmp_path)
        assert "ps-eval COMMAND" in checked(commands / "ps-eval", cwd=tmp_path)
        for command, wanted in (
            ("ps-eval demo", "eval"),
            ("ps-eval serve", "serve"),
            ("ps-train fit", "train"),
        ):
            said = checked(commands / command.split()[0], command.split()[1], cwd=tmp_path, fails=2)
            assert f"pip install 'predictive-scheduling[{wanted}]'" in said
            assert "Traceback" not in said


def test_uv_installs_it_too(wheel: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("needs uv")
    checked(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    checked(uv, "pip", "install", "--quiet", "--python", python, wheel, cwd=tmp_path)
    checked(python, "-W", "error", "-c", DECIDE, cwd=tmp_path)
