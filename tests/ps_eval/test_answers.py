import pytest

from ps_eval.grading.answers import extract_answer, is_correct, reference_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("</think> Answer : 12", "12"),
        ("\n</think>\n\n**Final Answer**\n\\boxed{18}", "18"),
        ("**Final Answer**\n\\boxed{1,200", "1,200"),  # the forced answer ran out of tokens
        ("first \\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so 3 and later $1,200.50.", "$1,200.50"),
        ("The answer is 7, since 3 + 4 is 7 and 9 is not", "7"),
        ("#### -5", "-5"),
        ("no number at all", None),
        ("</think> Answer : Ana", "Ana"),
        ("so the answer is: Ana.", "Ana"),
        ("the answer is Ana", None),  # without a colon the next word may be any
        ("Answer : Ana, who has 3", "3"),  # a number, where there is one, as ever
        ("\\boxed{", None),
    ],
)
def test_the_stated_answer_is_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        ("18", "She makes 9 * 2 = <<9*2=18>>18.\n#### 18", True),
        ("$1,200.00", "#### 1200", True),
        ("18 dollars", "18", True),
        ("0.5", "1/2", True),
        ("-5", "5", False),
        ("19", "18", False),
        ("North", "north.", True),
        ("12 or 13", "12", False),
        ("1/0", "1", False),
        (None, "18", False),
    ],
)
def test_answers_are_graded_by_value(answer: str | None, reference: str, correct: bool) -> None:
    assert is_correct(answer, reference) is correct


def test_a_gsm8k_reference_is_what_follows_the_last_marker() -> None:
    assert reference_answer("2+2 = 4\n#### 4") == "4"
    assert reference_answer(" 4 ") == "4"
