"""Predictions under load: requests that arrive together share one pass, off the event loop if it is long.

Each hand-over from one thread to another waits for a core: on a machine that the server keeps busy, 10 to 15
ms (docs/serve.md), far longer than a small prediction takes. So a batch that is known to take less than
`INLINE_SECONDS` is predicted where it is, and the worker thread goes from batch to batch without asking back.

Questions of about one length are predicted together, and the shortest first: a long one neither pads the
others nor goes before them, so that whoever sends many of them makes nobody wait but others with long ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Batch = list[tuple[str, "asyncio.Future[T]"]]
SHORT_CHARACTERS = 512
"""Up to which questions count as of one length; above it, up to each doubling."""
INLINE_SECONDS = 0.01
"""A batch that takes no more of a core is predicted on the event loop itself: about what a server takes for a
token, so that no stream stutters."""
MOST_INLINE_SECONDS, MOST_SLOW = 0.25, 3
"""After so many in a row that took longer by the clock, none is any more: the predictor waits for something
that is no work of a core."""
PASS = 2
"""Questions that cost as much as a batch by itself: about so for all predictors of this project."""
RISE = 1.1
"""Factor by which a batch's known cost rises at most when it is measured anew."""


class PredictorOverdueError(Exception):
    """A batch takes longer than anybody waits: to queue behind it would be in vain."""


class MicroBatcher(Generic[T]):
    """A bounded queue of questions, predicted in batches by the event loop or one worker thread."""

    def __init__(
        self,
        predict: Callable[[list[str]], Sequence[T]],
        *,
        wait_seconds: float = 0.0,
        max_batch: int = 8,
        max_queue: int = 1024,
        overdue_seconds: float = math.inf,
        inline_seconds: float = INLINE_SECONDS,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Set the batches' size.

        Args:
            predict: N questions to N predictions; may be slow, is called from one thread at a time.
            wait_seconds: How long a batch waits for others, beyond the questions that have come.
            max_batch: Most questions in one pass.
            max_queue: Most questions that wait; beyond it, `ask` refuses.
            overdue_seconds: While a batch takes longer, `ask` refuses at once.
            inline_seconds: Most that a batch may take of a core to be predicted on the event loop.
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
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._overdue_seconds = overdue_seconds
        self._inline_seconds = inline_seconds
        self._busy_since: float | None = None
        # Held by the loop and the worker for moments; never while anything is predicted.
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, str, asyncio.Future[T]]] = []  # by length, then as they came
        self._numbers = itertools.count()
        self._planned = self._running = False
        self._slow = 0
        self.working = False
        """Whether the worker's thread predicts: then it takes what comes."""
        self._costs: dict[int, dict[int, float]] = {}
        """Length of questions to size of batch to the seconds of a core that it takes, of those seen."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to work; the event loop must be running."""
        self._loop, self._running = asyncio.get_running_loop(), True
        self._plan()

    async def stop(self) -> None:
        """End the worker; a batch under way is not waited for."""
        self._running = False
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._heap)

    @property
    def overdue(self) -> bool:
        """Whether the batch under way takes longer than anybody waits."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._overdue_seconds

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

    def _put(self, question: str) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if len(self._heap) >= self._max_queue:
                self._heap = [one for one in self._heap if not one[3].done()]
                heapq.heapify(self._heap)
                if len(self._heap) >= self._max_queue:
                    raise asyncio.QueueFull
            heapq.heappush(self._heap, (_length(question), next(self._numbers), question, future))
        self._plan()
        return future

    def _plan(self) -> None:
        """Look at the queue when all that is ready now has been put into it."""
        if self._running and not self._planned and self._loop is not None:
            self._planned = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._planned = False
        if self.working or not self._running or not self._heap:
            return
        size = min(len(self._heap), self._max_batch)
        while size and self._cost(self._heap[0][0], size) > self._inline_seconds:
            size //= 2
        if size and not self._wait_seconds:
            with self._lock:
                batch = self._next_batch(size)
            if batch:
                results, seconds = self._measured(batch)
                self._slow = self._slow + 1 if seconds > MOST_INLINE_SECONDS else 0
                if self._slow == MOST_SLOW:
                    self._inline_seconds = 0.0
                self._ended(batch, results, seconds)
            self._plan()  # others go between two batches
        else:
            self.working = True
            self._thread.submit(self._work)

    def _work(self) -> None:
        """In the worker's thread: batch after batch, until there is nothing to predict."""
        assert self._loop is not None
        while True:
            if self._wait_seconds and len(self._heap) < self._max_batch:
                time.sleep(self._wait_seconds)
            with self._lock:
                batch = self._next_batch(self._max_batch) if self._running else []
                self.working = bool(batch)
            if not batch:
                return
            self._busy_since = time.monotonic()
            results, seconds = self._measured(batch)
            self._busy_since = None
            try:
                self._loop.call_soon_threadsafe(self._ended, batch, results, seconds)
            except RuntimeError:  # the loop has ended
                return

    def _next_batch(self, size: int) -> Batch[T]:
        """The next questions of one length; those that nobody waits for any more are dropped."""
        batch: Batch[T] = []
        length = None
        while self._heap and len(batch) < size and length in (None, self._heap[0][0]):
            length_of_one, _, question, future = heapq.heappop(self._heap)
            if not future.done():
                length = length_of_one
                batch.append((question, future))
        return batch

    def _measured(self, batch: Batch[T]) -> tuple[list[T | Exception], float]:
        """What is predicted of a batch, and in how many seconds."""
        begin, of_core = time.monotonic(), time.thread_time()
        results = self._predict_each([question for question, _ in batch])
        cost, size = time.thread_time() - of_core, len(batch)
        # The first call loads much, and others may be disturbed: it falls at once and rises slowly.
        costs = self._costs.setdefault(_length(batch[0][0]), {})
        costs[size] = min(cost, RISE * costs.get(size, cost))
        return results, time.monotonic() - begin

    def _cost(self, length: int, size: int) -> float:
        """Seconds that a batch takes: as seen, or by the nearest size, a pass being worth a few questions."""
        known = self._costs.get(length, {}).copy()
        if not known:
            return math.inf
        nearest = min(known, key=lambda n: abs(n - size))
        return known[nearest] * (size + PASS) / (nearest + PASS)

    def _ended(self, batch: Batch[T], results: list[T | Exception], seconds: float) -> None:
        self._on_batch(len(batch), seconds)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._plan()

    def _predict_each(self, questions: list[str]) -> list[T | Exception]:
        """Predict together; where that fails, one by one, so that a question harms nobody but itself."""
        try:
            results: list[T | Exception] = list(self._predict(questions))
            if len(results) != len(questions):
                raise ValueError(f"a predictor must answer {len(questions)} questions, got {len(results)}")
            return results
        except Exception as error:
            if len(questions) == 1:
                return [error]
        return [self._predict_each([question])[0] for question in questions]


def _length(question: str) -> int:
    return (len(question) // SHORT_CHARACTERS).bit_length()
