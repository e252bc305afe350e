"""A tiny random backbone on disk, shared by the tests of features and predictors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_curves import WORDS, save_backbone


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-block Qwen2 whose template ends prompts with `<think>`."""
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """40 different questions of 4 to 23 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[3:], size=4 + i // 2)) + f" {i}" for i in range(40)]
