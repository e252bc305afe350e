from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ps_eval.engines.transformers import TransformersEngine
from ps_train.embedded.problem_families import make_problems
from ps_train.embedded.tiny_reasoner import TinyReasoner
from ps_train.questions import Question


@pytest.fixture(scope="session")
def random_reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reasoner folder with random weights: it babbles, and ends its reasoning now and then."""
    root = tmp_path_factory.mktemp("reasoner")
    torch.manual_seed(0)
    module = TinyReasoner(num_layers=2, hidden_size=64, num_heads=2, mlp_size=64)
    with torch.no_grad():
        for parameter in module.model.model.layers.parameters():
            parameter.mul_(8)  # away from uniform: tokens then depend on what came before
    module.export(root)
    return root / "model"


@pytest.fixture(scope="session")
def engine(random_reasoner: Path) -> TransformersEngine:
    return TransformersEngine(random_reasoner, batch_size=8)


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(12, seed=5))]
