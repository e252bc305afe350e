import os
from pathlib import Path

import pytest

# Lightning calls deprecated names of jsonargparse. No filter of pyproject.toml: it would have to import the
# warning's class, and the allocator's tests run without jsonargparse.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

# The same tests everywhere: a GPU is seen by `make test-gpu` alone.
if "PS_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

GSM8K_TABLES = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_r1_distill_1.5b"


@pytest.fixture
def gsm8k_tables() -> Path:
    """Folder with the `train` and `test` curve tables of the paper's GSM8K measurements."""
    if not GSM8K_TABLES.is_dir():
        pytest.skip(f"needs the real GSM8K curve tables in {GSM8K_TABLES} (made by `ps-eval import-paper`)")
    return GSM8K_TABLES
