"""Handover problems: the embedded reasoner's second world, with nothing to calculate.

Three things go from hand to hand, month by month; the question says who has one of them at first and asks who
has it later. A handover does not name the thing, so that every step of the reasoning must look up what the
present holder does next: the answer of a step is half the key of the next. As in a diary (`word_problems.py`)
a sentence begins with its key, "Month Person", months come in order, and the asked month sets how much
thinking is needed.

What earlier drafts taught: where handovers name the thing, the sentence of the asked month alone gives the
answer away (93% right after 16 tokens of thinking); in random order the sentences are too hard to find (16%
after 600 steps of training); and so is the first holder where only a sentence of his own names the thing.
"""

from __future__ import annotations

import numpy as np

from ps_train.embedded.word_problems import (
    ITEMS,
    MAX_DISTRACTORS,
    MAX_STEPS,
    MIN_EVENTS,
    MONTHS,
    PEOPLE,
    WAIT_RATE,
    WordProblem,
)

MAX_OTHER_THINGS = 2
"""Things beside the asked one: a guess among the holders of a month is right once in three times."""
KEEP_RATE = 0.25
"""Share of months in which a holder keeps the thing: a step of 5 tokens, where a handover takes 11."""


def make_handover_problem(
    rng: np.random.Generator, max_steps: int = MAX_STEPS, max_distractors: int = MAX_DISTRACTORS
) -> WordProblem:
    """Draw one problem.

    Args:
        rng: Source of randomness.
        max_steps: The number of steps is uniform on 1 to `max_steps`.
        max_distractors: Most things beside the asked one, up to `MAX_OTHER_THINGS`.
    """
    num_steps = int(rng.integers(1, max_steps + 1))
    num_events = int(rng.integers(max(num_steps, min(MIN_EVENTS, max_steps)), max_steps + 1))
    holders = [str(p) for p in rng.permutation(PEOPLE)[: 1 + min(MAX_OTHER_THINGS, max_distractors)]]
    thing = str(rng.choice(ITEMS))
    first_month = int(rng.integers(0, len(MONTHS) - num_events))

    start = f"{MONTHS[first_month]} {holders[0]} has the {thing} ."
    sentences: list[str] = []
    thoughts = [f"{num_steps} steps .", start]
    answer = holders[0]
    for event in range(1, num_events + 1):
        month = MONTHS[first_month + event]
        before, holders = holders, _next_holders(rng, holders)
        acts = [
            f"{month} {giver} keeps it" if giver == receiver else f"{month} {giver} passes it to {receiver}"
            for giver, receiver in zip(before, holders, strict=True)
        ]
        sentences += [f"{acts[i]} ." for i in rng.permutation(len(acts))]
        if event <= num_steps:
            answer = holders[0]
            moved = before[0] != answer
            thoughts.append(f"{acts[0]} , so {answer} has the {thing} ." if moved else f"{acts[0]} .")
            if rng.random() < WAIT_RATE:
                thoughts.append(f"wait , let me check : {answer} has the {thing} .")
    asked = f"{start} Who has the {thing} in {MONTHS[first_month + num_steps]} ?"
    return WordProblem(f"{' '.join(sentences)} {asked}", " ".join(thoughts), answer, num_steps)


def handover_words() -> list[str]:
    """The words that a diary has not."""
    return ["passes", "keeps", "it", "to", "Who"]


def _next_holders(rng: np.random.Generator, holders: list[str]) -> list[str]:
    """Who has each thing a month later: nobody has two."""
    keeps = rng.random(len(holders)) < KEEP_RATE
    while True:
        drawn = [str(p) for p in rng.permutation(PEOPLE)[: len(holders)]]
        after = [old if kept else new for old, new, kept in zip(holders, drawn, keeps, strict=True)]
        passed_on = all(k or old != new for old, new, k in zip(holders, after, keeps, strict=True))
        if passed_on and len(set(after)) == len(after):
            return after
