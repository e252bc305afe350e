"""The transformers engine: batched generation with a budget, a random stream and a stop for every row.

`model.generate` gives every row of a batch one length limit and one random state and keeps computing rows
that are done; this loop does none of the three. Its forward passes are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from ps_eval.engines.base import Answer, Failure, Progress, Reasoning, Request, Sampling, uniforms
from ps_eval.engines.causal_model import load_causal_model
from ps_eval.engines.decoding import Halt, Until, decode
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.prefill import Prefill, PrefilledBatch, last_states
from ps_eval.engines.reading import Rows
from ps_eval.engines.sampling import Choose, chooser, greedy, scored
from ps_eval.engines.self_check import check_reading
from ps_eval.engines.token_engine import Decoded, Stops, TokenEngine, check_batch_size
from ps_eval.engines.watch import Sight, Watch
from ps_train.common.blocks import hidden_size, text_decoder
from ps_train.common.features import check_layers, layer_name, max_positions
from ps_train.common.prompts import PromptFormat


class TransformersEngine(TokenEngine):
    """An engine on any causal language model that transformers loads and reads alike in every way.

    At loading, a random prompt is read whole, in parts from a cache, and beside a padded row; a model that
    gives other logits then is refused (`ps_eval.engines.self_check`).
    """

    kind = "transformers"
    repeatable = True

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        device: str = "auto",
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        quantization: str | Mapping[str, Any] | None = None,
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model and its tokenizer.

        Args:
            model: A folder or a Hugging Face model name.
            batch_size: Rows decoded at once.
            device: "auto" takes a GPU where there is one; else a torch device.
            dtype: "auto" takes the checkpoint's; else float32, bfloat16 or float16.
            attn_implementation: Such as sdpa, eager or flash_attention_2; default: transformers' choice.
            device_map: How accelerate spreads the model over devices, such as auto; instead of `device`.
            quantization: 8bit or 4bit (bitsandbytes, on a GPU), or the fields of one of transformers'
                quantisation configurations, `quant_method` among them.
            format: How the model ends its reasoning, or what differs from what it declares.
            prompt: What is put around a question.

        Raises:
            ValueError: If the model or an option cannot be had here, or the model does not read alike in
                every way.
        """
        batch_size = check_batch_size(batch_size)
        transformers_logging.disable_progress_bar()  # loading is quick beside generating; errors stay visible
        super().__init__(model, format, prompt)
        self.model = load_causal_model(
            model,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization=quantization,
        )
        self.batch_size = batch_size
        self._quantization = quantization
        self.room = max_positions(self.model)
        self._pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self._ways = check_reading(self.model, self.name)
        self.prefill_dtype = self.model.dtype

    def _numerics(self) -> dict[str, Any]:
        model = self.model
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attention": str(model.config._attn_implementation),
            "quantization": str(self._quantization) if self._quantization else None,
            "batch_size": self.batch_size,
        }

    @torch.inference_mode()
    def prefill(self, questions: Sequence[str], layers: Sequence[int] = ()) -> Prefill:
        """Read N prompts once, for a predictor and for the reasoning that follows.

        Keeps the cache of all prompts until the result is let go.

        Args:
            questions: N question texts.
            layers: Blocks whose states at each prompt's last token are wanted, from 1.

        Raises:
            ValueError: If a layer is out of range, or a prompt cannot be read whose states are wanted.
        """
        wanted = check_layers(text_decoder(self.model), layers) if layers else []
        prompts = self._checked(self._encode(questions), [0] * len(questions))
        readable = {row: prompt for row, prompt in enumerate(prompts) if not isinstance(prompt, Failure)}
        unread = [prompt for prompt in prompts if isinstance(prompt, Failure)]
        if wanted and unread:
            raise ValueError(f"a prompt must be readable to have states, but: {unread[0].reason}")
        width = hidden_size(self.model)
        features = {layer_name(n): np.empty((len(questions), width), np.float32) for n in wanted}
        order, lengths = list(readable), [len(prompt) for prompt in readable.values()]
        batches: list[PrefilledBatch] = []
        for batch in self._batches(lengths, [(length, 0) for length in lengths]):
            numbers = [order[place] for place in batch]
            rows = Rows(self.model)
            with last_states(self.model, wanted) as states:
                logits = rows.read_prompts([readable[number] for number in numbers], self._pad_id)
            for layer in wanted:
                features[layer_name(layer)][numbers] = states[layer].float().cpu().numpy()
            batches.append(PrefilledBatch(numbers, rows, logits))
        return Prefill(tuple(questions), features, batches)

    def reason(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        progress: Progress | None = None,
        prefilled: Prefill | None = None,
        watch: Watch | None = None,
    ) -> Sequence[Reasoning | Failure]:
        """Reason about each question within its own budget; see `Engine.reason`.

        Goes on from the prompts that `prefilled` holds, and reads the others. `watch` sees every token, and
        may end a reasoning before its budget.
        """
        prefilled = prefilled or self.prefilled
        if watch is not None:
            watch.begin(requests, self._text)
            prefilled = prefilled or self.prefill(list(dict.fromkeys(r.question for r in requests)))
        places = prefilled.places([r.question for r in requests]) if prefilled else {}
        known = {place for mine in places.values() for place, _ in mine}
        fresh = [place for place in range(len(requests)) if place not in known]
        results: dict[int, Reasoning | Failure] = {}
        if fresh:
            found = super().reason([requests[place] for place in fresh], sampling, progress)
            results |= dict(zip(fresh, found, strict=True))
        for batch, mine in places.items():
            assert prefilled is not None
            asked = [(requests[place], row) for place, row in mine]
            if watch is not None:
                watch.places = [place for place, _ in mine]
            found = self._reason_on(prefilled.batches[batch], asked, sampling, progress, watch)
            results |= dict(zip([place for place, _ in mine], found, strict=True))
        return [results[place] for place in range(len(requests))]

    @torch.inference_mode()
    def _reason_on(
        self,
        batch: PrefilledBatch,
        asked: Sequence[tuple[Request, int]],
        sampling: Sampling,
        progress: Progress | None,
        watch: Watch | None = None,
    ) -> list[Reasoning | Failure]:
        """Reasonings from rows of a batch that was read, each row as often as it is asked for."""
        limits = [request.max_tokens for request, _ in asked]
        checked = self._checked(self._encode([request.question for request, _ in asked]), limits)
        choose = chooser(sampling, [uniforms(sampling, r.stream, r.max_tokens) for r, _ in asked])
        choose = choose if watch is None else watch.seeing(choose)
        stops = self._reasoning_stops
        generated: list[list[int]] = [[] for _ in asked]
        going = [n for n, limit in enumerate(limits) if limit > 0 and not isinstance(checked[n], Failure)]
        if progress and len(going) < len(asked):
            progress(len(asked) - len(going))
        for start in range(0, len(going), self.batch_size):
            numbers = np.array(going[start : start + self.batch_size])
            chosen = self._index([asked[n][1] for n in numbers])
            rows = batch.rows.fork()
            rows.keep(chosen)
            allowed = np.array(limits)[numbers]
            until = Until(stops, self._text)
            with last_states(self.model, [] if watch is None else watch.layers) as states:
                halt = None if watch is None else self._halt(watch, states, rows, checked, generated)
                decode(rows, batch.logits[chosen], numbers, allowed, until, choose, generated, progress, halt)
        reasonings = [
            c if isinstance(c, Failure) else self._as_reasoning(ids, stops)
            for c, ids in zip(checked, generated, strict=True)
        ]
        if watch is not None:
            watch.end([0 if isinstance(r, Failure) else len(r.token_ids) for r in reasonings])
        return reasonings

    @property
    def _asks_from_cache(self) -> bool:
        """A forced answer goes on from a fork of the cache: some token must be forced to be read there."""
        return self._ways.continues and bool(self.forced_prefix)

    def _halt(
        self,
        watch: Watch,
        states: Mapping[int, torch.Tensor],
        rows: Rows,
        prompts: Sequence[list[int] | Failure],
        generated: Sequence[list[int]],
    ) -> Halt:
        """Which rows end at a step, as `watch` says; they answer it on a fork of their cache."""

        def halt(numbers: np.ndarray, places: np.ndarray, step: int) -> np.ndarray:
            def ask(some: Sequence[int]) -> Sequence[Answer | Failure]:
                if not self._asks_from_cache:
                    cut = [Reasoning(tuple(generated[n]), finished=False) for n in numbers[list(some)]]
                    return self._answers([prompts[n] for n in numbers[list(some)]], cut, None, True)
                branch = rows.fork()
                branch.keep(self._index(places[list(some)].tolist()))
                return self._forced_answers(branch, len(some))

            def seen(layer: int) -> Any:
                return states[layer][places].float().cpu().numpy()

            def lengths() -> dict[int, int]:
                return {n: len(ids) for n, ids in enumerate(generated) if ids}

            return watch.halt(numbers, step, Sight(seen, ask, lengths))

        return halt

    def probe(
        self,
        questions: Sequence[str],
        reasonings: Sequence[Reasoning | Failure],
        cuts: Sequence[int],
        progress: Progress | None = None,
    ) -> Sequence[list[Answer] | Failure]:
        """Answers at every cut of every trace, which is read once for all of them; see `Engine.probe`.

        Memory grows with the length of the traces, not with its square: a trace is read up to a cut, answers
        there on a fork of its cache, and is read on.
        """
        if not self._asks_from_cache:
            return super().probe(questions, reasonings, cuts, progress)
        prompts = self._encode(questions)
        probes: list[list[Answer] | Failure] = []
        for prompt, reasoning in zip(prompts, reasonings, strict=True):
            longest = 0 if isinstance(reasoning, Failure) else len(reasoning.token_ids)
            unfit = self._unfit(prompt, longest, len(self.forced_prefix) + self.format.max_forced_tokens)
            probes.append(reasoning if isinstance(reasoning, Failure) else unfit or [])
        rows = [row for row, probe in enumerate(probes) if isinstance(probe, list)]
        ended = [row for row in rows if reasonings[row].finished]  # type: ignore[union-attr]  # no failures
        natural = self._answers([prompts[row] for row in ended], [reasonings[row] for row in ended], None)
        endings = dict(zip(ended, natural, strict=True))
        traces: dict[int, Reasoning] = {row: reasonings[row] for row in rows}  # type: ignore[misc]  # likewise
        # A trace that ended by itself answers for every budget it fits in; only smaller ones are forced.
        forced = {row: [c for c in cuts if not trace.cut(c).finished] for row, trace in traces.items()}
        # Traces with as many probes share a batch: they leave it together.
        sizes = [(len(forced[row]), len(prompts[row]) + len(traces[row].token_ids)) for row in rows]
        for batch in self._batches([len(prompts[row]) for row in rows], sizes):
            mine = [rows[number] for number in batch]
            found = self._probe_batch([(prompts[r], traces[r], forced[r]) for r in mine])
            for row, answers in zip(mine, found, strict=True):
                ending = endings.get(row)
                missing = len(cuts) - len(answers)
                whole = ending if isinstance(ending, Failure) and missing else None
                probes[row] = whole or [*answers, *[ending] * missing]  # type: ignore[list-item]  # an answer
            if progress:
                progress(len(mine))
        if progress and len(rows) < len(probes):
            progress(len(probes) - len(rows))
        return probes

    @torch.inference_mode()
    def _probe_batch(self, traces: Sequence[tuple[list[int], Reasoning, list[int]]]) -> list[list[Answer]]:
        """Forced answers of B traces (prompt, reasoning, cuts), each at all of its cuts."""
        whole = [[*reasoning.token_ids, *reasoning.end_ids] for _, reasoning, _ in traces]
        stops = [[min(c, len(ids)) for c in cuts] for ids, (_, _, cuts) in zip(whole, traces, strict=True)]
        answers: list[dict[int, Answer]] = [{} for _ in traces]
        alive = list(range(len(traces)))
        rows = Rows(self.model)
        rows.read_prompts([prompt for prompt, _, _ in traces], self._pad_id)
        read = 0
        for stop in sorted({stop for mine in stops for stop in mine}):
            staying = [place for place, row in enumerate(alive) if max(stops[row], default=-1) >= stop]
            if len(staying) < len(alive):
                rows.keep(self._index(staying))
                alive = [alive[place] for place in staying]
            if stop > read:
                rows.read(self._index([whole[row][read:stop] for row in alive]))
                read = stop
            here = [place for place, row in enumerate(alive) if stop in stops[row]]
            branch = rows.fork()
            if len(here) < len(alive):
                branch.keep(self._index(here))
            for place, answer in zip(here, self._forced_answers(branch, len(here)), strict=True):
                answers[alive[place]][stop] = answer
        return [[found[stop] for stop in mine] for found, mine in zip(answers, stops, strict=True)]

    def _forced_answers(self, rows: Rows, count: int) -> list[Answer]:
        """What the model answers to its reasoning so far, in each of the rows."""
        logits = rows.read(self._index([self.forced_prefix] * count))
        limit = self.format.max_forced_tokens
        generated: list[list[int]] = [[] for _ in range(count)]
        until = Until(Stops(tuple(self._eos_ids)), self._text)
        choose, seen = scored(greedy)
        decode(rows, logits, np.arange(count), np.full(count, limit), until, choose, generated)
        forced = Reasoning((), finished=False)
        return [
            self._as_answer(forced, Decoded(ids, _sureness(seen[row], ids)), limit)
            for row, ids in enumerate(generated)
        ]

    def _decode(
        self, prompts: Sequence[list[int]], limits: Sequence[int], progress: Progress | None, sure: bool
    ) -> Sequence[Decoded | Failure]:
        """See `TokenEngine._decode`."""
        if not sure:
            return super()._decode(prompts, limits, progress, sure)
        choose, seen = scored(greedy)
        found = self._draw(prompts, limits, Stops(tuple(self._eos_ids)), choose, progress)
        return [Decoded(ids, _sureness(seen[row], ids)) for row, ids in enumerate(found)]

    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int]]:
        draws = [uniforms(sampling, stream, n) for stream, n in zip(streams, limits, strict=True)]
        return self._draw(prompts, limits, stops, chooser(sampling, draws), progress)

    def _draw(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        choose: Choose,
        progress: Progress | None,
    ) -> list[list[int]]:
        generated: list[list[int]] = [[] for _ in prompts]
        lengths, until = [len(prompt) for prompt in prompts], Until(stops, self._text)
        # Rows of like length share a batch: less padding, and they leave it together.
        for batch in self._batches(lengths, list(zip(limits, lengths, strict=True))):
            with torch.inference_mode():
                rows = Rows(self.model)
                logits = rows.read_prompts([prompts[row] for row in batch], self._pad_id)
                allowed = np.array([limits[row] for row in batch])
                decode(rows, logits, np.array(batch), allowed, until, choose, generated, progress)
        return generated

    def _batches(self, lengths: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Rows in batches: by size, and of one length where the model takes no padding."""
        order = sorted(range(len(lengths)), key=sizes.__getitem__)
        if not self._ways.pads:
            order.sort(key=lengths.__getitem__)  # stable: by size within a length
        batch: list[int] = []
        for row in order:
            other = not self._ways.pads and batch and lengths[row] != lengths[batch[-1]]
            if len(batch) == self.batch_size or other:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _index(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


def _sureness(seen: Sequence[tuple[float, float]], ids: Sequence[int]) -> float:
    """Geometric mean of the probabilities of a row's tokens, of what was seen of each step."""
    return float(np.exp(np.mean([log_probability for log_probability, _ in seen[: len(ids)]])))
