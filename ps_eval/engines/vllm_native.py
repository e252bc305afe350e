"""vLLM with budgets that it enforces itself: reasoning and answer in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ps_eval.engines.base import Answer, Failure, Reasoning, ReasoningFormat, Request, Sampling
from ps_eval.engines.token_engine import GREEDY
from ps_eval.engines.vllm import VLLMEngine
from ps_train.common.prompts import encode_prompts

CHECKED_BUDGETS = (0, 1, 2, 7)
CHECKED_TEXTS = ("How many ?", "What is 2 + 3 ?", "Why ?", "How many are left ?")


class NativeVLLMEngine(VLLMEngine):
    """`VLLMEngine` whose `respond` is one request a question, by vLLM's `thinking_token_budget`.

    vLLM puts the end marker where the budget ends, and the model goes on to its answer in its own words, at
    the reasoning's temperature: the forced prefix of the format is not used. Whether vLLM keeps a budget to
    the token depends on its version, its runner and the markers (docs/vllm.md has a table), so it is counted
    at loading. Tracing and probing are those of `VLLMEngine`.
    """

    kind = "vllm-native"
    one_pass = True

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        thinking_start: str = "<think>",
        format: ReasoningFormat | None = None,
        **llm_arguments: Any,
    ) -> None:
        """Load a model into vLLM and count whether it keeps budgets.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Most sequences decoded at once (`max_num_seqs`).
            thinking_start: What the chat template ends a prompt with: the reasoning begins after it.
            format: How the model ends its reasoning; default: what its folder declares.
            llm_arguments: Further arguments of `vllm.LLM`.

        Raises:
            ValueError: If budgets are not kept exactly, or as `VLLMEngine` does.
        """
        marker = (format or ReasoningFormat.of_model(model)).think_end
        markers = {"reasoning_start_str": thinking_start, "reasoning_end_str": marker}
        super().__init__(model, batch_size, format, **{"reasoning_config": markers, **llm_arguments})
        self._count_budgets(thinking_start)

    def respond(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> tuple[Sequence[Reasoning | Failure], Sequence[Answer | Failure]]:
        """Reason and answer in one pass; see `Engine.respond`."""
        generated = self._under_native_budgets(requests, sampling, self.format.max_answer_tokens)
        reasonings: list[Reasoning] = []
        answers: dict[int, Answer | Failure] = {}
        for row, (request, ids) in enumerate(zip(requests, generated, strict=True)):
            length = ids.index(self._end_id) if self._end_id in ids else None
            if length is None:  # the model ended the sequence inside its reasoning: no marker, no answer yet
                reasonings.append(Reasoning(tuple(i for i in ids if i not in self._eos_ids), finished=True))
                continue
            # As in `Reasoning.cut`: a reasoning of the whole budget was ended by it.
            reasonings.append(Reasoning(tuple(ids[:length]), finished=length < request.max_tokens))
            answers[row] = self._as_answer([self._end_id], ids[length + 1 :], not reasonings[-1].finished)
        missing = [row for row in range(len(requests)) if row not in answers]
        late = self.answer([requests[row].question for row in missing], [reasonings[row] for row in missing])
        answers |= dict(zip(missing, late, strict=True))
        return reasonings, [answers[row] for row in range(len(requests))]

    def _under_native_budgets(
        self, requests: Sequence[Request], sampling: Sampling, after: int
    ) -> list[list[int]]:
        """All tokens of each request: its reasoning, the marker and at most `after` more."""
        return self._run(
            encode_prompts(self.tokenizer, [r.question for r in requests]),
            [
                self._parameters(
                    r.max_tokens + 1 + after,
                    self._eos_ids,
                    sampling,
                    r.stream,
                    thinking_token_budget=r.max_tokens,
                )
                for r in requests
            ],
        )

    def _count_budgets(self, thinking_start: str) -> None:
        """Compare greedy reasonings under small budgets with the first tokens of unlimited ones."""
        requests = [Request(text, budget) for text in CHECKED_TEXTS for budget in CHECKED_BUDGETS]
        longest = max(CHECKED_BUDGETS) + 1
        whole = self.reason([Request(r.question, longest) for r in requests], GREEDY)
        for request, trace, ids in zip(
            requests, whole, self._under_native_budgets(requests, GREEDY, after=longest), strict=True
        ):
            assert isinstance(trace, Reasoning)
            expected = [*trace.token_ids[: request.max_tokens], self._end_id]
            if ids[: len(expected)] != expected:
                length = ids.index(self._end_id) if self._end_id in ids else len(ids)
                raise ValueError(
                    "vLLM must keep thinking budgets to the token for the engine vllm-native, but with the "
                    f"start {thinking_start!r} a budget of {request.max_tokens} gave {length} tokens or "
                    "other ones: use the engine vllm"
                )
