"""vLLM with budgets that it enforces itself: reasoning and answer in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ps_eval.engines.base import Answer, Failure, Reasoning, Request, Sampling
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.token_engine import GREEDY, Stops
from ps_eval.engines.vllm import VLLMEngine
from ps_train.common.prompts import PromptFormat

DRAWN = Sampling(temperature=1.0, top_p=0.95)
"""Some samplers of vLLM 0.32 lose the end marker that is forced where tokens are drawn so (docs/vllm.md)."""
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
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
        **llm_arguments: Any,
    ) -> None:
        """Load a model into vLLM and count whether it keeps budgets.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Most sequences decoded at once (`max_num_seqs`).
            thinking_start: What the chat template ends a prompt with: the reasoning begins after it.
            format: How the model ends its reasoning, or what differs from what it declares.
            prompt: What is put around a question.
            llm_arguments: Further arguments of `vllm.LLM`.

        Raises:
            ValueError: If budgets are not kept exactly, or as `VLLMEngine` does.
        """
        format = ReasoningFormat.of(format, model)
        markers = {"reasoning_start_str": thinking_start, "reasoning_end_str": format.think_end}
        super().__init__(model, batch_size, format, prompt, **{"reasoning_config": markers, **llm_arguments})
        if len(self._end_ids) != 1:
            raise ValueError(
                "format.think_end must be a single token for the engine vllm-native, "
                f"got {self.format.think_end!r} = {self._end_ids}"
            )
        self._end_id = self._end_ids[0]
        self._count_budgets(thinking_start)

    def respond(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> tuple[Sequence[Reasoning | Failure], Sequence[Answer | Failure]]:
        """Reason and answer in one pass; see `Engine.respond`."""
        after = self.format.max_answer_tokens
        generated = self._under_native_budgets(requests, sampling, after)
        reasonings: list[Reasoning | Failure] = []
        answers: dict[int, Answer | Failure] = {}
        for row, (request, ids) in enumerate(zip(requests, generated, strict=True)):
            if isinstance(ids, Failure):
                reasonings.append(ids)
                continue
            length = ids.index(self._end_id) if self._end_id in ids else None
            if length is None:  # the model ended the sequence inside its reasoning: no marker, no answer yet
                reasonings.append(Reasoning(tuple(i for i in ids if i not in self._eos_ids), finished=True))
                continue
            # As in `Reasoning.cut`: a reasoning of the whole budget was ended by it.
            finished = length < request.max_tokens
            reasonings.append(Reasoning(tuple(ids[:length]), finished))
            text = str(self.tokenizer.decode(ids[length:], skip_special_tokens=True))
            said = len(ids) - length - 1
            cut = ids[-1] not in self._eos_ids and len(ids) == request.max_tokens + 1 + after
            answers[row] = Answer(text, said + 1, not finished, said, cut)
        missing = [row for row in range(len(requests)) if row not in answers]
        late = self.answer([requests[row].question for row in missing], [reasonings[row] for row in missing])
        answers |= dict(zip(missing, late, strict=True))
        return reasonings, [answers[row] for row in range(len(requests))]

    def _under_native_budgets(
        self, requests: Sequence[Request], sampling: Sampling, after: int
    ) -> list[list[int] | Failure]:
        """All tokens of each request: its reasoning, the marker and at most `after` more."""
        prompts = self._encode([r.question for r in requests])
        results: list[list[int] | Failure] = [
            self._unfit(prompt, r.max_tokens, 1 + after) or []
            for prompt, r in zip(prompts, requests, strict=True)
        ]
        rows = [row for row, result in enumerate(results) if not isinstance(result, Failure)]
        parameters = [
            self._parameters(
                requests[row].max_tokens + 1 + after,
                Stops(tuple(self._eos_ids)),
                sampling,
                requests[row].stream,
                thinking_token_budget=requests[row].max_tokens,
            )
            for row in rows
        ]
        for row, ids in zip(rows, self._run([prompts[row] for row in rows], parameters), strict=True):
            results[row] = ids
        return results

    def _count_budgets(self, thinking_start: str) -> None:
        """Compare greedy reasonings under small budgets with unlimited ones; of drawn ones, the lengths."""
        requests = [Request(text, budget) for text in CHECKED_TEXTS for budget in CHECKED_BUDGETS]
        longest = max(CHECKED_BUDGETS) + 1
        whole = self.reason([Request(r.question, longest) for r in requests], GREEDY)
        greedy, drawn = (self._under_native_budgets(requests, how, after=longest) for how in (GREEDY, DRAWN))
        for request, trace, ids, others in zip(requests, whole, greedy, drawn, strict=True):
            assert isinstance(trace, Reasoning)
            assert not isinstance(ids, Failure)
            assert not isinstance(others, Failure)
            expected = [*trace.token_ids[: request.max_tokens], self._end_id]
            if ids[: len(expected)] != expected:
                raise ValueError(
                    "vLLM must keep thinking budgets to the token for the engine vllm-native, but with the "
                    f"start {thinking_start!r} a budget of {request.max_tokens} gave {self._length(ids)} "
                    "tokens or other ones: use the engine vllm"
                )
            if self._length(others) > request.max_tokens:
                raise ValueError(
                    "vLLM must keep thinking budgets to the token for the engine vllm-native, but under "
                    f"top_p {DRAWN.top_p} a budget of {request.max_tokens} gave {self._length(others)} "
                    "tokens: use the engine vllm"
                )

    def _length(self, ids: list[int]) -> int:
        """Tokens before the end marker, or all."""
        return ids.index(self._end_id) if self._end_id in ids else len(ids)
