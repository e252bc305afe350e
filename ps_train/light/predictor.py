"""The light predictor: accuracy and use of a question from its text, with numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ps_alloc.files import atomic_path, read_json, write_json
from ps_alloc.predictions import Predictions, check_budgets, uniform_budgets
from ps_train.common.model_card import model_card
from ps_train.common.novelty import Novelty
from ps_train.common.text_features import NUM_TEXT_FEATURES
from ps_train.light.hashing import TextHasher
from ps_train.light.inputs import Numbers, check_questions, count_columns, number_columns, surprise
from ps_train.light.text_curves import TextCurves
from ps_train.question_hashes import save_question_hashes
from ps_train.shipped import resolve_embedded

ARCHITECTURE = "light_text"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
CHUNK = 512
"""Questions predicted at once."""

Curves = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LightSchema:
    """What a light predictor reads and predicts."""

    budgets: list[int]
    """(W,). The token grid."""
    numbers: list[str] = field(default_factory=list)
    """Names of the numbers that it reads beside the text."""
    served_model: str = "unknown"
    """The model whose accuracy is predicted."""
    rising: bool = False
    """Whether accuracy never falls with the budget: so it is where an unfinished answer counts as wrong."""
    has_use: bool = True
    """Whether use was measured; else nothing is said of it."""
    features: dict[str, int] = field(default_factory=dict)
    """None: it runs no language model."""

    @property
    def num_windows(self) -> int:
        """W."""
        return len(self.budgets)

    @property
    def grid(self) -> npt.NDArray[np.int64]:
        """(W,) the budgets."""
        return np.array(self.budgets, np.int64)

    @property
    def window(self) -> int | None:
        """Tokens a window, where the budgets are its multiples; else None."""
        window = self.budgets[0]
        return window if self.budgets == uniform_budgets(window, len(self.budgets)).tolist() else None


class LightPredictor:
    """Hashed n-grams, counts and named numbers → a few scores → curves of accuracy and use.

    Attributes:
        schema: What is read and predicted.
        hasher: How text becomes n-grams.
        arrays: What was learned, by name, as in `model.safetensors`: `ngrams` (D, 1 + R), rarity and weights;
            `dense` (C, R) and `intercept` (R,); `centre` and `scale` (C,) of the counts and numbers;
            `map_centre`, `map_scale`, `map_low`, `map_high` (R,) and `map` (F, T) of `CurveMap`; `mean_curve`
            and `mean_use` (W,).
        training_record: What it learned from, as `training` in config.json, and how well left-out questions
            were predicted.
        training_texts: The questions it learned from, between a fit and `save`: their hashes are kept.
        novelty: Tells questions unlike those, by how surprising their words and letters are; or None.
    """

    architecture = ARCHITECTURE

    def __init__(
        self,
        schema: LightSchema,
        hasher: TextHasher,
        arrays: Mapping[str, npt.NDArray[Any]],
        training_record: Mapping[str, Any] | None = None,
        training_texts: Sequence[str] | None = None,
        novelty: Novelty | None = None,
    ) -> None:
        self.schema, self.hasher = schema, hasher
        self.arrays = dict(arrays)
        self.training_record = dict(training_record or {})
        self.training_texts = training_texts
        self.novelty = novelty
        self.budgets = check_budgets(schema.budgets)
        self._curves = TextCurves.of_arrays(
            hasher, self.arrays, self.budgets, rising=schema.rising, has_use=schema.has_use
        )

    @property
    def window(self) -> int:
        """Tokens a window.

        Raises:
            ValueError: If the predictor's budgets are not the multiples of one.
        """
        if self.schema.window is None:
            raise ValueError(f"the predictor has no window: its budgets are {self.schema.budgets}")
        return self.schema.window

    @property
    def training_mean(self) -> Curves:
        """(W,) the training questions' mean accuracy."""
        return self.arrays["mean_curve"]

    @property
    def mean_use(self) -> Curves:
        """(W,) the training questions' mean use."""
        return self.arrays["mean_use"]

    def check_grid(self, budgets: npt.NDArray[np.int64], what: str) -> None:
        """Refuse a curve table of other budgets than the predictor was trained on.

        Raises:
            ValueError: If they differ; `what` names the table.
        """
        if not np.array_equal(budgets, self.budgets):
            raise ValueError(
                f"{what} must have the predictor's budgets {self.schema.budgets}, got {list(budgets)}"
            )

    def predict(
        self, questions: Sequence[str], *, ids: Sequence[str] | None = None, numbers: Numbers | None = None
    ) -> Predictions:
        """Predict accuracy and use of N questions on the predictor's grid.

        Args:
            questions: N texts, as it was trained on them.
            ids: Names of the questions, to travel with their predictions.
            numbers: The columns of `schema.numbers`, N values each; NaN where one is not known.

        Raises:
            ValueError: If `questions` is not a list of texts, or a column is missing or does not fit.
        """
        check_questions(questions)
        named = number_columns(numbers, self.schema.numbers, len(questions))
        curves = np.empty((len(questions), len(self.budgets)), np.float32)
        use = np.empty_like(curves)
        unlike = np.empty(len(questions), np.bool_)
        for start in range(0, len(questions), CHUNK):
            rows = slice(start, start + CHUNK)
            text = self.hasher(questions[rows])
            columns = np.hstack([count_columns(questions[rows]), named[rows]])
            curves[rows], use[rows], rarity = self._curves(text, columns)
            if self.novelty is not None:
                unlike[rows] = self.novelty.unlike(surprise(text, rarity, self.hasher))
        return Predictions(
            curves,
            self.budgets,
            use=use if self.schema.has_use else None,
            ids=None if ids is None else list(ids),
            unlike=None if self.novelty is None else unlike,
        )

    def predict_curves(self, x: Sequence[str], *, numbers: Numbers | None = None) -> Curves:
        """The accuracy curves of `predict` alone: float32 (N, W)."""
        if not len(x):
            return np.empty((0, len(self.budgets)), np.float32)
        return np.asarray(self.predict(x, numbers=numbers).curves, np.float32)

    def save(self, folder: str | Path) -> None:
        """Write the predictor folder: card, `config.json` and `model.safetensors`, each atomically."""
        folder = Path(folder)
        config = {
            "architecture": self.architecture,
            "schema": asdict(self.schema),
            "settings": {"hasher": asdict(self.hasher)},
            "training": self.training_record,
        }
        arrays = {name: np.ascontiguousarray(values) for name, values in self.arrays.items()}
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(arrays, temporary)
        if self.training_texts is not None:
            save_question_hashes(folder, self.training_texts)
        if self.novelty is not None:
            self.novelty.save(folder)
        with atomic_path(folder / CARD_FILE) as temporary:
            temporary.write_text(model_card(config), encoding="utf-8")
        write_json(folder / CONFIG_FILE, config)

    save_pretrained = save

    def compute_in(self, dtype: Any) -> None:
        """Do nothing: there is no language model to turn to another type."""

    def served_tokenizer(self) -> None:
        """Give None: it reads the text as it is."""

    @classmethod
    def load(cls, folder: str | Path) -> LightPredictor:
        """Read what `save` wrote.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        folder = Path(folder)
        config = read_json(folder / CONFIG_FILE)
        try:
            schema = LightSchema(**config["schema"])
            settings = config["settings"]["hasher"]
            hasher = TextHasher(**{**settings, "letters": tuple(settings["letters"])})
            check_budgets(schema.budgets)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / CONFIG_FILE} must hold a light predictor's schema and settings, but {error!r}"
            ) from error
        try:
            arrays = load_file(folder / WEIGHTS_FILE)
            _check_arrays(schema, hasher, arrays)
            return cls(schema, hasher, arrays, config.get("training"), novelty=Novelty.load(folder))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} must hold the weights its config describes, but {error}"
            ) from error


def is_light(folder: str | Path) -> bool:
    """Whether a folder holds a light predictor; False as well where nothing can be read."""
    path = Path(resolve_embedded(folder)) / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        config = read_json(path)
    except ValueError:  # whoever loads it says what is wrong
        return False
    return isinstance(config, dict) and config.get("architecture") == ARCHITECTURE


def _check_arrays(schema: LightSchema, hasher: TextHasher, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    width, columns = len(schema.budgets), NUM_TEXT_FEATURES + len(schema.numbers)
    scores = len(arrays["intercept"])
    outputs = 2 * width if schema.has_use else width
    shapes = {
        "ngrams": (1 << hasher.bits, 1 + scores),
        "dense": (columns, scores),
        "centre": (columns,),
        "scale": (columns,),
        **{name: (scores,) for name in ("map_centre", "map_scale", "map_low", "map_high")},
        "map": (len(arrays["map"]), outputs),
        "mean_curve": (width,),
        "mean_use": (width,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {arrays[name].shape}")
