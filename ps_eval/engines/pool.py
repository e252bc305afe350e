"""One engine or many: what runs a task on whichever is free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kind, self.name, self.repeatable = engine.kind, engine.name, engine.repeatable

    def map(
        self, function: Callable[[Engine, Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """See `EnginePool.map`."""
        for task in tasks:
            yield task, function(self._engine, task)
