"""Diary word problems: the world the embedded reasoner lives in.

A problem is a diary of several people. Every sentence starts with its key, "Month Person", because a causal
model can only use what identifies a sentence for the tokens that follow it. The question asks how much the
first person owns in one month; events after that month, and other people's, do not matter. The reasoning
walks through the events that do, one step each, so a problem's need for thinking tokens is set by *which*
month is asked, not by how long the diary is. Larger numbers make single steps harder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ps_train.questions import Question

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
PEOPLE = ("Sam", "Ana", "Ben", "Mia", "Leo", "Zoe", "Max", "Eva")
ITEMS = ("eggs", "pens", "coins", "books", "cards", "shells", "apples", "stamps")
GAINS = ("finds", "buys", "wins", "gets")
LOSSES = ("loses", "sells", "gives", "drops")
THINK_START, THINK_END = "<think>", "</think>"
FORCED_PREFIX = f"{THINK_END} Answer :"
"""Ends the reasoning and begins the answer; the number follows."""

MAX_STEPS = 8
"""Most events between the start of the diary and the asked month."""
MIN_EVENTS = 5
"""A diary has at least this many events, however early the asked month: prompt length says little."""
MAX_DISTRACTORS = 6
"""Most sentences about other people."""
MAX_NUMBER = 149
"""Largest number in any problem; each number is one token."""
MAX_DOUBLED = 40
"""Largest total that is doubled: keeps numbers near `MAX_NUMBER` rare, and so harder than small ones."""
WAIT_RATE = 0.1
"""Share of steps that are checked once more, which adds tokens no prompt predicts."""

# Kinds of events and how often each is drawn.
EVENT_KINDS = ("add", "subtract", "boxes", "half", "double")
EVENT_WEIGHTS = (0.28, 0.26, 0.20, 0.13, 0.13)
# Largest amount of an add or subtract event: small numbers, or large ones that are harder to work with.
AMOUNT_LIMITS = (12, 45)


@dataclass(frozen=True)
class WordProblem:
    """One problem with its worked solution; all texts are words separated by single spaces."""

    question: str
    reasoning: str
    """What a perfect solver thinks between `<think>` and `</think>`."""
    answer: str
    num_steps: int
    """Events that matter: 1 to `MAX_STEPS`."""
    standing: tuple[tuple[int, str], ...] = ()
    """Where a reasoning comes to results, right or wrong: (its words until then, the result), in order."""
    ends: bool = True
    """The reasoning comes to an end; else it is cut."""

    @property
    def ending(self) -> str:
        """What follows a reasoning that is right."""
        return f"{FORCED_PREFIX} {self.answer}"

    def ending_at(self, words: int) -> str:
        """What follows the first words of the reasoning: its last result, before any the right answer."""
        results = [result for place, result in self.standing if place <= words]
        return f"{FORCED_PREFIX} {results[-1] if results else self.answer}"

    def as_question(self, identifier: str) -> Question:
        """The problem as one line of a question set."""
        return Question(identifier, self.question, self.answer)


def make_problem(
    rng: np.random.Generator,
    max_steps: int = MAX_STEPS,
    max_distractors: int = MAX_DISTRACTORS,
    kinds: Sequence[str] = EVENT_KINDS,
) -> WordProblem:
    """Draw one problem.

    Args:
        rng: Source of randomness.
        max_steps: The number of steps is uniform on 1 to `max_steps`.
        max_distractors: The number of sentences about others is uniform on 0 to `max_distractors`.
        kinds: The events to draw from, among `EVENT_KINDS`; `subtract` where none of them is possible.

    Raises:
        ValueError: If there is no such kind.
    """
    if not kinds or set(kinds) - set(EVENT_KINDS):
        raise ValueError(f"kinds must be among {EVENT_KINDS}, at least one, got {tuple(kinds)}")
    num_steps = int(rng.integers(1, max_steps + 1))
    num_events = int(rng.integers(max(num_steps, min(MIN_EVENTS, max_steps)), max_steps + 1))
    person, *others = (str(p) for p in rng.permutation(PEOPLE)[:3])
    item = str(rng.choice(ITEMS))
    first_month = int(rng.integers(0, len(MONTHS) - num_events))
    limit = int(rng.choice(AMOUNT_LIMITS))

    total = int(rng.integers(1, limit + 1))
    sentences = [(0, f"{MONTHS[first_month]} {person} has {total} {item} .")]
    thoughts = [f"{num_steps} steps .", f"{MONTHS[first_month]} {person} has {total} ."]
    answer = total
    for event in range(1, num_events + 1):
        key = f"{MONTHS[first_month + event]} {person}"
        sentence, thought, check, total = _event(rng, total, item, person, limit, kinds)
        sentences.append((event, f"{key} {sentence} ."))
        if event <= num_steps:
            thoughts.append(f"{key} {thought} .")
            if rng.random() < WAIT_RATE:
                thoughts.append(f"wait , let me check : {check} .")
            answer = total
    for _ in range(int(rng.integers(0, max_distractors + 1))):
        other = str(rng.choice(others))
        event = int(rng.integers(0, num_events + 1))
        start = int(rng.integers(1, limit + 1))
        sentence = f"has {start} {item}" if event == 0 else _event(rng, start, item, other, limit, kinds)[0]
        sentences.append((event, f"{MONTHS[first_month + event]} {other} {sentence} ."))

    # Months in order; within a month the order is random, so that position does not tell whose line it is.
    tie_breaks = rng.random(len(sentences))
    order = sorted(range(len(sentences)), key=lambda i: (sentences[i][0], tie_breaks[i]))
    diary = " ".join(sentences[i][1] for i in order)
    asked = f"How many {item} does {person} have in {MONTHS[first_month + num_steps]} ?"
    return WordProblem(f"{diary} {asked}", " ".join(thoughts), str(answer), num_steps)


def diary_words() -> list[str]:
    """Every word a problem or its solution can contain, numbers last and in order."""
    sentences = "has finds buys wins gets loses sells gives drops packs boxes of away half doubles the"
    questions = "How many does have in ? ."
    thoughts = ", : that is so now steps wait let me check + - x / = Answer"
    words = f"{sentences} {questions} {thoughts}".split()
    return [*words, *MONTHS, *PEOPLE, *ITEMS, *(str(n) for n in range(MAX_NUMBER + 1))]


def _event(
    rng: np.random.Generator, total: int, item: str, person: str, limit: int, kinds: Sequence[str]
) -> tuple[str, str, str, int]:
    """One event that keeps the total within 0 to MAX_NUMBER: (sentence, thought, sum to check, new total)."""
    possible = {
        "add": total < MAX_NUMBER,
        "subtract": total > 0,
        "boxes": total <= MAX_NUMBER - 4,
        "half": total > 0 and total % 2 == 0,
        "double": 0 < total <= MAX_DOUBLED,
    }
    drawn = [kind for kind in kinds if possible[kind]] or ["subtract"]
    weights = np.array([w if k in drawn else 0.0 for k, w in zip(EVENT_KINDS, EVENT_WEIGHTS, strict=True)])
    kind = EVENT_KINDS[rng.choice(len(EVENT_KINDS), p=weights / weights.sum())]
    if kind == "add":
        amount = int(rng.integers(1, min(limit, MAX_NUMBER - total) + 1))
        act, check = f"{rng.choice(GAINS)} {amount}", f"{total} + {amount} = {total + amount}"
        return f"{act} {item}", f"{act} , so {check}", check, total + amount
    if kind == "subtract":
        amount = int(rng.integers(1, min(limit, total) + 1))
        act, check = f"{rng.choice(LOSSES)} {amount}", f"{total} - {amount} = {total - amount}"
        return f"{act} {item}", f"{act} , so {check}", check, total - amount
    if kind == "boxes":
        room = MAX_NUMBER - total
        boxes = int(rng.integers(2, min(6, room // 2) + 1))
        size = int(rng.integers(2, min(9, room // boxes) + 1))
        packed = boxes * size
        act, check = f"packs {boxes} boxes of {size}", f"{total} + {packed} = {total + packed}"
        thought = f"{act} , that is {boxes} x {size} = {packed} {item} , so now {person} has {check}"
        return f"{act} {item}", thought, check, total + packed
    if kind == "half":
        half = total // 2
        check = f"{total} - {half} = {half}"
        return (
            f"gives away half of the {item}",
            f"gives away half , that is {total} / 2 = {half} , so {check}",
            check,
            half,
        )
    check = f"{total} x 2 = {2 * total}"
    return f"doubles the {item}", f"doubles the {item} , so {check}", check, 2 * total
