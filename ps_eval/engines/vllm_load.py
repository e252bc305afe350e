"""`vllm.LLM` with what this project and vLLM's CPU build need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM

CPU_ARGUMENTS: dict[str, Any] = {
    "enforce_eager": True,  # seconds to load instead of minutes
    "block_size": 32,  # the smallest that the CPU build takes: the cache finds whole blocks only
    # vLLM 0.32 cannot rewind a CPU's random generator, as it must where it splits a prompt that has a seed.
    "enable_chunked_prefill": False,
}
"""Arguments of `vllm.LLM` where there is no GPU; engine options override them."""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: the same batch is scheduled in the same way
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; without a GPU only
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""What the process' environment gets where it says nothing else."""


def load_llm(model: str | Path, **llm_arguments: Any) -> LLM:
    """`vllm.LLM` with prefix caching and, where there is no GPU, what its CPU build needs.

    Args:
        model: A folder or a Hugging Face model name.
        llm_arguments: Further arguments of `vllm.LLM`; they win.

    Raises:
        ValueError: If vLLM is not installed, or as `VLLMEngine` does.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ValueError("engine vllm needs vLLM: pip install 'predictive-scheduling[vllm]'") from error
    defaults: dict[str, Any] = {"enable_prefix_caching": True}
    defaults |= CPU_ARGUMENTS if current_platform.is_cpu() else {}
    try:
        with _hidden_module("llvmlite.binding.ffi"):
            return vllm.LLM(model=str(model), **(defaults | llm_arguments))
    except TypeError as error:
        raise ValueError(
            f"engine_options must be arguments of vllm.LLM, got {llm_arguments}: {error}"
        ) from error


@contextmanager
def _hidden_module(name: str) -> Iterator[None]:
    """Take a loaded module out of `sys.modules` for a while.

    On a CPU, vLLM 0.32 looks for kernels in every object of every loaded module and ends with an error at
    llvmlite's handle of its library, which answers to any attribute; numba has loaded it long before.
    """
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module
