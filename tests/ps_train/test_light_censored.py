"""Answers cut by budgets that depend on the question: the truth is found where naive learning misses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ps_train.light.censored import NO_CAP, WORST, Completed, complete, expected, hazard_survival
from ps_train.light.training_inputs import TrainingInputs
from tests.ps_train.light_tables import EASY, FILLER, HARD

GRID = np.array([128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096])


@dataclass
class Traffic:
    questions: list[str]
    hard: np.ndarray
    lengths: np.ndarray
    caps: np.ndarray

    @property
    def finished(self) -> np.ndarray:
        return self.lengths <= self.caps

    @property
    def tokens(self) -> np.ndarray:
        return np.minimum(self.lengths, self.caps)

    def truth(self, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[rows, None]
        return (lengths <= GRID).mean(axis=0), np.minimum(lengths, GRID).mean(axis=0)

    def completed(self):
        return complete(
            TrainingInputs.of(self.questions),
            np.arange(len(self.questions)),
            self.tokens,
            self.finished,
            self.caps,
            GRID,
        )


def traffic(n: int = 800, *, seed: int = 0, explore: float = 0.03, place: int = 3) -> Traffic:
    """Hard questions take longer; budgets follow the question, as a predictor's would, from a place on the
    grid on.
    """
    rng = np.random.default_rng(seed)
    questions, hard = [], []
    for number in range(n):
        words = rng.choice(HARD + EASY, 8)
        hard.append(np.mean([word in HARD for word in words]))
        questions.append(" ".join([*words, *rng.choice(FILLER, 6), str(number)]))
    hardness = np.array(hard)
    lengths = np.exp(rng.normal(5.2 + 2.2 * hardness, 0.6)).astype(np.int64) + 1
    caps = GRID[np.clip((place + 5 * hardness + rng.integers(-1, 2, n)).astype(int), 0, 10)]
    caps = np.where(rng.random(n) < explore, GRID[-1], caps)
    return Traffic(questions, hardness, lengths, caps)


@pytest.fixture(scope="module")
def logged() -> Traffic:
    return traffic()


@pytest.fixture(scope="module")
def found(logged: Traffic) -> Completed:
    return logged.completed()


def test_finishing_and_use_are_unbiased_where_naive_learning_is_not(
    logged: Traffic, found: Completed
) -> None:
    assert 0.2 < (~logged.finished).mean() < 0.5
    finished, use = logged.truth()
    assert np.abs(found.finished.mean(axis=0) - finished).max() < 0.02
    assert np.abs((found.use.mean(axis=0) - use) / GRID).max() < 0.02
    # As if a cut answer had ended there; as if it had never been; as if it never ended.
    ended_there = (logged.tokens[:, None] <= GRID).mean(axis=0)
    left_out = (logged.tokens[logged.finished, None] <= GRID).mean(axis=0)
    never = ((logged.tokens[:, None] <= GRID) & logged.finished[:, None]).mean(axis=0)
    for naive in (ended_there, left_out, never):
        assert np.abs(naive - finished).max() > 0.05


def test_they_are_so_for_easy_and_for_hard_questions(logged: Traffic, found: Completed) -> None:
    for rows in (logged.hard < 0.4, (logged.hard >= 0.4) & (logged.hard < 0.6), logged.hard >= 0.6):
        finished, use = logged.truth(rows)
        assert np.abs(found.finished[rows].mean(axis=0) - finished).max() < 0.06
        assert np.abs((found.use[rows].mean(axis=0) - use) / GRID).max() < 0.04


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("place", "least", "most"), [(3, 0.0, 0.02), (1, 0.02, 0.06), (0, 0.04, 0.12)])
def test_doubt_says_where_estimates_cease_to_be_trusted(place, least, most, seed) -> None:
    logged = traffic(seed=seed, place=place)
    found = logged.completed()
    off = np.abs(found.finished.mean(axis=0) - logged.truth()[0]).max()
    assert least < found.doubt.max() < most
    assert off < max(0.035, WORST * found.doubt.max())


def test_what_was_seen_stays_as_it_is(logged: Traffic, found: Completed) -> None:
    finished = logged.finished
    np.testing.assert_array_equal(found.finished[finished], logged.lengths[finished, None] <= GRID)
    np.testing.assert_allclose(found.use[finished], np.minimum(logged.lengths[finished, None], GRID))
    below = logged.tokens[:, None] >= GRID
    assert found.seen[finished].all()
    np.testing.assert_array_equal(found.seen[~finished], below[~finished])
    assert (found.finished[below & ~finished[:, None]] == 0).all()
    assert (np.diff(found.use, axis=1) >= -1e-9).all()
    assert (found.use <= GRID).all()
    assert (np.diff(found.finished, axis=1) >= -1e-9).all()


def test_without_cuts_nothing_is_estimated() -> None:
    free = traffic(200)
    free.caps[:] = NO_CAP
    found = free.completed()
    assert found.seen.all()
    np.testing.assert_allclose(found.finished.mean(axis=0), free.truth()[0])


def test_hazards_of_one_score_are_the_kaplan_meier_estimate() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(6.5, 0.8, 20_000)).astype(np.int64) + 1
    caps = rng.choice(GRID, 20_000)
    survival = hazard_survival(
        rng.normal(size=20_000), np.minimum(lengths, caps), lengths <= caps, caps, GRID
    )
    np.testing.assert_allclose(survival.mean(axis=0), (lengths[:, None] > GRID).mean(axis=0), atol=0.01)
    # Two different scores, no difference in lengths: the same curve.
    assert np.ptp(survival, axis=0).max() < 0.08


def test_a_cut_answer_is_expected_to_go_on_as_those_that_were_let() -> None:
    survival = np.array([[0.8, 0.4, 0.2]])
    within, use, _ = expected(survival, np.array([100]), np.array([False]), np.array([100, 200, 400]))
    np.testing.assert_allclose(within[0], [0, 0.5, 0.75])
    # 100, then 100 tokens of which on average three quarters are used, then 200 of which 3/8 are.
    np.testing.assert_allclose(use[0], [100, 175, 250])


def test_answers_to_one_question_share_its_score() -> None:
    once = traffic(300)
    twice = Traffic(once.questions, once.hard, np.tile(once.lengths, 2), np.tile(once.caps, 2))
    rows = np.tile(np.arange(300), 2)
    read = TrainingInputs.of(once.questions)
    found = complete(read, rows, twice.tokens, twice.finished, twice.caps, GRID)
    np.testing.assert_allclose(found.finished[:300], found.finished[300:])
    assert np.abs(found.finished.mean(axis=0) - once.truth()[0]).max() < 0.05


def test_questions_that_were_given_up_are_not_taken_to_be_short() -> None:
    """Where a token buys too little, a priced budget is the smallest: the longest answers are cut first."""
    given_up = traffic(1500, seed=3, explore=0.03)
    rng = np.random.default_rng(4)
    few = (given_up.hard > 0.6) & (rng.random(1500) > 0.03)
    given_up.caps[few] = GRID[1]
    assert (~given_up.finished).mean() > 0.5
    finished, use = given_up.truth()
    found = given_up.completed()
    # A handful of long answers was let go on; what is estimated leans to the others, but not far.
    assert np.abs(found.finished.mean(axis=0) - finished).max() < 0.09
    assert np.abs((found.use.mean(axis=0) - use) / GRID).max() < 0.05
    hard = given_up.hard > 0.6
    truth, _ = given_up.truth(hard)
    assert np.abs(found.finished[hard].mean(axis=0) - truth).max() < 0.25
    ended_there = (given_up.tokens[:, None] <= GRID).mean(axis=0)
    assert np.abs(ended_there - finished).max() > 0.2
