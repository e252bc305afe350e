"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def show_progress(title: str, total: int, *, kept_first: bool = False) -> Iterator[Callable[[float], None]]:
    """Show how much of `total` is done; yields a function to call with each newly finished amount.

    Args:
        title: What is counted.
        total: How much there is.
        kept_first: The first call tells what an earlier run left: done, but no measure of speed.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(title, total=total)
            waiting = kept_first

            def move(amount: float) -> None:
                nonlocal waiting
                if waiting:  # a new start, from there
                    progress.reset(task, total=total, completed=amount)  # type: ignore[arg-type]
                else:
                    progress.advance(task, amount)
                waiting = False

            yield move
        return
    begin = last = time.monotonic()
    done, kept = 0.0, None if kept_first else 0.0

    def advance(amount: float) -> None:
        nonlocal done, kept, last, begin
        done += amount
        now = time.monotonic()
        if kept is None:
            kept, begin, last = amount, now, now
        finished = done >= total - 1e-6
        if finished or now - last >= SECONDS_BETWEEN_LINES:
            last, seconds = now, now - begin
            to_go = "" if finished or done <= kept else _to_go(seconds * (total - done) / (done - kept))
            console.print(f"{title}: {done:.0f}/{total} in {seconds:.0f} s{to_go}", highlight=False)

    yield advance


def _to_go(seconds: float) -> str:
    return f", about {seconds:.0f} s to go" if seconds < 90 else f", about {seconds / 60:.0f} min to go"
