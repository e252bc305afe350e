"""The vLLM engine, in this process: continuous batching, and probes that ride its prefix cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ps_eval.engines.base import (
    Answer,
    Failure,
    Progress,
    Reasoning,
    Request,
    Sampling,
    request_seed,
    stream_of,
)
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.token_engine import GREEDY, Decoded, Stops, TokenEngine, check_batch_size
from ps_eval.engines.vllm_load import load_llm
from ps_eval.engines.vllm_states import can_hook, request_states
from ps_train.common.features import layer_name
from ps_train.common.prompts import PromptFormat

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput, SamplingParams

    from ps_eval.engines.prefill import Prefill
    from ps_eval.engines.watch import Sight, Watch


SEEN = 20
"""Most probable tokens of which vLLM is asked the probabilities where a reasoning is watched: its default
limit. The others count as one token in an entropy."""


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
        batch_size = check_batch_size(batch_size)
        super().__init__(model, format, prompt)
        self.llm = load_llm(model, **{"max_num_seqs": batch_size, **llm_arguments})
        self.batch_size = batch_size
        self.room = int(self.llm.llm_engine.model_config.max_model_len)
        self.prefill_dtype = self.llm.llm_engine.model_config.dtype if can_hook(self.llm) else None

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

    def _decode(
        self, prompts: Sequence[list[int]], limits: Sequence[int], progress: Progress | None, sure: bool
    ) -> Sequence[Decoded | Failure]:
        """See `TokenEngine._decode`."""
        if not sure:
            return super()._decode(prompts, limits, progress, sure)
        stops = Stops(tuple(self._eos_ids))
        # No alternatives: the decoded token's own probability alone.
        parameters = [self._parameters(limit, stops, GREEDY, 0, logprobs=0) for limit in limits]
        found = [output.outputs[0] for output in self._outputs(prompts, parameters)]
        if progress:
            progress(len(found))
        return [Decoded(list(one.token_ids), _sureness(one)) for one in found]

    def prefill(self, questions: Sequence[str], layers: Sequence[int] = ()) -> Prefill:
        """Read N prompts once, for a predictor and for the reasoning that follows from the prefix cache.

        Args:
            questions: N question texts.
            layers: Blocks whose states at each prompt's last token are wanted, from 1.

        Raises:
            ValueError: If a layer is out of range, a prompt cannot be read whose states are wanted, or vLLM
                was not loaded so that states can be had.
        """
        from ps_eval.engines.prefill import Prefill

        if not layers:
            return Prefill(tuple(questions), {}, [])
        if self.prefill_dtype is None:
            raise ValueError(
                "engine vllm must be loaded with enforce_eager, in one process, to give hidden states"
            )
        prompts = self._checked(self._encode(questions), [0] * len(questions))
        readable = [prompt for prompt in prompts if not isinstance(prompt, Failure)]
        if unread := [prompt for prompt in prompts if isinstance(prompt, Failure)]:
            raise ValueError(f"a prompt must be readable to have states, but: {unread[0].reason}")
        parameters = [self._parameters(1, Stops(()), GREEDY, 0)] * len(readable)
        with request_states(self.llm, layers) as states:
            outputs = self._outputs(readable, parameters)
        features = {layer_name(n): np.stack(_by_output(mine, outputs)) for n, mine in states.items()}
        return Prefill(tuple(questions), features, [])

    def reason(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Progress | None = None,
        prefilled: Prefill | None = None,
        watch: Watch | None = None,
    ) -> Sequence[Reasoning | Failure]:
        """Reason about each question within its own budget; see `Engine.reason`.

        What `prefilled` has read is in the prefix cache. Where reasonings are watched, they stop together at
        each checkpoint and continue from the prefix cache; every piece has a random stream of its own, so
        that a watched reasoning is that of other checkpoints only where it is greedy.
        """
        if watch is None:
            return super().reason(requests, sampling, progress)
        limits, stops = [r.max_tokens for r in requests], self._reasoning_stops
        prompts = self._checked(self._encode([r.question for r in requests]), limits)
        found: list[list[int]] = [[] for _ in requests]
        watch.begin(requests, self._text)
        watch.places = list(range(len(requests)))
        going = [n for n, prompt in enumerate(prompts) if limits[n] and not isinstance(prompt, Failure)]
        longest = max(limits, default=0)
        pieces = [c for c in watch.checkpoints if c < longest]
        for number, until in enumerate([*pieces, longest]):
            states: Mapping[int, Mapping[int, Any]] = {}
            if going:
                states = self._reason_on(prompts, requests, found, going, until, number, sampling, watch)
            # Whoever has more than `until` tokens has not ended before them: the state after them is known.
            going = [n for n in going if len(found[n]) > until]
            halted = watch.halt(
                np.array(going, int), until, self._sight(prompts, found, states, going, until)
            )
            for n, ends in zip(going, halted, strict=True):
                found[n] = found[n][:until] if ends else found[n]
            going = [
                n
                for n, ends in zip(going, halted, strict=True)
                if not ends and not self._ended(found[n]) and len(found[n]) < limits[n]
            ]
        if progress:
            progress(len(requests))
        reasonings = [
            prompt if isinstance(prompt, Failure) else self._as_reasoning(ids, stops)
            for prompt, ids in zip(prompts, found, strict=True)
        ]
        watch.end([0 if isinstance(r, Failure) else len(r.token_ids) for r in reasonings])
        return reasonings

    def _reason_on(
        self,
        prompts: Sequence[Any],
        requests: Sequence[Request],
        found: list[list[int]],
        going: Sequence[int],
        until: int,
        number: int,
        sampling: Sampling,
        watch: Watch,
    ) -> dict[int, dict[int, Any]]:
        """Piece `number` of the reasonings that go on, each up to one token more than `until` or its limit.

        Returns:
            Watched layer to reasoning to the state from which its last token was drawn.
        """
        parameters = [
            self._parameters(
                min(until + 1, requests[n].max_tokens) - len(found[n]),
                self._reasoning_stops,
                sampling,
                requests[n].stream if number == 0 else stream_of(str(requests[n].stream), number),
                logprobs=SEEN,
            )
            for n in going
        ]
        whole = [[*prompts[n], *found[n]] for n in going]
        with ExitStack() as stack:
            states = stack.enter_context(request_states(self.llm, watch.layers)) if watch.layers else {}
            outputs = self._outputs(whole, parameters)
        for n, output in zip(going, outputs, strict=True):
            (piece,) = output.outputs
            assert piece.logprobs is not None
            scores = [_score(t, known) for t, known in zip(piece.token_ids, piece.logprobs, strict=True)]
            watch.saw(n, piece.token_ids, scores)
            found[n] = self._to_marker([*found[n], *piece.token_ids], len(found[n]))
        return {
            layer: dict(zip(going, _by_output(mine, outputs), strict=True)) for layer, mine in states.items()
        }

    def _sight(
        self,
        prompts: Sequence[Any],
        found: Sequence[list[int]],
        states: Mapping[int, Mapping[int, Any]],
        going: Sequence[int],
        until: int,
    ) -> Sight:
        """What can be seen of the reasonings that go on after `until` tokens."""
        from ps_eval.engines.watch import Sight

        def ask(some: Sequence[int]) -> Sequence[Answer | Failure]:
            rows = [going[number] for number in some]
            cut = [Reasoning(tuple(found[row][:until]), finished=False) for row in rows]
            return self._answers([prompts[row] for row in rows], cut, None, True)

        return Sight(
            states=lambda layer: np.stack([states[layer][row] for row in going]),
            ask=ask,
            lengths=lambda: {row: len(ids) for row, ids in enumerate(found) if ids},
        )

    def _to_marker(self, ids: list[int], seen: int) -> list[int]:
        """The tokens up to an end marker of several: vLLM does not see one that began in an earlier piece."""
        marker = self._reasoning_stops.text
        if marker is None or marker not in self._text(ids):
            return ids
        return next(ids[:n] for n in range(seen + 1, len(ids) + 1) if marker in self._text(ids[:n]))

    def _ended(self, ids: list[int]) -> bool:
        """Whether a reasoning has ended by itself."""
        return self._as_reasoning(ids, self._reasoning_stops).finished

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
        return [list(output.outputs[0].token_ids) for output in self._outputs(prompts, parameters)]

    def _outputs(
        self, prompts: Sequence[list[int]], parameters: Sequence[SamplingParams]
    ) -> list[RequestOutput]:
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        return self.llm.generate(requests, list(parameters), use_tqdm=False)


def _by_output(states: Mapping[str, Any], outputs: Sequence[RequestOutput]) -> list[Any]:
    """Each output's state; vLLM adds a suffix to a request's id while it runs."""
    known = {name.partition("-")[0]: state.numpy() for name, state in states.items()}
    return [known[output.request_id] for output in outputs]


def _sureness(found: CompletionOutput) -> float:
    """Geometric mean of the probabilities of a completion's tokens."""
    assert found.logprobs is not None
    own = [known[token].logprob for token, known in zip(found.token_ids, found.logprobs, strict=True)]
    return float(np.exp(np.mean(own)))


def _score(token: int, known: Mapping[int, Any]) -> tuple[float, float]:
    """A drawn token's log-probability, and the entropy of its distribution as far as it is known."""
    log_p = np.array([entry.logprob for entry in known.values() if entry.logprob > -np.inf])
    p = np.exp(log_p)
    rest = max(0.0, 1.0 - float(p.sum()))
    entropy = -float(p @ log_p) - (rest * float(np.log(rest)) if rest > 0 else 0.0)
    return float(known[token].logprob), entropy
