"""What the packages export is what was released, or more: nobody's code breaks by accident."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
from public_api import PACKAGES, SNAPSHOT, breaking_changes

RENEW = "meant? say so in CHANGELOG.md, then: python tests/public_api.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_or_signature_breaks(package: str, tmp_path: Path) -> None:
    assert not breaking_changes(package, tmp_path), RENEW


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ("total_tokens,", "total,", "Parameter"),
        ("def budget_for", "def budget_once_for", "removed"),
        ("window=16", "window=8", "default"),
    ],
)
def test_a_break_is_seen(now: str, before: str, said: str, tmp_path: Path) -> None:
    """The snapshot with another past: as if the code had changed since."""
    shutil.copytree(SNAPSHOT, tmp_path / "old")
    stub = tmp_path / "old" / "ps_alloc" / "__init__.pyi"
    text = stub.read_text(encoding="utf-8")
    assert now in text
    stub.write_text(text.replace(now, before), encoding="utf-8")
    (tmp_path / "new").mkdir()
    changes = breaking_changes("ps_alloc", tmp_path / "new", tmp_path / "old")
    assert any(said in change for change in changes), changes
