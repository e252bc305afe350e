"""A request to the scheduler of Linux: run this process soon after it wakes, and briefly.

A gateway takes a twentieth of a core, in pieces of a millisecond. On cores that a server keeps busy each
piece waits for the slices of all that run there; with short slices of its own it waits less long
(docs/serve.md). It gets no larger share, and needs no privilege.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_NANOSECONDS = 100_000
"""The shortest that Linux takes."""
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The system call's number, which Python's standard library does not wrap."""


def ask_for_short_slices() -> bool:
    """Ask for the calling thread and those that it will start; returns whether the system took it.

    Kernels before 6.12 take it and do nothing. Threads of another policy, such as SCHED_RR, stay as they are.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0
