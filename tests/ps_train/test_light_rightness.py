"""Whether finished answers are right, by the text: learned where texts tell it, a constant where not."""

from __future__ import annotations

import numpy as np
import pytest

from ps_eval.logs.assume import assume_right
from ps_eval.logs.sample import Sample
from ps_train.light.rightness import FEWEST, fit_rightness
from tests.ps_train.light_tables import EASY, FILLER, HARD


def questions(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts, and the share of hard words of each."""
    rng = np.random.default_rng(seed)
    texts, hard = [], []
    for number in range(n):
        words = rng.choice(HARD + EASY, 6)
        hard.append(np.mean([word in HARD for word in words]))
        texts.append(" ".join([*words, *rng.choice(FILLER, 6), str(number)]))
    return texts, np.array(hard)


def graded(n: int, seed: int, *, told: bool = True) -> tuple[list[str], np.ndarray, np.ndarray]:
    texts, hard = questions(n, seed)
    chance = 0.98 - 0.9 * (hard if told else np.random.default_rng(seed + 7).permutation(hard))
    return texts, (np.random.default_rng(seed + 1).random(n) < chance).astype(float), chance


def test_where_texts_tell_it_each_question_has_its_own() -> None:
    texts, correct, _ = graded(600, 0)
    learned = fit_rightness(texts, correct)
    fresh, hard = questions(400, 5)
    truth = 0.98 - 0.9 * hard
    said = learned(fresh)
    assert learned.by_text
    assert np.corrcoef(said, truth)[0, 1] > 0.7
    assert abs(said.mean() - truth.mean()) < 0.04
    for group in (hard < 0.35, hard > 0.65):
        # Nearer to each group than the mean of all.
        assert abs(said[group].mean() - truth[group].mean()) < 0.6 * abs(correct.mean() - truth[group].mean())
    assert ((said >= 0) & (said <= 1)).all()


@pytest.mark.parametrize("n", [FEWEST - 1, 400])
def test_where_they_do_not_or_few_are_graded_it_is_the_mean(n) -> None:
    texts, correct, _ = graded(n, 2, told=n < FEWEST)
    learned = fit_rightness(texts, correct)
    assert not learned.by_text
    np.testing.assert_allclose(learned(["anything", ""]), correct.mean())


def test_equal_grades_and_missing_texts_are_the_mean() -> None:
    texts, correct, _ = graded(200, 3)
    assert fit_rightness(texts, np.ones(200))(["x"]) == pytest.approx(1.0)
    assert not fit_rightness([""] * 200, correct).by_text
    assert fit_rightness(["a", "b"], [0.0, 1.0], [1, 3]).mean == 0.75


def test_feedback_on_some_answers_grades_the_others_by_their_texts() -> None:
    texts, correct, chance = graded(800, 4)
    samples = [
        Sample(f"q{i}", 100, float(right) if i < 500 else None, question=text)
        for i, (text, right) in enumerate(zip(texts, correct, strict=True))
    ]
    samples[0].finished = False  # cut: says nothing of finished answers
    said = assume_right(samples, None)
    assert "by their questions' texts, as 499 graded say" in said
    mine = np.array([sample.correct for sample in samples[500:]])
    assert np.corrcoef(mine, chance[500:])[0, 1] > 0.6
    assert assume_right(samples, None) is None


def test_a_stated_share_wins_and_must_be_one() -> None:
    texts, _, _ = graded(300, 4)
    samples = [Sample(str(i), 9, None if i else 1.0, question=text) for i, text in enumerate(texts)]
    assert "0.7 of those that end are taken to be right" in assume_right(samples, 0.7)
    assert {sample.correct for sample in samples} == {1.0, 0.7}
    with pytest.raises(ValueError, match=r"right must be a share in \[0, 1\], got 2"):
        assume_right(samples, 2)
