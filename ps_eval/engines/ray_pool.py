"""Engines on the workers of a Ray cluster, fed by Ray Data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import RayError

from ps_eval.engines import engine_class, load_engine
from ps_eval.engines.base import Engine
from ps_eval.engines.formats import ReasoningFormat
from ps_eval.engines.pool import EnginePool, Result, Task
from ps_train.common.prompts import PromptFormat

# Ray Data counts results in blocks: a task a block, so that one is done when it is done.
TASKS_A_BLOCK = 1


class RayEnginePool(EnginePool):
    """A pool of Ray actors, each with an engine of its own.

    A task stays whole on one engine: its probes find in that engine's prefix cache what its traces left
    there, and its batches, with them every token, are those of the same engine in this process. Where a
    worker or its machine dies, Ray starts another and the task again.
    """

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 128,
        engine: str = "vllm",
        workers: int = 1,
        gpus: float | None = None,
        cpus: float = 1,
        address: str | None = None,
        **engine_options: Any,
    ) -> None:
        """Connect to a cluster, or start one on this machine.

        The first engine is loaded when the first task is run. This package and the model must be found at
        every worker.

        Args:
            model: A folder that every worker can read, or a Hugging Face model name.
            batch_size: Of each engine.
            engine: What each worker runs, one of `ENGINES`.
            workers: How many.
            gpus: GPUs a worker; by default 1 where the cluster has any, else none.
            cpus: CPU cores a worker.
            address: Of a cluster, such as `auto` or `ray://head:10001`; by default the variable
                `RAY_ADDRESS`, and where that is not set either, a cluster on this machine alone.
            engine_options: Of the engines.

        Raises:
            ValueError: If there is no such engine, a number is out of range, there is no cluster at the
                address, or it has too few cores or GPUs for one worker.
        """
        inside = engine_class(engine)
        if workers < 1:
            raise ValueError(f"engine_options.workers must be at least 1, got {workers}")
        if not ray.is_initialized():
            address = address or os.environ.get("RAY_ADDRESS")
            # A cluster of its own has as many cores as its workers ask for: they may be more than there are.
            own: dict[str, Any] = (
                {} if address else {"num_cpus": ceil(workers * cpus), "include_dashboard": False}
            )
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
            except (ConnectionError, RayError, ValueError) as error:
                raise ValueError(
                    f"engine_options.address must be a Ray cluster, got {address!r}: {error}"
                ) from error
        resources = ray.cluster_resources()
        if gpus is None:
            gpus = 1 if resources.get("GPU", 0) else 0
        for resource, needed in (("GPU", gpus), ("CPU", cpus)):
            if needed > resources.get(resource, 0):
                raise ValueError(
                    f"a worker must find its {needed:g} {resource} in the cluster, "
                    f"which has {resources.get(resource, 0):g}"
                )
        self._workers = workers
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._engine = {"name": engine, "model": str(model), "batch_size": batch_size, **engine_options}
        self.kind, self.name, self.repeatable = inside.kind, str(model), inside.repeatable
        self.batch_size = batch_size
        format, prompt = engine_options.get("format"), engine_options.get("prompt")
        self.settings = {
            "engine": self.kind,
            "model": self.name,
            **ReasoningFormat.of(format, engine_options.get("tokenizer", model)).as_dict(),
            "prompt": PromptFormat.of(prompt).as_dict(),
            # What the workers make of the rest, such as a dtype of `auto`, only they know.
            "options": {k: v for k, v in engine_options.items() if k not in ("format", "prompt")},
            "batch_size": batch_size,
        }

    def map(
        self, function: Callable[[Engine, Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """See `EnginePool.map`."""
        if not tasks:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # the command shows its own progress
        rows = [
            {"task": number, "payload": cloudpickle.dumps((function, task))}
            for number, task in enumerate(tasks)
        ]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_kwargs=self._engine,
            batch_size=TASKS_A_BLOCK,
            compute=ray.data.ActorPoolStrategy(size=min(self._workers, len(rows))),
            **self._resources,
        )
        # Without prefetching, a result is here, and saved, as soon as it ends.
        for batch in results.iter_batches(batch_size=TASKS_A_BLOCK, prefetch_batches=0):
            for number, payload in zip(batch["task"], batch["payload"], strict=True):
                result = cloudpickle.loads(payload)
                if isinstance(result, _Raised):
                    raise result.error
                yield tasks[number], result


class _Worker:
    """An actor with an engine, loaded when it is first needed."""

    def __init__(self, **engine: Any) -> None:
        self._arguments = engine
        self._engine: Engine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return {"task": list(batch["task"]), "payload": [self._run(p) for p in batch["payload"]]}

    def _run(self, payload: bytes) -> bytes:
        try:
            if self._engine is None:
                self._engine = load_engine(**self._arguments)
            function, task = cloudpickle.loads(payload)
            return cloudpickle.dumps(function(self._engine, task))
        except Exception as error:  # Ray would wrap it in its own, past recognition
            return cloudpickle.dumps(_Raised(error))


@dataclass(frozen=True)
class _Raised:
    """In the place of a result: what the function raised, or the engine as it was loaded."""

    error: Exception
