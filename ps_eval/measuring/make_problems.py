"""`ps-eval make-problems`: the embedded models' questions."""

from __future__ import annotations

from pathlib import Path

from ps_train.embedded.problem_families import DIARY, make_problems
from ps_train.embedded.word_problems import MAX_DISTRACTORS, MAX_STEPS
from ps_train.questions import save_questions


def make_problems_command(
    *,
    output: str,
    num_problems: int = 500,
    seed: int = 1,
    max_steps: int = MAX_STEPS,
    max_distractors: int = MAX_DISTRACTORS,
    families: tuple[str, ...] = (DIARY,),
) -> None:
    """Write word problems, the embedded models' world, as a question set.

    Args:
        output: The JSONL file.
        num_problems: How many.
        seed: Another seed gives other problems.
        max_steps: Most steps of a problem, up to 8; the embedded diffusion model is for 3.
        max_distractors: Most sentences about others; the embedded diffusion model is for 2.
        families: Of problems, in turns: diary, or handovers, which checkpoints/tiny-reasoner-two-families
            solves as well, or doubts: a diary's questions, for the reasoner that doubts.

    Raises:
        ValueError: If a number is out of range or there is no such family.
    """
    if num_problems < 1:
        raise ValueError(f"num_problems must be at least 1, got {num_problems}")
    if not 1 <= max_steps <= MAX_STEPS:
        raise ValueError(f"max_steps must lie in 1..{MAX_STEPS}, got {max_steps}")
    if max_distractors < 0:
        raise ValueError(f"max_distractors must be at least 0, got {max_distractors}")
    limits = {"max_steps": max_steps, "max_distractors": max_distractors}
    problems = make_problems(num_problems, seed, families, **limits)
    named = [p.as_question(f"{families[i % len(families)]}-{seed}-{i}") for i, p in enumerate(problems)]
    save_questions(Path(output), named)
