"""Texts to answers, answers to right or wrong: a `Grader`, chosen by name or brought along."""

from ps_eval.grading.graders import DEFAULT_GRADER, GRADER_NAMES, Grader, load_grader, reference_answer

__all__ = [
    "DEFAULT_GRADER",
    "GRADER_NAMES",
    "Grader",
    "extract_answer",
    "is_correct",
    "load_grader",
    "reference_answer",
]

extract_answer = load_grader().extract
"""What the default grader takes a text's answer to be."""
is_correct = load_grader().is_correct
"""Whether the default grader takes an extracted answer (first) for the reference (second)."""
