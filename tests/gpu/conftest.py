"""Tests that need an NVIDIA GPU: `make test-gpu` on a machine that has one; elsewhere they are skipped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "ps_train"))  # small_runs, tiny_curves

from small_runs import write_tables
from tiny_curves import save_backbone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: make test-gpu"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 4-block Qwen2."""
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small tables for every module."""
    folder = tmp_path_factory.mktemp("small")
    write_tables(folder)
    return folder
