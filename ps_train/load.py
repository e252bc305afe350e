"""`load_predictor`: any predictor's folder, each with no more imports than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ps_alloc.files import read_json
from ps_train.light.predictor import LightPredictor, is_light
from ps_train.shipped import resolve_embedded

if TYPE_CHECKING:
    from ps_train.predictor import CurvePredictor


def load_predictor(
    path: str | Path,
    *,
    backbone: str | Path | None = None,
    encoder: str | Path | None = None,
    allow_code: bool = False,
) -> CurvePredictor:
    """Load a trained predictor for inference.

    A light predictor needs numpy alone, and takes no notice of the further arguments; the others bring torch
    and transformers.

    Args:
        path: A predictor folder, one that comes with the package such as `embedded:tiny-predictor`, or a
            Hub id such as `name/predictor`.
        backbone: The language model to read questions with, instead of the one named in the config. A
            relative path in the config is looked up from the predictor folder.
        encoder: Likewise for the second language model of a proxy or hybrid predictor.
        allow_code: Also load a predictor whose config names an architecture of your own, `module:Class`:
            a `CurvePredictor` that takes the schema and its settings. Importing it runs its code.

    Raises:
        ValueError: If the folder, its config or its weights are missing or damaged.
    """
    path = resolve_embedded(path)
    if is_light(path):
        return LightPredictor.load(path)  # type: ignore[return-value]  # its methods, without torch
    from ps_train.common.loading import first_line
    from ps_train.predictor import CurvePredictor
    from ps_train.predictor_files import CONFIG_FILE

    folder = Path(path)
    looks_local = folder.is_absolute() or str(path).startswith(".") or str(path).count("/") != 1
    if not folder.is_dir() and looks_local:
        raise ValueError(f"a predictor must be a folder with {CONFIG_FILE}, got {path}")
    if folder.is_dir() and not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"a predictor must be a folder with {CONFIG_FILE}, but {path} has none")
    try:
        predictor: CurvePredictor = CurvePredictor.from_pretrained(
            str(path), backbone=backbone, encoder=encoder, allow_code=allow_code
        )
    except OSError as error:  # a Hub id that does not exist, or no way to the Hub
        raise ValueError(
            f"a predictor must be a folder or a Hub id, got {path}: {first_line(error)}"
        ) from error
    return predictor


def read_config(path: str | Path) -> dict[str, Any]:
    """What a predictor's config.json says, without loading anything else.

    Raises:
        ValueError: If there is none, or it is none of a predictor.
    """
    from ps_train.predictor_files import CONFIG_FILE, located

    folder = Path(resolve_embedded(path))
    if not folder.is_dir():
        return load_predictor(path).config  # of a hub, or refused in one sentence
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or not all(
        isinstance(config.get(part), dict) for part in ("schema", "settings")
    ):
        raise ValueError(f"{folder / CONFIG_FILE} must hold a predictor's schema and settings")
    for source in ("backbone", "encoder"):
        config["schema"][source] = located(None, config["schema"].get(source), folder)
    return config
