from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_train.embedded.problem_families import make_problems, vocabulary
from ps_train.embedded.word_problems import (
    MAX_NUMBER,
    MAX_STEPS,
    MONTHS,
    WordProblem,
    make_problem,
)

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "x": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


def solve(question: str) -> int:
    """A slow reader's solution from the text of the question alone."""
    diary, asked = question.rsplit(" . ", 1)
    person, month = re.fullmatch(r"How many \w+ does (\w+) have in (\w+) \?", asked).groups()  # type: ignore[union-attr]
    total = 0
    for sentence in diary.split(" . "):
        when, who, act, *rest = sentence.split()
        if who != person or MONTHS.index(when) > MONTHS.index(month):
            continue
        numbers = [int(word) for word in rest if word.isdigit()]
        if act == "has":
            total = numbers[0]
        elif act == "packs":
            total += numbers[0] * numbers[1]
        elif act == "doubles":
            total *= 2
        elif act == "gives" and rest[0] == "away":
            total //= 2
        elif act in ("finds", "buys", "wins", "gets"):
            total += numbers[0]
        else:
            total -= numbers[0]
    return total


@given(st.integers(0, 10_000))
def test_the_answer_is_what_the_diary_says(seed: int) -> None:
    problem = make_problem(np.random.default_rng(seed))
    assert problem.answer == str(solve(problem.question))


@given(st.integers(0, 10_000))
def test_every_equation_of_the_reasoning_holds_and_the_last_gives_the_answer(seed: int) -> None:
    problem = make_problem(np.random.default_rng(seed))
    equations = re.findall(r"(\d+) ([-+x/]) (\d+) = (\d+)", problem.reasoning)
    for a, operation, b, result in equations:
        assert OPERATIONS[operation](int(a), int(b)) == int(result)
    assert equations[-1][3] == problem.answer


@given(st.integers(0, 10_000))
def test_every_word_is_in_the_vocabulary(seed: int) -> None:
    problem = make_problem(np.random.default_rng(seed))
    words = f"{problem.question} {problem.reasoning} {problem.ending.removeprefix('</think>')}".split()
    assert set(words) <= set(vocabulary())


def test_the_vocabulary_has_no_word_twice() -> None:
    assert len(set(vocabulary())) == len(vocabulary())
    assert vocabulary()[-MAX_NUMBER - 1 :] == [str(n) for n in range(MAX_NUMBER + 1)]


def test_a_seed_decides_the_problems() -> None:
    assert make_problems(5, seed=3) == make_problems(5, seed=3)
    assert make_problems(5, seed=3) != make_problems(5, seed=4)


def problem_sizes(problems: list[WordProblem]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prompts = np.array([len(p.question.split()) for p in problems])
    reasonings = np.array([len(p.reasoning.split()) for p in problems])
    return prompts, reasonings, np.array([p.num_steps for p in problems])


def test_the_length_of_the_prompt_says_little_about_the_reasoning_needed() -> None:
    prompts, reasonings, steps = problem_sizes(make_problems(2000, seed=0))
    assert set(steps) == set(range(1, MAX_STEPS + 1))
    assert reasonings.min() >= 16
    assert reasonings.max() <= 240
    assert np.corrcoef(prompts, reasonings)[0, 1] < 0.4
    assert np.corrcoef(steps, reasonings)[0, 1] > 0.9


@pytest.mark.parametrize("limit", [2, 5])
def test_a_curriculum_limits_the_steps(limit: int) -> None:
    assert max(p.num_steps for p in make_problems(200, seed=1, max_steps=limit)) == limit


def test_a_family_of_problems_has_its_own_events_only() -> None:
    words = {"sums": ("boxes", "half", "doubles"), "products": ("finds", "buys", "wins", "gets")}
    sums = make_problems(200, seed=3, kinds=("add", "subtract"))
    products = make_problems(200, seed=3, kinds=("boxes", "half", "double"))
    assert not any(word in p.question.split() for p in sums for word in words["sums"])
    assert not any(word in p.question.split() for p in products for word in words["products"])
    with pytest.raises(ValueError, match=r"kinds must be among .*, at least one, got \('divide',\)"):
        make_problems(1, seed=0, kinds=("divide",))
