"""The files of exact versions agree: pinned, locked with hashes, and lowest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def pins(path: Path) -> dict[str, str]:
    found = PIN.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[-_.]+", "-", name).casefold(): version for name, version in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_a_lock_holds_the_pinned_versions_with_their_hashes(path: Path) -> None:
    pinned, locked = pins(ROOT / "constraints.txt"), pins(path)
    differing = {n: (v, pinned[n]) for n, v in locked.items() if n in pinned and pinned[n] != v}
    assert not differing, "make lock"
    blocks = re.split(r"^(?=[A-Za-z0-9._-]+==)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_lowest_versions_are_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(re.fullmatch(r"(\w+)>=([\d.]+)", need).groups() for need in project["dependencies"])
    lowest = pins(ROOT / "constraints-lowest.txt")
    assert {name: lowest[name] for name in bounds} == {n: f"{v}.0" for n, v in bounds.items()}
