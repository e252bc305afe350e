"""Any server with OpenAI's completions endpoint (vLLM, SGLang) as an engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import openai
from openai.types import CompletionChoice

from ps_eval.engines.base import Failure, Progress, ReasoningFormat, Sampling, request_seed
from ps_eval.engines.token_engine import GREEDY, TokenEngine
from ps_train.common.prompts import encode_prompts

Result = TypeVar("Result")

KEY_VARIABLE, URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
NO_KEY = "none"
"""What a client without a key sends, since it must send one."""
MAX_REASON = 300
"""Characters kept of a server's error message."""


class OpenAIEngine(TokenEngine):
    """An engine on a server; every request carries its own budget as `max_tokens`.

    What is exact depends on the server, which is asked at loading:

    - It takes and returns token ids (vLLM, tested with 0.32): as exact as an engine in this process.
    - It takes token ids and returns text (SGLang): the text is encoded again. Where that gives other tokens
      than the model generated, a cut falls elsewhere by as many; no budget is ever exceeded.
    - It takes text only: so it is with the prompts, too.

    Requests are retried by the `openai` client: on 408, 409, 429, 5xx, time-outs and broken connections, with
    exponential back-off and jitter, or when the server says. A request that fails all the same, or is
    refused, becomes a `Failure`; the others go on.
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
        format: ReasoningFormat | None = None,
        timeout: float = 600.0,
        max_retries: int = 6,
    ) -> None:
        """Connect to a server. An API key is read from the variable `OPENAI_API_KEY` and stored nowhere.

        Args:
            model: The name the server serves it under.
            batch_size: Most requests under way at once.
            base_url: Such as `http://127.0.0.1:8000/v1`; default: the variable `OPENAI_BASE_URL`.
            tokenizer: The model's tokenizer, a folder or a Hugging Face name; default: `model`.
            format: How the model ends its reasoning; default: what the tokenizer's folder declares.
            timeout: Seconds until a request is given up and tried again.
            max_retries: How often a request is tried again.

        Raises:
            ValueError: If there is no address, no answer from it, no such model or no such tokenizer.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        super().__init__(tokenizer or model, format)
        self.name = str(model)
        self.batch_size = batch_size
        self._url = base_url or os.environ.get(URL_VARIABLE)
        if not self._url:
            raise ValueError(f"base_url must be given, as an engine option or in {URL_VARIABLE}")
        self._key = os.environ.get(KEY_VARIABLE) or NO_KEY
        self._timeout, self._max_retries = timeout, max_retries
        # Whether the server takes token ids, with the fields vLLM and SGLang add to OpenAI's; returns them.
        self._takes_ids, self._returns_ids = True, False
        self._learn_what_the_server_takes()

    def _learn_what_the_server_takes(self) -> None:
        try:
            try:
                choice = _wait_for(self._complete_one_token())
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                self._takes_ids = False
                choice = _wait_for(self._complete_one_token())
        except openai.NotFoundError as error:
            raise ValueError(
                f"model must be one that {self._url} serves, got {self.name!r}: {self._reason(error)}"
            ) from error
        except openai.OpenAIError as error:
            raise ValueError(
                f"base_url must be a server that completes prompts, got {self._url}: {self._reason(error)}"
            ) from error
        self._returns_ids = _token_ids(choice) is not None

    async def _complete_one_token(self) -> CompletionChoice:
        (prompt,) = encode_prompts(self.tokenizer, ["How many ?"])
        async with self._client() as client:
            body = self._body(prompt, 1, self._eos_ids, GREEDY, 0)
            return (await client.completions.create(**body)).choices[0]

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
        stop_ids: Sequence[int],
        sampling: Sampling,
        streams: Sequence[int],
        progress: Progress | None,
    ) -> list[list[int] | Failure]:
        async def complete_all() -> list[list[int] | Failure]:
            slots = asyncio.Semaphore(self.batch_size)

            async def complete(prompt: list[int], limit: int, stream: int) -> list[int] | Failure:
                body = self._body(prompt, limit, stop_ids, sampling, stream)
                async with slots:
                    try:
                        completion = await client.completions.create(**body)
                    except openai.OpenAIError as error:
                        return Failure(self._reason(error))
                    finally:
                        if progress:
                            progress(1)
                if not completion.choices:  # the client checks no reply's form
                    return Failure("the server's reply has no choices")
                return self._generated(completion.choices[0], limit, stop_ids)

            # Ctrl-C cancels the group: requests under way are dropped, waiting ones are never sent.
            async with self._client() as client, asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(complete(*row)) for row in zip(prompts, limits, streams, strict=True)
                ]
            return [task.result() for task in tasks]

        return _wait_for(complete_all())

    def _body(
        self, prompt: list[int], limit: int, stop_ids: Sequence[int], sampling: Sampling, stream: int
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request_seed(sampling, stream) if sampling.temperature else None,
        }
        if self._end_id in stop_ids and not self._returns_ids:
            body["stop"] = [self.format.think_end]
        if not self._takes_ids:
            return body | {"prompt": self._as_text(prompt)}
        extensions = {
            "return_token_ids": True,
            "stop_token_ids": list(stop_ids),
            "ignore_eos": True,  # these stops and no others, the tokenizer's own end of sequence included
            "skip_special_tokens": False,  # the marker may be one, and must be seen
        }
        return body | {"prompt": prompt, "extra_body": extensions}

    def _as_text(self, prompt: list[int]) -> str:
        """A prompt for a server that takes no token ids; it adds the beginning of sequence by itself."""
        bos = self.tokenizer.bos_token_id
        return str(self.tokenizer.decode(prompt[1:] if bos is not None and prompt[:1] == [bos] else prompt))

    def _generated(
        self, choice: CompletionChoice, limit: int, stop_ids: Sequence[int]
    ) -> list[int] | Failure:
        """The generated token ids, ended by a stop token where the model stopped by itself."""
        stopped = choice.finish_reason == "stop"
        ids = _token_ids(choice)
        if ids is None:
            ids = self.tokenizer.encode(choice.text, add_special_tokens=False)[: limit - stopped]
        if stopped and (not ids or ids[-1] not in stop_ids):
            ids = [*ids, stop_ids[0]]
        if len(ids) > limit:
            return Failure(f"the server returned {len(ids)} tokens, max_tokens was {limit}")
        return ids

    def _reason(self, error: openai.OpenAIError) -> str:
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


def _token_ids(choice: CompletionChoice) -> list[int] | None:
    return (choice.model_extra or {}).get("token_ids")
