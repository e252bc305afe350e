"""Inspect's evaluation logs: `.eval` archives and JSON, read as they lie on the disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ps_eval.logs.sample import (
    CUT,
    Sample,
    as_mapping,
    output_tokens,
    read_correct,
    read_name,
    read_text,
    with_choices,
)

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    EOFError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
"""Of an archive: damaged, cut, encrypted or nested too deeply."""
MAX_PART_BYTES = 1 << 30
SETTINGS = ("reasoning_effort", "reasoning_tokens", "effort", "max_tokens")
"""Of a log's generation settings, those that tell its samples from another log's of the same model."""


def is_inspect(content: Any) -> bool:
    """Whether JSON is such a log."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("eval"), dict)
        and "samples" in content
        and isinstance(content["samples"], list | None)
    )


def read_eval_archive(path: Path) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Where each sample stands, the log's head, and the sample.

    `inspect_ai` reads it where that is installed: it knows every version of the format.

    Raises:
        ValueError: If the file is no such archive, or one compressed in a way that Python cannot read.
    """
    try:
        from inspect_ai.log import read_eval_log  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        yield from _read_zip(path)
        return
    yield from log_samples(path, json.loads(read_eval_log(str(path)).model_dump_json()))


def log_samples(path: Path, log: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """The same of a log that is read."""
    for number, sample in enumerate(log["samples"] or [], start=1):
        yield f"{path} sample {number}", log, sample


def _read_zip(path: Path) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            start = "header.json" if "header.json" in names else "_journal/start.json"
            head = as_mapping(json.loads(_part(archive, start))) if start in names else {}
            parts = sorted(name for name in names if name.startswith("samples/") and name.endswith(".json"))
            if not parts:
                raise ValueError(f"{path} must be an Inspect log with samples, but the archive holds none")
            for name in parts:
                yield f"{path} {name}", head, json.loads(_part(archive, name))
    except NotImplementedError as error:  # a compression that Python's zipfile lacks
        raise ValueError(
            f"{path} is compressed in a way that needs Inspect's own reader: "
            "pip install 'predictive-scheduling[inspect]'"
        ) from error
    except (*UNREADABLE, OSError) as error:
        raise ValueError(f"{path} must be an Inspect .eval archive, but {error}") from error


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_PART_BYTES:
        raise ValueError(f"{archive.filename} {name} must be at most 1 GiB")
    return archive.read(name)


def scores_of(sample: Any) -> Any:
    """A sample's scores, by their scorers' names."""
    read = as_mapping(sample)
    return read.get("scores") or read.get("score")


def scorer_of(many: Iterable[Any]) -> str | None:
    """Of all samples' scores, the scorer of whose values the largest share are grades, the first of equals.

    None where no scorer has a name, or none grades.
    """
    grades: dict[str, list[bool]] = {}
    for scores in many:
        for name, score in as_mapping(scores).items():
            if isinstance(score, Mapping):
                grades.setdefault(name, []).append(_is_grade(score))
    best = max(grades, key=lambda name: sum(grades[name]) / len(grades[name]), default=None)
    return best if best is not None and any(grades[best]) else None


def grade_of(scores: Any, scorer: str | None) -> float | None:
    """A sample's grade by one of its scorers, or by the only one.

    Raises:
        ValueError: If it is no grade.
    """
    if isinstance(scores, Mapping) and scores and "value" not in scores:
        scores = next(iter(scores.values())) if scorer is None else scores.get(scorer)
    return read_correct(scores)


def inspect_sample(head: Mapping[str, Any], sample: Any) -> Sample:
    """Read one sample of a log of this head, but for its grade.

    Raises:
        ValueError: If it failed, or says not how many tokens it took.
    """
    if not isinstance(sample, Mapping):
        raise ValueError("a sample must be a JSON object")
    if sample.get("error"):
        raise ValueError("the sample failed with an error")
    output = as_mapping(sample.get("output"))
    choices = output.get("choices")
    choice = as_mapping(choices[0]) if isinstance(choices, list) and choices else {}
    epoch = sample.get("epoch")
    evaluation = as_mapping(head.get("eval"))
    model = read_name(evaluation.get("model"))
    named = {"task": read_name(evaluation.get("task")), "model": model, "setting": _setting(head)}
    return Sample(
        question_id=read_name(sample.get("id")) or _missing("id"),
        tokens=_tokens(sample, output, model),
        finished=not sample.get("limit") and read_name(choice.get("stop_reason")).lower() not in CUT,
        sample=epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else 0,
        question=with_choices(read_text(sample.get("input")), sample.get("choices")),
        reference=read_text(sample.get("target")),
        group=tuple((role, text) for role, text in named.items() if text),
    )


def _setting(head: Mapping[str, Any]) -> str:
    """What else than its name decides how long a model thinks: `reasoning_effort=high max_tokens=9000`."""
    model = as_mapping(as_mapping(head.get("eval")).get("model_generate_config"))
    run = as_mapping(as_mapping(head.get("plan")).get("config"))
    found = ((name, read_name(run.get(name)) or read_name(model.get(name))) for name in SETTINGS)
    return " ".join(f"{name}={value}" for name, value in found if value)


def _tokens(sample: Mapping[str, Any], output: Mapping[str, Any], model: str) -> int:
    """Those of the evaluated model, over all its calls; a grader's are not counted."""
    usage = as_mapping(sample.get("model_usage"))
    found = (
        usage.get(model) or (next(iter(usage.values())) if len(usage) == 1 else None) or output.get("usage")
    )
    if not isinstance(found, Mapping):
        raise ValueError("a sample must say its model's usage")
    return output_tokens(found)


def _is_grade(score: Any) -> bool:
    try:
        return read_correct(score) is not None
    except ValueError:
        return False


def _missing(name: str) -> Any:
    raise ValueError(f"a sample must have {name}, got none")
