"""Any server with OpenAI's completions endpoint (vLLM, SGLang) as an engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import openai

from ps_eval.engines.base import Failure, Progress, Sampling, request_seed
from ps_eval.engines.completion import BrokenCompletionError, Completion, NotACompletionError
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.token_engine import GREEDY, Stops, TokenEngine, check_batch_size
from ps_eval.redaction import redacted
from ps_train.common.loading import first_line
from ps_train.common.prompts import PromptFormat

Result = TypeVar("Result")

KEY_VARIABLE, URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
NO_KEY = "none"
"""What a client without a key sends, since it must send one."""
MAX_REASON = 300
"""Characters kept of a server's error message."""
MAX_SEED_BITS = 53
"""What every JSON parser keeps of a whole number."""
LONGEST_PAUSE = 120.0
"""Seconds that the client waits at most before it tries again, where the server says how long."""
LONGEST_TOKEN = 256
"""Characters of text that a token stands for at most."""

TOKEN_IDS, SAMPLING_FIELDS, OPENAI_FIELDS = "token ids", "text and sampling fields", "text alone"
REFUSED = (openai.BadRequestError, openai.UnprocessableEntityError)


class OpenAIEngine(TokenEngine):
    """An engine on a server; every request carries its own budget as `max_tokens`.

    What is exact depends on the server, which is asked at loading:

    - It takes and returns token ids (vLLM, tested with 0.32): as exact as an engine in this process.
    - It takes token ids and returns text (SGLang): the text is encoded again. Where that gives other tokens
      than the model generated, a cut falls elsewhere by as many; no budget is ever exceeded.
    - It takes text only: so it is with the prompts, too.

    Servers fill sampling fields that a request leaves out as the model's generation config says: all are
    sent, neutral where `Sampling` sets nothing. A server that takes OpenAI's own fields alone gets those.

    Requests are retried by the `openai` client: on 408, 409, 429, 5xx, time-outs and broken connections, with
    exponential back-off and jitter, or when the server says, if that is within two minutes. A request that
    fails all the same, is refused, or is answered with anything but a completion that stopped or met its
    limit becomes a `Failure`; the others go on.
    """

    kind = "openai"
    repeatable = False
    concurrent = True

    def __init__(
        self,
        model: str,
        batch_size: int = 64,
        base_url: str | None = None,
        tokenizer: str | Path | None = None,
        format: ReasoningFormat | Mapping[str, Any] | None = None,
        prompt: PromptFormat | Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        max_retries: int = 6,
        seed_bits: int = MAX_SEED_BITS,
    ) -> None:
        """Connect to a server. An API key is read from the variable `OPENAI_API_KEY` and stored nowhere.

        Args:
            model: The name the server serves it under.
            batch_size: Most requests under way at once.
            base_url: Such as `http://127.0.0.1:8000/v1`; default: the variable `OPENAI_BASE_URL`.
            tokenizer: The model's tokenizer, a folder or a Hugging Face name; default: `model`.
            format: How the model ends its reasoning, or what differs from what the tokenizer's folder
                declares.
            prompt: What is put around a question.
            timeout: Seconds without a byte from the server until a request is given up and tried again.
            max_retries: How often a request is tried again.
            seed_bits: Of the seeds that are sent; 31 for servers that take no larger ones.

        Raises:
            ValueError: If there is no address, no completion from it, no such model or no such tokenizer.
        """
        batch_size = check_batch_size(batch_size)
        if not 1 <= seed_bits <= MAX_SEED_BITS:
            raise ValueError(f"seed_bits must lie in 1..{MAX_SEED_BITS}, got {seed_bits}")
        super().__init__(tokenizer or model, format, prompt)
        self.name = str(model)
        self.batch_size = batch_size
        self._url = base_url or os.environ.get(URL_VARIABLE)
        if not self._url:
            raise ValueError(f"base_url must be given, as an engine option or in {URL_VARIABLE}")
        self._key = os.environ.get(KEY_VARIABLE) or NO_KEY
        self._timeout, self._max_retries, self._seed_bits = timeout, max_retries, seed_bits
        self._takes, self._returns_ids = TOKEN_IDS, False
        self._learn_what_the_server_takes()

    def _learn_what_the_server_takes(self) -> None:
        try:
            completion = _wait_for(self._complete_one_token())
        except openai.NotFoundError as error:
            raise ValueError(self._not_found(self._reason(error))) from error
        except BrokenCompletionError:
            return  # it does complete prompts; what each request gets is looked at then
        except (openai.OpenAIError, NotACompletionError) as error:
            raise ValueError(
                f"base_url must be a server that completes prompts, got {redacted(self._url)}: "
                f"{self._reason(error)}"
            ) from error
        self._returns_ids = completion.token_ids is not None

    async def _complete_one_token(self) -> Completion:
        """Ask with all that helps, then with less, until the server does not refuse it."""
        (prompt,) = self._encode(["How many ?"])
        async with self._client() as client:
            for takes in (TOKEN_IDS, SAMPLING_FIELDS):
                self._takes = takes
                try:
                    return await self._complete(client, prompt, 1, Stops(tuple(self._eos_ids)), GREEDY, 0)
                except REFUSED:
                    continue
            self._takes = OPENAI_FIELDS
            return await self._complete(client, prompt, 1, Stops(tuple(self._eos_ids)), GREEDY, 0)

    def _not_found(self, reason: str) -> str:
        """Which of the things behind a 404 it is, as far as the server tells."""
        try:
            served = [m.id for m in _wait_for(self._models())]
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            if "model" in reason.lower():
                return f"model must be one that {redacted(self._url)} serves, got {self.name!r}: {reason}"
            hint = (
                "" if str(self._url).rstrip("/").rpartition("/")[2].startswith("v") else " (is /v1 missing?)"
            )
            return (
                f"base_url must be a server that completes prompts, but there is nothing at "
                f"{redacted(self._url)}/completions{hint}: {reason}"
            )
        if self.name in served:
            return (
                f"base_url must be a server with a completions endpoint, but {redacted(self._url)} serves "
                f"{self.name!r} for chat alone: {reason}"
            )
        known = ", ".join(sorted(served)[:5])
        return f"model must be one that {redacted(self._url)} serves ({known}), got {self.name!r}: {reason}"

    async def _models(self) -> list[Any]:
        async with self._client() as client:
            return list((await client.with_options(max_retries=0).models.list()).data)

    def _numerics(self) -> dict[str, Any]:
        return {"tokenizer": str(self.tokenizer.name_or_path)}

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self._url, api_key=self._key, timeout=self._timeout, max_retries=self._max_retries
        )

    def _generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: Stops,
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int] | Failure]:
        if self._takes == OPENAI_FIELDS and (sampling.top_k or sampling.min_p):
            raise ValueError(
                f"top_k and min_p must be 0 on {redacted(self._url)}, which refuses them, "
                f"got {sampling.top_k} and {sampling.min_p}"
            )

        async def complete_all() -> list[list[int] | Failure]:
            slots = asyncio.Semaphore(self.batch_size)

            async def complete(prompt: list[int], limit: int, stream: int) -> list[int] | Failure:
                async with slots:
                    try:
                        completion = await self._complete(client, prompt, limit, stops, sampling, stream)
                    except (openai.OpenAIError, NotACompletionError) as error:
                        return Failure(self._reason(error))
                    finally:
                        if progress:
                            progress(1)
                return self._generated(completion, limit, stops)

            # Ctrl-C cancels the group: requests under way are dropped, waiting ones are never sent.
            async with self._client() as client, asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(complete(*row)) for row in zip(prompts, limits, streams, strict=True)
                ]
            return [task.result() for task in tasks]

        return _wait_for(complete_all())

    async def _complete(
        self,
        client: openai.AsyncOpenAI,
        prompt: list[int],
        limit: int,
        stops: Stops,
        sampling: Sampling,
        stream: int,
    ) -> Completion:
        body = self._body(prompt, limit, stops, sampling, stream)
        longest = (self._timeout + LONGEST_PAUSE) * (self._max_retries + 1)
        try:
            async with asyncio.timeout(longest):  # the client's own ends with every byte that comes
                reply = await client.completions.with_raw_response.create(**body)
        except TimeoutError as error:
            raise NotACompletionError(f"no whole reply within {longest:g} s, retries included") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise NotACompletionError(first_line(error)) from error
        return Completion.of(reply.http_response.content, limit)

    def _body(
        self, prompt: list[int], limit: int, stops: Stops, sampling: Sampling, stream: int
    ) -> dict[str, Any]:
        seed = request_seed(sampling, stream) >> (MAX_SEED_BITS - self._seed_bits)
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.temperature:
            body["seed"] = seed
        ends_reasoning = stops != Stops(tuple(self._eos_ids))
        if self.format.think_end and ends_reasoning and not (self._returns_ids and stops.text is None):
            body["stop"] = [self.format.think_end]
        # Neutral where nothing is set: a server fills what is left out with the model's own defaults.
        fields: dict[str, Any] = {
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        if self._takes == TOKEN_IDS:
            fields |= {
                "return_token_ids": True,
                "stop_token_ids": list(stops.ids),
                "ignore_eos": True,  # these stops and no others, the tokenizer's own end of sequence included
                "skip_special_tokens": False,  # the marker may be one, and must be seen
            }
            return body | {"prompt": prompt, "extra_body": fields}
        text = self._as_text(prompt)
        return body | {"prompt": text} | ({} if self._takes == OPENAI_FIELDS else {"extra_body": fields})

    def _as_text(self, prompt: list[int]) -> str:
        """A prompt for a server that takes no token ids; it adds the beginning of sequence by itself."""
        bos = self.tokenizer.bos_token_id
        return str(self.tokenizer.decode(prompt[1:] if bos is not None and prompt[:1] == [bos] else prompt))

    def _generated(self, completion: Completion, limit: int, stops: Stops) -> list[int] | Failure:
        """The generated token ids, ended by a stop where the model stopped by itself."""
        ids = completion.token_ids
        if ids is None:
            text = completion.text[: limit * LONGEST_TOKEN]
            ids = self.tokenizer.encode(text, add_special_tokens=False)[: limit - completion.stopped]
        if len(ids) > limit:
            return Failure(f"the server returned {len(ids)} tokens, max_tokens was {limit}")
        if completion.stopped and not (ids and ids[-1] in stops.ids):
            if stops.text is None:
                ids = [*ids, stops.ids[0]]
            elif stops.text not in self._text(ids):
                ids = [*ids, *self._end_ids]
        return ids[:limit]

    def _reason(self, error: Exception) -> str:
        """One line of what went wrong. Some servers repeat the key they refuse: it is blotted out."""
        text = " ".join(str(error).split())
        return (text if self._key == NO_KEY else text.replace(self._key, "***"))[:MAX_REASON]


def _wait_for(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`; where a loop runs already, as in a notebook, in a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
