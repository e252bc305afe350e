"""Which class reads a predictor's folder: `architecture` in its config, by name or as `module:Class`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ps_alloc.plug_in import is_plug_in, load_plug_in
from ps_train.schema import CurveSchema

if TYPE_CHECKING:
    from ps_train.predictor import CurvePredictor

ARCHITECTURES = {
    "curve_mlp": "ps_train.curve.mlp_net:CurveNet",
    "curve_lora": "ps_train.curve.lora_net:CurveLoraNet",
    "budget_lora": "ps_train.budget.net:BudgetNet",
    "difficulty_lora": "ps_train.difficulty.lora_net:DifficultyNet",
    "difficulty_mlp": "ps_train.difficulty.mlp_net:DifficultyFeatureNet",
}
"""`architecture` in config.json to the class that reads the folder; imported when asked for."""


def build_predictor(
    config: Any,
    *,
    source: str,
    locate: Callable[[CurveSchema], CurveSchema] = lambda schema: schema,
    allow_code: bool = False,
) -> CurvePredictor:
    """Make the predictor that a `CurvePredictor.config` describes, with weights yet to be loaded.

    Args:
        config: As read from JSON or a checkpoint.
        source: Where it was read from, for messages.
        locate: Says where the schema's language models are now.
        allow_code: Take an `architecture` of the form `module:Class`: importing it runs its code.

    Raises:
        ValueError: If the config is damaged or names an unknown architecture.
    """
    architecture = config.get("architecture") if isinstance(config, dict) else None
    target = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if target is None and is_plug_in(architecture):
        if not allow_code:
            raise ValueError(
                f"architecture in {source} is code of your own, {architecture}: it runs only where you allow "
                "it, --allow-code or load_predictor(…, allow_code=True)"
            )
        target = architecture
    if target is None:
        raise ValueError(
            f"architecture in {source} must be one of {sorted(ARCHITECTURES)}, got {architecture!r}; "
            "module:Class for one of your own"
        )
    try:
        schema, settings = CurveSchema(**config["schema"]), dict(config["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source} must hold a predictor's schema and settings, but {error!r}") from error
    kind = load_plug_in(
        target, f"architecture in {source}", ARCHITECTURES, "a CurvePredictor", "module:Class"
    )
    try:
        with torch.device("cpu"):  # whatever the caller's default; a predictor is moved as any module
            predictor: CurvePredictor = kind(locate(schema), **settings)
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"settings in {source} must be those of a {architecture}, but {error}") from error
    predictor.training_record = dict(config.get("training") or {})
    return predictor
