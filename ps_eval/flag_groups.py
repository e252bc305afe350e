"""Settings that several commands share, each written once: a parameter of such a type is a flag a field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ps_eval.engines import load_pool
from ps_eval.engines.pool import EnginePool
from ps_train.questions import Question, load_questions


class Columns(TypedDict):
    """What a question set's columns are called, as readers take it."""

    question_field: str | None
    answer_field: str | None
    id_field: str


@dataclass(frozen=True)
class QuestionFlags:
    """The questions."""

    questions: str
    """JSONL, CSV or Parquet with a question a row, and its reference answer where one is graded; GSM8K's and
    MATH's own files are read as they are."""
    limit: int | None = None
    """Only the first questions."""
    question_field: str | None = None
    """Column of the questions' texts, where it is not called question or the like."""
    answer_field: str | None = None
    """Column of the references, likewise."""
    id_field: str = "id"
    """Column of the ids."""

    @property
    def columns(self) -> Columns:
        """The three, as keyword arguments of what reads questions."""
        return Columns(
            question_field=self.question_field, answer_field=self.answer_field, id_field=self.id_field
        )

    def load(self, *, need_answers: bool = True) -> list[Question]:
        """Read them.

        Raises:
            ValueError: As `ps_train.questions.load_questions`.
        """
        return load_questions(self.questions, self.limit, need_answers=need_answers, **self.columns)


@dataclass(frozen=True)
class EngineFlags:
    """What runs the model."""

    engine: str = "transformers"
    """transformers, vllm, vllm-native, openai (a server), ray (a cluster), or module:Class of your own."""
    engine_options: dict[str, Any] | None = None
    """Of the engine's own, such as --engine-options.dtype bfloat16; docs/vllm.md has them."""
    format: dict[str, Any] | None = None
    """How the model ends its reasoning and is made to answer, such as --format.think_end '</think>'."""
    prompt: dict[str, Any] | None = None
    """What is put around a question, such as --prompt.system 'Be brief.'"""
    batch_size: int = 128
    """Sequences decoded at once."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `load_engine` and `load_pool`."""
        given = {"format": self.format, "prompt": self.prompt}
        return {
            "batch_size": self.batch_size,
            **(self.engine_options or {}),
            **{name: value for name, value in given.items() if value},
        }

    def load(self, model: str | Path) -> EnginePool:
        """Load a model.

        Raises:
            ValueError: As `load_pool`.
        """
        return load_pool(self.engine, model, **self.arguments)


@dataclass(frozen=True)
class Allowed:
    """What is refused without them."""

    allow_other_model: bool = False
    """Go on although the predictor learned from another model's answers."""
    allow_other_grader: bool = False
    """Go on although another grader graded what the predictor learned from."""
    allow_code: bool = False
    """Run a predictor whose config names an architecture of your own, module:Class: loading it runs code."""
