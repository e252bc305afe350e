"""Predictions under load: requests that arrive together share one pass, off the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.float32]


class PredictorOverdueError(Exception):
    """A batch takes longer than anybody waits: to queue behind it would be in vain."""


Predict = Callable[[list[str]], Curve]
"""N questions to (N, W) curves; may be slow, is called from one thread."""


class MicroBatcher:
    """A bounded queue of questions and one worker thread that predicts them in batches."""

    def __init__(
        self,
        predict: Predict,
        *,
        wait_seconds: float = 0.002,
        max_batch: int = 8,
        max_queue: int = 1024,
        overdue_seconds: float = math.inf,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Set the batches' size.

        Args:
            predict: The predictor's `predict_curves`.
            wait_seconds: How long the first question of a batch waits for others.
            max_batch: Most questions in one pass.
            max_queue: Most questions that wait; beyond it, `curves` refuses.
            overdue_seconds: While a batch takes longer, `curves` refuses at once.
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
        self._queue: asyncio.Queue[tuple[str, asyncio.Future[Curve]]] = asyncio.Queue(max_queue)
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
        return self._queue.qsize()

    @property
    def overdue(self) -> bool:
        """Whether the batch under way takes longer than anybody waits."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > self._overdue_seconds

    async def curves(self, questions: Sequence[str]) -> list[Curve]:
        """One (W,) curve a question.

        Raises:
            PredictorOverdueError: If a batch is overdue.
            asyncio.QueueFull: If too many questions wait already.
            Exception: Whatever the predictor raised on one of the questions.
        """
        if self.overdue:
            raise PredictorOverdueError
        futures: list[asyncio.Future[Curve]] = []
        try:
            for question in questions:
                future: asyncio.Future[Curve] = asyncio.get_running_loop().create_future()
                self._queue.put_nowait((question, future))
                futures.append(future)
            return [await future for future in futures]
        finally:
            for future in futures:  # whoever gives up leaves nothing to predict
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen, so that the loop does not report it as lost

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            if self._wait_seconds:
                await asyncio.sleep(self._wait_seconds)
            while len(batch) < self._max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [(question, future) for question, future in batch if not future.done()]
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

    def _predict_each(self, questions: list[str]) -> list[Curve | Exception]:
        """Predict together; where that fails, one by one, so that a question harms nobody but itself."""
        try:
            return list(self._predict(questions))
        except Exception as error:
            if len(questions) == 1:
                return [error]
        return [self._predict_each([question])[0] for question in questions]
