"""All that a run's results depend on, kept beside them: what makes it safe to go on with a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ps_eval.engines.base import Sampling
from ps_eval.run_folder import remember_settings
from ps_train.common.novelty import NOVELTY_FILE

PREDICTOR_FILES = (
    "config.json",
    "model.safetensors",
    "adapter/adapter_model.safetensors",
    NOVELTY_FILE,
)
HASH_BYTES = 8


@dataclass(frozen=True)
class RunSettings:
    """What every token and every grade of a run depends on, questions aside.

    A run goes on only with the settings it was begun with: results of two precisions, formats or graders in
    one table would be a mixture that nothing shows.
    """

    engine: dict[str, Any]
    """`Engine.settings`: kind, model, format, prompt, precision, and the batch size where it matters."""
    sampling: Sampling
    """How reasoning is drawn."""
    grader: str
    """Name and version of what tells right from wrong."""
    predictor: str | None = None
    """`predictor_identity`, where budgets or a guard depend on it."""
    more: dict[str, Any] = field(default_factory=dict)
    """The command's own: numbers of traces and windows, a policy and its budget."""

    def flat(self) -> dict[str, Any]:
        """Name to value, as JSON: what is written and compared."""
        values = {**self.engine, **asdict(self.sampling), "grader": self.grader, **self.more}
        return values if self.predictor is None else {**values, "predictor": self.predictor}

    @property
    def hash(self) -> str:
        """Hexadecimal name of the settings: equal where all of them are."""
        text = json.dumps(self.flat(), sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()

    def guard(self, path: str | Path) -> None:
        """Write the settings with their hash, or check that a run that goes on has the same.

        Args:
            path: The JSON file beside the results.

        Raises:
            ValueError: If the file holds others; the message names each that differs.
        """
        # Through JSON, as the file holds them: tuples become lists.
        remember_settings(path, json.loads(json.dumps({**self.flat(), "hash": self.hash}, default=str)))


def predictor_identity(folder: str | Path) -> str:
    """A predictor's content as a short hash after its folder's name: another training is another predictor.

    A predictor on a hub, which is no folder here, is its name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return str(folder)
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for name in PREDICTOR_FILES:
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return f"{folder.name}@{digest.hexdigest()}"
