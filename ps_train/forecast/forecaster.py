"""A forecaster in a folder: traces under way → accuracy and use for every later budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from ps_alloc._checks import one_line
from ps_alloc.files import atomic_path, read_json, write_json
from ps_alloc.predictions import check_budgets
from ps_train.forecast.net import ForecastNet
from ps_train.forecast.trace_features import TokenTrace, TraceFeatures, dense_counts
from ps_train.light.hashing import TextHasher

Float = npt.NDArray[np.float64]
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VERSION = 1
QUESTION_BITS = 10


@dataclass(frozen=True)
class Forecast:
    """What is expected of N traces that stand at one point of the grid, W' budgets ahead of them."""

    budgets: npt.NDArray[np.int64]
    """(W',) tokens, all beyond `elapsed`; W' may be 0."""
    elapsed: int
    """Tokens that each has used."""
    now: Float
    """(N,) accuracy if it answered now."""
    curves: Float
    """(N, W') accuracy under each budget ahead."""
    use: Float
    """(N, W') tokens expected to be used in all under each."""


@dataclass(frozen=True)
class ForecastSchema:
    """What a forecaster reads and speaks of."""

    budgets: list[int]
    """(W,) tokens."""
    prompt: dict[str, int]
    """The prompt's features, name to width; none: the question's words, hashed."""
    trace: TraceFeatures = field(default_factory=TraceFeatures)

    def __post_init__(self) -> None:
        check_budgets(self.budgets)

    @property
    def prompt_size(self) -> int:
        """Numbers that are known of a prompt."""
        return sum(self.prompt.values()) or 2 ** (QUESTION_BITS - 1)

    @property
    def input_size(self) -> int:
        """D."""
        return self.prompt_size + self.trace.size


class Forecaster:
    """Reads a prompt and what its trace has shown, on any engine that tells tokens' probabilities."""

    def __init__(self, schema: ForecastSchema, net: ForecastNet, settings: Mapping[str, Any]) -> None:
        self.schema, self.net, self.settings = schema, net.eval(), dict(settings)

    def prompts(
        self, questions: Sequence[str], features: Mapping[str, npt.NDArray[np.floating]] | None = None
    ) -> npt.NDArray[np.float32]:
        """What is known of N prompts, (N, P), for `forecast`.

        Args:
            questions: N texts; read where the schema names no features.
            features: The features the schema names, (N, width) each.

        Raises:
            ValueError: If one of them is missing or of another width.
        """
        if not self.schema.prompt:
            return hashed_questions(questions)
        return prompt_features(self.schema.prompt, features or {})

    def forecast(
        self, prompts: npt.NDArray[np.float32], traces: Sequence[TokenTrace], passed: int
    ) -> Forecast:
        """Look ahead from N traces that stand at one point of the grid.

        Args:
            prompts: (N, P) from `prompts`.
            traces: N traces; their first tokens are looked at.
            passed: Budgets of the grid that they have used up: 0 before the first token.

        Raises:
            ValueError: If the grid has no such point.
        """
        grid = np.array([0, *self.schema.budgets])
        if not 0 <= passed < len(grid):
            raise ValueError(f"passed must be at least 0 and at most {len(grid) - 1}, got {passed}")
        elapsed = int(grid[passed])
        shown = self.schema.trace([(trace, elapsed) for trace in traces], int(grid[-1]))
        with torch.inference_mode():
            accuracies, hazards = self.net(torch.from_numpy(np.hstack([prompts, shown])))
            right = accuracies.double().sigmoid().mean(0).numpy()
            survival = (-hazards.double()).sigmoid().cumprod(-1).mean(0).numpy()
        ahead = len(grid) - 1 - passed
        steps = np.diff(grid)[passed:]
        return Forecast(
            budgets=grid[passed + 1 :],
            elapsed=elapsed,
            now=right[:, 0],
            curves=right[:, 1 : ahead + 1],
            use=elapsed + np.cumsum(survival[:, :ahead] * steps, axis=1),
        )

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_FILE) as part:
            save_file(self.net.state_dict(), part)
        config = {"forecaster": VERSION, "schema": asdict(self.schema), "settings": self.settings}
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: str | Path) -> Forecaster:
        """Read what `save` wrote.

        Raises:
            ValueError: If there is no forecaster, it is damaged, or another version's.
        """
        config = read_json(Path(folder) / CONFIG_FILE)
        version = config.get("forecaster") if isinstance(config, dict) else None
        if version != VERSION:
            raise ValueError(f"{folder} must hold a forecaster of version {VERSION}, got {version!r}")
        try:
            schema, settings = dict(config["schema"]), config["settings"]
            trace = TraceFeatures(**schema.pop("trace"))
            whole = ForecastSchema(**schema, trace=trace)
            net = new_net(whole, settings)
            weights = load_file(Path(folder) / WEIGHTS_FILE)
            net.load_state_dict(weights)
        except Exception as error:  # safetensors and torch raise types of their own for a damaged file
            raise ValueError(f"{folder} must hold a whole forecaster, but {one_line(error)}") from error
        if bad := [name for name, values in weights.items() if values.isnan().any()]:
            raise ValueError(f"{folder} must hold weights that are numbers, but {bad[0]} has others")
        return cls(whole, net, settings)


def new_net(schema: ForecastSchema, settings: Mapping[str, Any]) -> ForecastNet:
    """An untrained network."""
    return ForecastNet(
        schema.input_size,
        len(schema.budgets),
        list(settings["hidden_sizes"]),
        settings["num_members"],
        settings["dropout"],
    )


def prompt_features(
    widths: Mapping[str, int], features: Mapping[str, npt.NDArray[np.floating]]
) -> npt.NDArray[np.float32]:
    """Named features side by side, (N, P).

    Raises:
        ValueError: If one is missing or of another width.
    """
    for name, width in widths.items():
        found = features[name].shape[1] if name in features else None
        if found != width:
            raise ValueError(f"features must hold {name!r} of width {width}, got {found}")
    return np.hstack([np.asarray(features[name], np.float32) for name in widths])


def hashed_questions(questions: Sequence[str]) -> npt.NDArray[np.float32]:
    """Logarithms of the counts of hashed words and pairs of words of N questions, (N, 2**(bits - 1))."""
    hasher = TextHasher(bits=QUESTION_BITS, words=2, letters=(0, 0))
    return dense_counts(hasher(questions), QUESTION_BITS)
