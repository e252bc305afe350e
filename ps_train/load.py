"""`load_predictor`: any predictor's folder, each with no more imports than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ps_train.light.predictor import LightPredictor, is_light
from ps_train.shipped import resolve_embedded

if TYPE_CHECKING:
    from ps_train.predictor import CurvePredictor


def load_predictor(path: str | Path, **options: Any) -> CurvePredictor:
    """Load a trained predictor for inference.

    A light predictor needs numpy alone; the others bring torch and transformers.

    Args:
        path: A predictor folder, one that comes with the package such as `embedded:tiny-predictor`, or a
            Hub id such as `name/predictor`.
        options: `backbone`, `encoder`: language models instead of those named in the config; `allow_code`:
            whether the config may name an architecture of your own, `module:Class`. A light predictor has
            none of them and takes no notice.

    Raises:
        ValueError: If the folder, its config or its weights are missing or damaged.
    """
    path = resolve_embedded(path)
    if is_light(path):
        return LightPredictor.load(path)  # type: ignore[return-value]  # its methods, without torch
    from ps_train.predictor import load_predictor as load_network

    return load_network(path, **options)
