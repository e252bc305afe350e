"""`ps-train novelty`: let a predictor that was saved without it tell questions unlike its own."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ps_train.common.novelty import LEAST_ROWS, NOVELTY_FILE, Novelty
from ps_train.light.predictor import is_light
from ps_train.load import load_predictor
from ps_train.question_hashes import load_question_hashes, seen_in_training
from ps_train.questions import load_questions


def novelty_command(
    *, predictor: str, questions: str, backbone: str | None = None, question_field: str | None = None
) -> None:
    """Read a predictor's training questions once, and keep what tells others from them in its folder.

    A fit does that by itself; this is for folders written before. The weights stay as they are.

    Args:
        predictor: Predictor folder.
        questions: The questions it learned from: JSONL, CSV or Parquet, such as a table's curves.parquet.
        backbone: Language model that reads the questions, instead of the one it names.
        question_field: Column of the questions' texts, where it is not called question or the like.
    """
    if not Path(predictor).is_dir():
        raise ValueError(f"predictor must be a folder that can be written into, got {predictor}")
    if is_light(predictor):
        raise ValueError(f"{predictor} is a light predictor: fit it again, ps-train light, in seconds")
    asked = load_questions(questions, need_answers=False, question_field=question_field)
    texts = [question.question for question in asked]
    if load_question_hashes(predictor) is not None:
        others = len(texts) - seen_in_training(predictor, texts)
        if others:
            raise ValueError(
                f"questions must be those that {predictor} learned from, but {others} of {len(texts)} are not"
            )
    if len(texts) < LEAST_ROWS:
        raise ValueError(f"questions must be at least {LEAST_ROWS}, got {len(texts)}")
    _, columns = load_predictor(predictor, backbone=backbone).read(texts, batch_size=64)
    Novelty.fit(columns).save(predictor)
    written = Path(predictor) / NOVELTY_FILE
    Console().print(f"{written}: from {len(texts)} questions", highlight=False, soft_wrap=True)
