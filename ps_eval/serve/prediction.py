"""Predictions under load: requests that arrive together share one pass, off the event loop.

Questions of about one length are predicted together, and the shortest first: a long one neither pads the
others nor goes before them, so that whoever sends many of them makes nobody wait but others with long ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
SHORT_CHARACTERS = 512
"""Up to which questions count as of one length; above it, up to each doubling."""


class PredictorOverdueError(Exception):
    """A batch takes longer than anybody waits: to queue behind it would be in vain."""


class MicroBatcher(Generic[T]):
    """A bounded queue of questions and one worker thread that predicts them in batches."""

    def __init__(
        self,
        predict: Callable[[list[str]], Sequence[T]],
        *,
        wait_seconds: float = 0.002,
        max_batch: int = 8,
        max_queue: int = 1024,
        overdue_seconds: float = math.inf,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Set the batches' size.

        Args:
            predict: N questions to N predictions; may be slow, is called from one thread.
            wait_seconds: How long the first question of a batch waits for others.
            max_batch: Most questions in one pass.
            max_queue: Most questions that wait; beyond it, `ask` refuses.
            overdue_seconds: While a batch takes longer, `ask` refuses at once.
            on_batch: Called on the event loop with a batch's size and its seconds.

        Raises:
            ValueError: If a size is below 1 or the wait below 0.
        """
        if min(max_batch, max_queue) < 1 or not wait_seconds >= 0:
            raise ValueError(
                "max_batch and max_queue must be at least 1 and the wait at least 0, "
                f"got {max_batch}, {max_queue} and {wait_seconds}"
            )
        self._predict = predict
        self._wait_seconds = wait_seconds
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._overdue_seconds = overdue_seconds
        self._busy_since: float | None = None
        self._max_queue = max_queue
        self._heap: list[tuple[int, int, str, asyncio.Future[T]]] = []  # by length, then as they came
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; the event loop must be running."""
        self._worker = asyncio.create_task(self._work(), name="micro-batches")

    async def stop(self) -> None:
        """End the worker; a batch under way is not waited for."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._heap)

    @property
    def overdue(self) -> bool:
        """Whether the batch under way takes longer than anybody waits."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > self._overdue_seconds

    async def ask(self, questions: Sequence[str]) -> list[T]:
        """One prediction a question.

        Raises:
            PredictorOverdueError: If a batch is overdue.
            asyncio.QueueFull: If too many questions wait already.
            Exception: Whatever the predictor raised on one of the questions.
        """
        if self.overdue:
            raise PredictorOverdueError
        futures: list[asyncio.Future[T]] = []
        try:
            for question in questions:
                futures.append(self._put(question))
            return [await future for future in futures]
        finally:
            for future in futures:  # whoever gives up leaves nothing to predict
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen, so that the loop does not report it as lost

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._heap:
                self._arrived.clear()
                await self._arrived.wait()
            if self._wait_seconds and len(self._heap) < self._max_batch:
                await asyncio.sleep(self._wait_seconds)
            batch = self._next_batch()
            if not batch:
                continue
            begin = self._busy_since = time.monotonic()
            results = await loop.run_in_executor(self._thread, self._predict_each, [q for q, _ in batch])
            self._busy_since = None
            self._on_batch(len(batch), time.monotonic() - begin)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _put(self, question: str) -> asyncio.Future[T]:
        if len(self._heap) >= self._max_queue:
            self._heap = [one for one in self._heap if not one[3].done()]
            heapq.heapify(self._heap)
            if len(self._heap) >= self._max_queue:
                raise asyncio.QueueFull
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (_length(question), next(self._numbers), question, future))
        self._arrived.set()
        return future

    def _next_batch(self) -> list[tuple[str, asyncio.Future[T]]]:
        """The next questions of one length; those that nobody waits for any more are dropped."""
        batch: list[tuple[str, asyncio.Future[T]]] = []
        length = None
        while self._heap and len(batch) < self._max_batch and length in (None, self._heap[0][0]):
            length_of_one, _, question, future = heapq.heappop(self._heap)
            if not future.done():
                length = length_of_one
                batch.append((question, future))
        return batch

    def _predict_each(self, questions: list[str]) -> list[T | Exception]:
        """Predict together; where that fails, one by one, so that a question harms nobody but itself."""
        try:
            return list(self._predict(questions))
        except Exception as error:
            if len(questions) == 1:
                return [error]
        return [self._predict_each([question])[0] for question in questions]


def _length(question: str) -> int:
    return (len(question) // SHORT_CHARACTERS).bit_length()
