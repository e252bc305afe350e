"""The gateway asks the scheduler for short slices, where there is one that takes it."""

from __future__ import annotations

import os
import platform
import sys
import threading
from pathlib import Path

import pytest

from ps_eval.serve import short_slices

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in short_slices.SCHED_SETATTR, reason="of Linux"
)


def asked() -> tuple[bool, int, str]:
    """In a thread of its own: whether it was taken, nice afterwards, and what the kernel says."""
    found: list[tuple[bool, int, str]] = []

    def ask() -> None:
        taken = short_slices.ask_for_short_slices()
        told = Path(f"/proc/self/task/{threading.get_native_id()}/sched")
        found.append((taken, os.getpriority(os.PRIO_PROCESS, 0), told.read_text() if told.exists() else ""))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def test_short_slices_are_asked_for_and_nice_stays() -> None:
    taken, nice, told = asked()
    if not taken:
        pytest.skip("a container's rules forbid it")
    assert nice == os.getpriority(os.PRIO_PROCESS, 0)
    slices = [line.split(":")[1].strip() for line in told.splitlines() if line.startswith("se.slice")]
    assert not slices or slices == [str(short_slices.SLICE_NANOSECONDS)]  # before 6.12 it is ignored


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_slices, "SCHED_SETATTR", {})
    assert not asked()[0]
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_RR)
    assert not asked()[0]
