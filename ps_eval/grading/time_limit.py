"""A limit of computing time, in whatever thread: what sleeps, or waits for a core, does not use it up."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class TooLongError(BaseException):
    """The limit is used up. No `Exception`: a library that catches those would go on."""


def within_seconds(function: Callable[[], Result], seconds: float) -> Result | None:
    """What a function returns, or None where it computes for longer.

    It is ended between two steps of the interpreter: a single long one, such as a search by a regular
    expression, is waited for.

    Args:
        function: What to do, in Python.
        seconds: Of the calling thread's CPU time; of the process' where the system does not tell that.
    """
    thread, clock = threading.get_ident(), _clock()
    begin, ended, last_word = clock(), threading.Event(), threading.Lock()
    interrupted = False

    def watch() -> None:
        nonlocal interrupted
        while not ended.wait(max(0.01, seconds - (clock() - begin))):
            with last_word:
                if clock() - begin >= seconds and not ended.is_set():
                    interrupted = True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(TooLongError)
                    )
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            return function()
        except TooLongError:
            interrupted = False
            return None
        finally:
            with last_word:
                ended.set()
            while interrupted:  # just before the end: it is on its way, and must not arrive elsewhere
                time.sleep(0.001)
    except TooLongError:
        return None


def _clock() -> Callable[[], float]:
    """CPU seconds of the calling thread, as any thread can read them."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)
