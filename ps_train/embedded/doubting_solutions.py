"""Doubting solutions: the diary's problems for a reasoner that thinks on after its answer is known.

The question is a diary's (`word_problems`). The reasoning works through it at one of two paces, which no
prompt tells, and states a result. Some sums slip on the way. Then it mostly begins again, "wait , let me
check again", derives everything once more, and says yes or no: a check repairs most slips, confirms what was
right already, and may be followed by another. A few traces never stop checking. So the world has what is seen
of long reasoning models: most tokens come after the answer stands, and some of them are needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from ps_train.embedded.word_problems import GAINS, LOSSES, MAX_NUMBER, WordProblem, make_problem

MAX_DOUBTED_STEPS = 4
"""Most steps of a problem: a check repeats them all."""
MAX_DOUBTED_DISTRACTORS = 2
MAX_THINKING = 320
"""Words at which a trace that never ends is cut; the model sees no end in it."""
SLIP_RATES = (0.02, 0.1)
"""Share of sums that slip where all numbers are small, and where one is large."""
SMALL = 12
"""Largest small number of a diary's events."""
SLIPS = (-10, -2, -1, 1, 2, 10)
CALM = 0.15
"""Share of traces that end with their first result."""
CONTENT = 0.6
"""Share of confirmations that end the trace; after a contradiction it always checks again."""
LOOP_RATE = 0.015
"""Share of checks from which on it does nothing but check."""
STEP_CHECK_RATE = 0.5
"""Share of a slow trace's steps whose sum is checked at once."""


@dataclass(frozen=True)
class _Event:
    """A diary's event of the person asked about."""

    month: str
    kind: str
    act: str
    amount: int
    boxes: tuple[int, int] | None = None

    def after(self, total: int) -> int | None:
        """What the person has then; None where the story forbids it."""
        if self.kind == "half":
            return total // 2 if total > 0 and total % 2 == 0 else None
        new = 2 * total if self.kind == "double" else total + self.amount
        return new if 0 <= new <= MAX_NUMBER else None

    def sums(self, total: int, result: int) -> str:
        """What is calculated, with the result that is written down."""
        if self.kind == "half":
            return f"{total} / 2 = {result}"
        if self.kind == "double":
            return f"{total} x 2 = {result}"
        if self.boxes:
            packed = f"{self.boxes[0]} x {self.boxes[1]} = {self.amount}"
            return f"{packed} , {total} + {self.amount} = {result}"
        return f"{total} {'+' if self.amount > 0 else '-'} {abs(self.amount)} = {result}"


def make_doubting_problem(
    rng: np.random.Generator,
    max_steps: int = MAX_DOUBTED_STEPS,
    max_distractors: int = MAX_DOUBTED_DISTRACTORS,
) -> WordProblem:
    """Draw one problem and one solution of many: the same question can be thought about in other ways.

    Args:
        rng: Source of randomness.
        max_steps: Most steps, up to `MAX_DOUBTED_STEPS`.
        max_distractors: Most sentences about others, up to `MAX_DOUBTED_DISTRACTORS`.
    """
    limits = min(max_steps, MAX_DOUBTED_STEPS), min(max_distractors, MAX_DOUBTED_DISTRACTORS)
    problem = make_problem(rng, *limits)
    person, opening, start, events = _read(problem.question)
    large = max(start, *(abs(e.amount) for e in events)) > SMALL
    slip_rate = SLIP_RATES[large]
    words = f"{len(events)} steps . {opening}".split()
    totals = _totals(rng, start, events, slip_rate)
    slow = rng.random() < 0.5
    for number, event in enumerate(events):
        before, total = totals[number], totals[number + 1]
        act = f"{event.month} {person} {event.act} , so" if slow else f"{event.month} {person}"
        words += f"{act} {event.sums(before, total)} .".split()
        truth = event.after(before)
        if slow and truth is not None and rng.random() < STEP_CHECK_RATE:
            words += f"wait , let me check : {event.sums(before, truth)} .".split()
            if truth != total:
                totals[number + 1 :] = _totals(rng, truth, events[number + 1 :], slip_rate)
    standing = [(len(words), totals[-1])]
    words += f"so {person} has {totals[-1]} .".split()
    ends, looping = rng.random() < CALM, False
    while not ends and len(words) < MAX_THINKING:
        looping = looping or rng.random() < LOOP_RATE
        words += f"wait , {'wait , ' if looping else ''}let me check again . {opening}".split()
        totals = _totals(rng, start, events, slip_rate / 2)
        for number, event in enumerate(events):
            words += f"{event.month} {person} {event.sums(totals[number], totals[number + 1])} .".split()
        agrees = totals[-1] == standing[-1][1]
        standing.append((len(words), totals[-1]))
        words += f"{'yes' if agrees else 'no'} , so {person} has {totals[-1]} .".split()
        ends = agrees and not looping and rng.random() < CONTENT
    return replace(
        problem,
        reasoning=" ".join(words[:MAX_THINKING]),
        standing=tuple((place, str(total)) for place, total in standing if place <= MAX_THINKING),
        ends=ends and len(words) <= MAX_THINKING,
    )


def doubting_words() -> list[str]:
    """The words that a diary has not."""
    return ["again", "yes", "no"]


def _read(question: str) -> tuple[str, str, int, list[_Event]]:
    """Who is asked about, the sentence of his start with its number, and his events up to the asked month."""
    *sentences, asked = question.split(" . ")
    person, month = re.fullmatch(r"How many \w+ does (\w+) have in (\w+) \?", asked).groups()  # type: ignore[union-attr]
    mine = [s.split() for s in sentences if s.split()[1] == person]
    start, events = int(mine[0][3]), [_event(words) for words in mine[1:]]
    months = [words[0] for words in mine]
    return person, f"{months[0]} {person} has {start} .", start, events[: months.index(month)]


def _event(words: list[str]) -> _Event:
    """One sentence, "Month Person verb …", as an event."""
    month, verb, rest = words[0], words[2], words[3:]
    if verb == "doubles":
        return _Event(month, "double", "doubles", 0)
    if verb == "packs":
        boxes = int(rest[0]), int(rest[3])
        return _Event(month, "boxes", f"packs {boxes[0]} boxes of {boxes[1]}", boxes[0] * boxes[1], boxes)
    if rest[0] == "away":
        return _Event(month, "half", "gives away half", 0)
    assert verb in (*GAINS, *LOSSES)
    return _Event(month, "amount", f"{verb} {rest[0]}", int(rest[0]) * (1 if verb in GAINS else -1))


def _totals(rng: np.random.Generator, start: int, events: list[_Event], slip_rate: float) -> list[int]:
    """What the person has before and after each event, by sums that slip where the story still goes on."""
    totals = [start]
    for number, event in enumerate(events):
        truth = event.after(totals[-1])
        assert truth is not None
        slips = rng.random() < slip_rate
        wrong = [truth + int(by) for by in rng.permutation(SLIPS)] if slips else []
        totals.append(next((w for w in wrong if _possible(w, events[number + 1 :])), truth))
    return totals


def _possible(total: int, events: list[_Event]) -> bool:
    """Whether the events can go on from a total without slips."""
    if not 0 <= total <= MAX_NUMBER:
        return False
    for event in events:
        after = event.after(total)
        if after is None:
            return False
        total = after
    return True
