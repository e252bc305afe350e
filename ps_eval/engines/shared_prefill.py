"""Where a predictor reads the served model's own states, the engine's prefill gives them for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ps_eval.engines.pool import EnginePool, OneEngine
from ps_eval.engines.prefill import PrefillEngine
from ps_train.common.feature_predictor import FeaturePredictor
from ps_train.common.features import TEXT, Features, layers_by_model
from ps_train.common.prompts import PromptFormat
from ps_train.predictor import CurvePredictor

KEPT_BATCHES = 4
"""Most batches of prompts whose cache is kept from predicting to reasoning; more questions are read twice."""


@contextmanager
def shared_prefill(
    predictor: CurvePredictor, pool: EnginePool, questions: Sequence[str]
) -> Iterator[Features | None]:
    """Read prompts once, for the predictor and for the reasoning inside this context.

    Args:
        predictor: What the states are for.
        pool: Where the questions are then reasoned about.
        questions: N question texts.

    Yields:
        The features that the predictor asks for; None where it does not read this engine's model, in this
        type of numbers, after these prompts, or the questions are too many to keep.
    """
    engine = _prefilling(pool)
    layers = [] if engine is None else _shared_layers(predictor, engine)
    if engine is None or not layers or not 0 < len(questions) <= KEPT_BATCHES * engine.batch_size:
        yield None
        return
    try:
        engine.prefilled = engine.prefill(questions, layers)
        yield engine.prefilled.features
    finally:
        engine.prefilled = None  # the cache is large


def _prefilling(pool: EnginePool) -> PrefillEngine | None:
    """The pool's engine where it is one in this process that gives states."""
    engine: Any = pool.engine if isinstance(pool, OneEngine) else None
    return None if getattr(engine, "prefill_dtype", None) is None else engine


def _shared_layers(predictor: CurvePredictor, engine: PrefillEngine) -> list[int]:
    """The layers of the engine's model that are all that the predictor reads; none where that is not so."""
    if not isinstance(predictor, FeaturePredictor):
        return []
    wanted = layers_by_model(predictor.schema.features)
    same = (
        set(wanted) == {"backbone"}
        and TEXT not in predictor.schema.features
        and _same_model(predictor.schema.backbone, engine.name)
        and engine.prompt == PromptFormat()
        and engine.prefill_dtype == predictor.language_dtype
    )
    return wanted["backbone"] if same else []


def _same_model(backbone: str | Path | None, served: str) -> bool:
    if backbone is None:
        return False
    a, b = Path(backbone), Path(served)
    return a.resolve() == b.resolve() if a.exists() and b.exists() else str(backbone) == served
