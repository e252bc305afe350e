"""Inspect's evaluation logs: `.eval` archives and JSON, read as they lie on the disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ps_eval.logs.sample import (
    CUT,
    Sample,
    as_mapping,
    read_correct,
    read_finished,
    read_name,
    read_text,
    read_tokens,
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


def is_inspect(content: Any) -> bool:
    """Whether JSON is such a log."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("eval"), dict)
        and "samples" in content
        and isinstance(content["samples"], list | None)
    )


def read_eval_archive(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Where each sample stands, the log's `eval` part, and the sample.

    `inspect_ai` reads it where that is installed: it knows every version of the format.

    Raises:
        ValueError: If the file is no such archive, or one compressed in a way that Python cannot read.
    """
    try:
        from inspect_ai.log import read_eval_log  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        yield from _read_zip(path)
        return
    log = json.loads(read_eval_log(str(path)).model_dump_json())
    for number, sample in enumerate(log.get("samples") or [], start=1):
        yield f"{path} sample {number}", log["eval"], sample


def _read_zip(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            start = "header.json" if "header.json" in names else "_journal/start.json"
            header = json.loads(_part(archive, start)) if start in names else {}
            evaluation = header.get("eval", {}) if isinstance(header, dict) else {}
            parts = sorted(name for name in names if name.startswith("samples/") and name.endswith(".json"))
            if not parts:
                raise ValueError(f"{path} must be an Inspect log with samples, but the archive holds none")
            for name in parts:
                yield f"{path} {name}", evaluation, json.loads(_part(archive, name))
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


def scorer_of(sample: Any) -> str | None:
    """The first of a sample's scorers whose value is a grade; None where there are no names or no grade."""
    scores = as_mapping(as_mapping(sample).get("scores"))
    for name, score in scores.items():
        try:
            if isinstance(score, Mapping) and read_correct(score) is not None:
                return name
        except ValueError:
            continue
    return None


def inspect_sample(evaluation: Mapping[str, Any], sample: Any, scorer: str | None = None) -> Sample:
    """Read one sample of a log, as graded by one of its scorers, or by the only one.

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
    limit = sample.get("limit")
    reason = read_name(choice.get("stop_reason")).lower()
    epoch = sample.get("epoch")
    model = read_name(evaluation.get("model"))
    return Sample(
        question_id=read_name(sample.get("id")) or _missing("id"),
        tokens=_output_tokens(sample, output, model),
        correct=_score(sample.get("scores") or sample.get("score"), scorer),
        finished=not limit and (reason not in CUT) and read_finished(None),
        sample=epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else 0,
        question=with_choices(read_text(sample.get("input")), sample.get("choices")),
        reference=read_text(sample.get("target")),
        group=tuple(
            (role, text)
            for role, text in (("task", read_name(evaluation.get("task"))), ("model", model))
            if text
        ),
    )


def _output_tokens(sample: Mapping[str, Any], output: Mapping[str, Any], model: str) -> int:
    """Those of the evaluated model, over all its calls; a grader's are not counted."""
    usage = as_mapping(sample.get("model_usage"))
    found = (
        usage.get(model) or (next(iter(usage.values())) if len(usage) == 1 else None) or output.get("usage")
    )
    if not isinstance(found, Mapping):
        raise ValueError("a sample must say its model's usage")
    # Some providers count reasoning apart, some within the output: never less than either.
    counts = [found.get("output_tokens"), found.get("reasoning_tokens")]
    return (
        max(read_tokens(count) for count in counts if count is not None)
        if any(count is not None for count in counts)
        else _missing("usage.output_tokens")
    )


def _score(scores: Any, scorer: str | None) -> float | None:
    if isinstance(scores, Mapping) and scores and "value" not in scores:
        scores = next(iter(scores.values())) if scorer is None else scores.get(scorer)
    return read_correct(scores)


def _missing(name: str) -> Any:
    raise ValueError(f"a sample must have {name}, got none")
