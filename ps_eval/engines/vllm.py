"""The vLLM engine, in this process: continuous batching, and probes that ride its prefix cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ps_eval.engines.base import Failure, Progress, Sampling, request_seed
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.token_engine import Stops, TokenEngine
from ps_train.common.prompts import PromptFormat

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

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


class VLLMEngine(TokenEngine):
    """An engine on `vllm.LLM`.

    Budgets are exact in two phases, as in every engine: `max_tokens` ends the reasoning, and the answer is a
    request of its own, whose prompt is in the prefix cache already. A stream's tokens depend on its seed
    alone, so a smaller budget gives a prefix of the same reasoning, as far as the model's numbers do not
    depend on the batch: in float32 they do not, in bfloat16 they can.

    Keep one in a process: when an engine is garbage-collected, vLLM 0.32 ends the others, too.
    """

    kind = "vllm"
    repeatable = True

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
        **llm_arguments: Any,
    ) -> None:
        """Load a model into vLLM.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Most sequences decoded at once (`max_num_seqs`).
            format: How the model ends its reasoning, or what differs from what it declares.
            prompt: What is put around a question.
            llm_arguments: Further arguments of `vllm.LLM`, such as `dtype` or `max_model_len`.

        Raises:
            ValueError: If vLLM is not installed, an argument is not one of `vllm.LLM`, the model cannot be
                loaded or its end-of-thinking marker is not a single token.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        super().__init__(model, format, prompt)
        self.llm = load_llm(model, **{"max_num_seqs": batch_size, **llm_arguments})
        self.batch_size = batch_size
        self.room = int(self.llm.llm_engine.model_config.max_model_len)

    def _numerics(self) -> dict[str, Any]:
        config = self.llm.llm_engine.model_config
        return {
            "dtype": str(config.dtype).removeprefix("torch."),
            "quantization": config.quantization,
            "batch_size": self.batch_size,
        }

    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> Sequence[list[int] | Failure]:
        parameters = [
            self._parameters(limit, stops, sampling, stream)
            for limit, stream in zip(limits, streams, strict=True)
        ]
        generated = self._run(prompts, parameters)
        if progress:
            progress(len(generated))
        return generated

    def _parameters(
        self, limit: int, stops: Stops, sampling: Sampling, stream: int, **more: Any
    ) -> SamplingParams:
        """One request's `vllm.SamplingParams`."""
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=limit,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=request_seed(sampling, stream) if sampling.temperature else None,
            # These stops and no others, the tokenizer's own end of sequence included.
            stop_token_ids=list(stops.ids),
            stop=[stops.text] if stops.text else None,
            include_stop_str_in_output=True,
            ignore_eos=True,
            detokenize=stops.text is not None,
            **more,
        )

    def _run(self, prompts: Sequence[list[int]], parameters: Sequence[SamplingParams]) -> list[list[int]]:
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(requests, list(parameters), use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


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
