"""One engine or many: what runs a task on whichever is free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from ps_eval.engines.base import Engine

Task = TypeVar("Task")
Result = TypeVar("Result")


class EnginePool(ABC):
    """Engines of one kind with the same model. A task runs whole on one of them."""

    kind: str
    """The engines' kind: what they generate does not depend on how many they are."""
    name: str
    """Of the model, for records."""
    repeatable: bool
    """As `Engine.repeatable`."""
    batch_size: int
    """As `Engine.batch_size`, of each."""
    settings: dict[str, Any]
    """As `Engine.settings`."""
    in_process: bool = False
    """Tasks run in this process, one after the other: they may call back."""

    @property
    def rows_a_task(self) -> int:
        """Rows that a task of answering should hold: fewer leave places empty, more can be lost.

        An engine that fills free places by itself stands half empty at the end of each task only.
        """
        return self.batch_size * (1 if self.kind == "transformers" else 4)

    @abstractmethod
    def map(
        self, function: Callable[[Engine, Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """Run `function(engine, task)` for every task.

        Args:
            function: What to do; it, the tasks and the results can be pickled.
            tasks: In any order, each on any engine.

        Yields:
            Each task with its result, as they end. Closing the iterator drops what has not ended.

        Raises:
            Exception: Whatever `function` raises; tasks that ended before have been yielded.
        """


class OneEngine(EnginePool):
    """An engine in this process; tasks run in their order."""

    in_process = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.kind, self.name, self.repeatable = engine.kind, engine.name, engine.repeatable
        self.batch_size, self.settings = engine.batch_size, engine.settings

    def map(
        self, function: Callable[[Engine, Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """See `EnginePool.map`."""
        for task in tasks:
            yield task, function(self.engine, task)


class ThreadedEngine(OneEngine):
    """An engine that threads may call side by side (a server): each row is a task, and ends when it does.

    After Ctrl-C, rows that are under way run out unseen, and no other is begun.
    """

    in_process = False

    @property
    def rows_a_task(self) -> int:
        """A row: none waits for another."""
        return 1

    def map(
        self, function: Callable[[Engine, Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """See `EnginePool.map`; as many tasks run at once as the engine's batch size."""
        waiting = iter(tasks)
        next_task, stopped = Lock(), Event()
        ended: SimpleQueue[tuple[Task, Result] | Exception] = SimpleQueue()

        def work() -> None:
            while not stopped.is_set():
                with next_task:
                    task = next(waiting, _NONE)
                if task is _NONE:
                    return
                try:
                    ended.put((task, function(self.engine, task)))
                except Exception as error:  # raised where it can be seen, below
                    ended.put(error)

        for _ in range(min(self.batch_size, len(tasks))):
            Thread(target=work, daemon=True).start()  # daemons: the process may end before their requests
        try:
            for _ in tasks:
                result = ended.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            stopped.set()


_NONE: Any = object()


def row_by_row(engine: Engine | EnginePool) -> EnginePool:
    """The pool for reasoning and answering: rows of a server in threads, else tasks of whole batches."""
    inside = engine.engine if isinstance(engine, OneEngine) else engine
    if isinstance(inside, EnginePool):
        return inside
    return ThreadedEngine(inside) if inside.concurrent else OneEngine(inside)
