from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps_train.embedded.handover_problems import MAX_OTHER_THINGS, make_handover_problem
from ps_train.embedded.problem_families import DIARY, FAMILIES, HANDOVERS, make_problems, vocabulary
from ps_train.embedded.word_problems import ITEMS, MAX_STEPS, MONTHS


def solve(question: str) -> str:
    """A slow reader's solution from the text of the question alone."""
    story, start, asked = question.rsplit(" . ", 2)
    thing, asked_month = re.fullmatch(r"Who has the (\w+) in (\w+) \?", asked).groups()  # type: ignore[union-attr]
    sentences = [s.split() for s in story.split(" . ")]
    _, holder, has, _, named = start.split()
    assert (has, named) == ("has", thing)
    for month in MONTHS[: MONTHS.index(asked_month) + 1]:
        for when, who, act, *rest in sentences:
            if (when, who, act) == (month, holder, "passes"):
                holder = rest[-1]
                break
    return holder


@given(st.integers(0, 10_000))
def test_the_answer_is_who_has_it_when_one_follows_it(seed: int) -> None:
    problem = make_handover_problem(np.random.default_rng(seed))
    assert problem.answer == solve(problem.question)


@given(st.integers(0, 10_000))
def test_each_step_of_the_reasoning_is_a_sentence_of_the_question_and_the_last_holder_the_answer(
    seed: int,
) -> None:
    problem = make_handover_problem(np.random.default_rng(seed))
    steps, start, *looked_up = problem.reasoning.removesuffix(" .").split(" . ")
    looked_up = [step.split(" , so ")[0] for step in looked_up if not step.startswith("wait")]
    assert steps == f"{problem.num_steps} steps"
    assert len(looked_up) == problem.num_steps
    assert all(f"{sentence} ." in problem.question for sentence in [start, *looked_up])
    holders = re.findall(r"(\w+) (?:has|keeps)", problem.reasoning)
    assert holders[-1] == problem.answer


@given(st.integers(0, 10_000))
def test_a_month_has_a_sentence_for_each_holder_and_none_names_the_thing(seed: int) -> None:
    """Else the sentence of the asked month would give the answer away."""
    problem = make_handover_problem(np.random.default_rng(seed))
    sentences = [s.split() for s in problem.question.split(" . ")[:-2]]
    keys = [(month, person) for month, person, *_ in sentences]
    assert len(set(keys)) == len(keys)
    months = Counter(month for month, _ in keys)
    assert set(months.values()) == {1 + MAX_OTHER_THINGS}
    assert not any(set(words) & set(ITEMS) for words in sentences)
    receivers = Counter((words[0], words[-1]) for words in sentences if words[2] == "passes")
    assert set(receivers.values()) <= {1}


@pytest.mark.parametrize("limit", [2, 5])
def test_a_curriculum_limits_the_steps(limit: int) -> None:
    problems = make_problems(200, 1, (HANDOVERS,), max_steps=limit, max_distractors=0)
    assert max(p.num_steps for p in problems) == limit


def test_the_length_of_the_prompt_says_little_about_the_reasoning_needed() -> None:
    problems = make_problems(2000, 0, (HANDOVERS,))
    prompts = np.array([len(p.question.split()) for p in problems])
    reasonings = np.array([len(p.reasoning.split()) for p in problems])
    assert {p.num_steps for p in problems} == set(range(1, MAX_STEPS + 1))
    assert reasonings.max() <= 180
    assert np.corrcoef(prompts, reasonings)[0, 1] < 0.5


def test_families_take_turns_and_a_seed_decides_them() -> None:
    mixed = make_problems(6, 3, (DIARY, HANDOVERS))
    assert ["Who" in p.question for p in mixed] == [False, True] * 3
    assert mixed == make_problems(6, 3, (DIARY, HANDOVERS))
    assert mixed != make_problems(6, 4, (DIARY, HANDOVERS))


@pytest.mark.parametrize("families", [(DIARY,), (HANDOVERS,), (HANDOVERS, DIARY)])
def test_every_word_is_in_the_vocabulary_of_its_families(families: tuple[str, ...]) -> None:
    words = vocabulary(families)
    assert len(set(words)) == len(words)
    for problem in make_problems(300, 0, families):
        text = f"{problem.question} {problem.reasoning} {problem.ending.removeprefix('</think>')}"
        assert set(text.split()) <= set(words)


def test_a_larger_vocabulary_keeps_the_ids_of_a_smaller_one() -> None:
    both = vocabulary(tuple(FAMILIES))
    assert both[: len(vocabulary())] == vocabulary()
    assert both == vocabulary(tuple(reversed(FAMILIES)))


@pytest.mark.parametrize("families", [(), ("riddles",), (DIARY, DIARY)])
def test_families_that_are_not_there_are_refused(families: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"families must be among \(.diary., .handovers., .doubts.\), at least one"
    ):
        make_problems(1, 0, families)
    with pytest.raises(ValueError, match="families must be among"):
        vocabulary(families)
