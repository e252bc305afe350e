"""Solutions that are checked again after their answer is known: what they say, and what stands when."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ps_train.embedded.doubting_solutions import (
    MAX_DOUBTED_STEPS,
    MAX_THINKING,
    make_doubting_problem,
)
from ps_train.embedded.problem_families import DIARY, DOUBTS, make_problems, vocabulary
from ps_train.embedded.reasoner_data import encode_example
from ps_train.embedded.tiny_tokenizer import build_tokenizer
from ps_train.embedded.word_problems import MAX_NUMBER

PROBLEMS = make_problems(1500, 4, (DOUBTS,))


@given(st.integers(0, 10_000))
def test_what_stands_is_what_the_reasoning_last_stated(seed: int) -> None:
    problem = make_doubting_problem(np.random.default_rng(seed))
    words = problem.reasoning.split()
    assert len(words) <= MAX_THINKING
    assert 1 <= problem.num_steps <= MAX_DOUBTED_STEPS
    for place, result in problem.standing:
        stated = re.match(r"(?:(?:yes|no) , )?so \w+ has (\d+) \.", " ".join(words[place : place + 7]))
        if stated:  # a cut may have taken it
            assert stated[1] == result
        assert problem.ending_at(place).endswith(f" {result}")
        assert words[place - 1] == "."
    first = problem.standing[0][0] if problem.standing else MAX_THINKING + 1
    assert problem.ending_at(first - 1) == problem.ending
    if problem.ends and len(problem.standing) > 1:
        assert problem.standing[-1][1] == problem.standing[-2][1]  # only a confirmation ends the checking


@given(st.integers(0, 10_000))
def test_every_number_is_in_range_and_every_word_known(seed: int) -> None:
    problem = make_doubting_problem(np.random.default_rng(seed))
    known = set(vocabulary((DOUBTS,)))
    assert set(problem.reasoning.split()) | set(problem.question.split()) <= known
    assert max(int(w) for w in problem.reasoning.split() if w.isdigit()) <= MAX_NUMBER


@given(st.integers(0, 10_000))
def test_slips_happen_in_sums_that_the_last_number_alone_gets_wrong(seed: int) -> None:
    """What is written left of each = is a sum of the story; most are right, and a wrong one is near."""
    reasoning = make_doubting_problem(np.random.default_rng(seed)).reasoning
    for a, sign, b, result in re.findall(r"(\d+) ([-+x/]) (\d+) = (\d+)", reasoning):
        x, y = int(a), int(b)
        truth = {"+": x + y, "-": x - y, "x": x * y, "/": x // y}[sign]
        assert abs(int(result) - truth) in (0, 1, 2, 10)


def test_the_world_is_one_of_overthinking() -> None:
    ends = [p.ends for p in PROBLEMS]
    assert 0.7 < np.mean(ends) < 0.95
    first = np.mean([p.standing[0][1] == p.answer for p in PROBLEMS if p.standing])
    last = np.mean([p.standing[-1][1] == p.answer for p in PROBLEMS if p.standing])
    assert 0.75 < first < 0.92
    assert last > first + 0.06  # checks repair
    after = total = 0
    for problem in PROBLEMS:
        length = len(problem.reasoning.split())
        results = [result for _, result in problem.standing]
        stands = next((i for i in range(len(results)) if len(set(results[i:])) == 1), None)
        total += length
        after += 0 if stands is None else length - problem.standing[stands][0]
    assert after / total > 0.35


def test_a_solution_that_never_ends_has_no_end_to_learn_and_branches_say_what_stands() -> None:
    tokenizer = build_tokenizer((DOUBTS,))
    endless = next(p for p in PROBLEMS if not p.ends)
    assert tokenizer.decode(encode_example(endless, tokenizer, []).solution).strip() == endless.reasoning
    repaired = next(p for p in PROBLEMS if p.ends and p.standing[0][1] != p.answer == p.standing[-1][1])
    cuts = [place for place, _ in repaired.standing]
    example = encode_example(repaired, tokenizer, cuts)
    said = [tokenizer.decode(ending).split()[-1].removesuffix("<eos>") for _, ending in example.branches]
    assert said == [result for _, result in repaired.standing]
    assert tokenizer.decode(example.solution).endswith(f"{repaired.ending}<eos>")


def test_a_diarys_words_keep_their_ids() -> None:
    assert vocabulary((DOUBTS,))[: len(vocabulary((DIARY,)))] == vocabulary((DIARY,))
