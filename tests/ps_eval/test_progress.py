from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from ps_eval import progress as module
from ps_eval.progress import show_progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: its only entry is the time."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=written, width=80))
    return written


def test_a_log_says_how_long_it_will_take(seconds: list[float], log: io.StringIO) -> None:
    with show_progress("questions", 100) as advance:
        seconds[0] = 25.0
        advance(10)
        seconds[0] = 30.0
        advance(10)  # too soon for another line
        seconds[0] = 250.0
        advance(80)
    assert log.getvalue().splitlines() == [
        "questions: 10/100 in 25 s, about 4 min to go",
        "questions: 100/100 in 250 s",
    ]


def test_what_an_earlier_run_left_is_no_measure_of_speed(seconds: list[float], log: io.StringIO) -> None:
    with show_progress("questions", 100, kept_first=True) as advance:
        seconds[0] = 60.0  # loading
        advance(90)
        seconds[0] = 100.0
        advance(5)
        seconds[0] = 140.0
        advance(5)
    assert log.getvalue().splitlines() == [
        "questions: 95/100 in 40 s, about 40 s to go",
        "questions: 100/100 in 80 s",
    ]
