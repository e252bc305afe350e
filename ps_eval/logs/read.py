"""Files of samples, of whatever kind, to `Sample`s; every row that cannot be read is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ps_eval.logs import native
from ps_eval.logs.columns import all_columns, choose_columns, to_sample
from ps_eval.logs.decisions import decision_samples, is_decision
from ps_eval.logs.inspect_log import inspect_sample, is_inspect, read_eval_archive, scorer_of
from ps_eval.logs.sample import Sample
from ps_train.questions import read_rows
from ps_train.text_files import read_lines

MAX_NAMED = 10
"""Faults that are told one by one; the rest are counted."""
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass
class Reading:
    """What was found in the files."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """The first `MAX_NAMED` rows that were left out, and why."""
    n_faults: int = 0
    """Rows that were left out."""
    said: list[str] = field(default_factory=list)
    """A file a line: what it was taken for."""

    def fault(self, where: str, why: object) -> None:
        """Leave a row out."""
        self.n_faults += 1
        if len(self.faults) < MAX_NAMED:
            self.faults.append(f"{where}: {why}")

    def groups(self) -> Counter[tuple[tuple[str, str], ...]]:
        """Samples of each task, model and setting."""
        return Counter(sample.group for sample in self.samples)


def read_samples(
    files: Sequence[str], *, columns: Mapping[str, str] | None = None, numbers: Sequence[str] = ()
) -> Reading:
    """Read files of samples: JSONL, CSV, TSV, Parquet, JSON, and the native logs of docs/logs.md.

    Args:
        files: Paths.
        columns: Role (`ps_eval.logs.columns.NAMES`) to the column that holds it, where the name does not say.
        numbers: Further columns to keep.

    Raises:
        ValueError: If a file is missing or of no kind that is read, or if no row of all could be read.
    """
    reading = Reading()
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"samples must be existing files, got {path}")
        before = len(reading.samples)
        kind = _read_file(path, reading, columns or {}, numbers)
        reading.said.append(f"{path}: {kind}; {len(reading.samples) - before} samples")
    if not reading.samples:
        reasons = "; ".join(reading.faults) or "there are no rows"
        raise ValueError(f"{', '.join(map(str, files))} must hold samples, but none can be read: {reasons}")
    return reading


def _read_file(path: Path, reading: Reading, columns: Mapping[str, str], numbers: Sequence[str]) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _read_inspect(read_eval_archive(path), reading)
    if path.suffix.lower() in TABLE_SUFFIXES or start == b"PAR1":
        rows = ((where, row) for where, _, row in read_rows(path))
        return _read_plain(path, rows, reading, columns, numbers)
    content = _whole_json(path)
    if is_inspect(content):
        numbered = enumerate(content["samples"] or [], start=1)
        return _read_inspect(((f"{path} sample {n}", content["eval"], s) for n, s in numbered), reading)
    if native.is_benchmark(content):
        return _read_benchmarks([(str(path), content)], reading)
    if isinstance(content, list):
        rows = ((f"{path} entry {n}", row) for n, row in enumerate(content, start=1))
        return _read_plain(path, rows, reading, columns, numbers)
    return _read_jsonl(path, reading, columns, numbers)


def _read_inspect(samples: Iterable[tuple[str, Mapping[str, Any], Any]], reading: Reading) -> str:
    scorer = None
    for where, evaluation, sample in samples:
        scorer = scorer or scorer_of(sample)
        _keep(reading, where, lambda e=evaluation, s=sample, by=scorer: inspect_sample(e, s, by))
    return "Inspect log" if scorer is None else f"Inspect log, scored by {scorer!r}"


def _read_jsonl(path: Path, reading: Reading, columns: Mapping[str, str], numbers: Sequence[str]) -> str:
    rows = _json_lines(path, reading)
    first = next(rows, None)
    if first is None:
        return "no rows"
    everything = _chain(first, rows)
    if native.is_harness(first[1]):
        return _read_harness(path, everything, reading)
    if native.is_batch(first[1]):
        for where, row in everything:
            try:
                reading.samples.extend(native.batch_samples(row))
            except (ValueError, KeyError, AttributeError) as error:
                reading.fault(where, error)
        return "OpenAI batch output"
    if native.is_benchmark(first[1]):
        return _read_benchmarks(everything, reading)
    if is_decision(first[1]):
        samples, faults, enforced = decision_samples(everything)
        reading.samples.extend(samples)
        for where, why in faults:
            reading.fault(where, why)
        return "the gateway's decisions, " + ("budgets enforced" if enforced else "only observed")
    return _read_plain(path, everything, reading, columns, numbers)


def _read_plain(
    path: Path,
    rows: Iterable[tuple[str, Any]],
    reading: Reading,
    columns: Mapping[str, str],
    numbers: Sequence[str],
) -> str:
    chosen: dict[str, str] | None = None
    for where, row in rows:
        if not isinstance(row, Mapping):
            reading.fault(where, "a row must be an object")
            continue
        if chosen is None:
            names = all_columns(row)
            chosen = choose_columns(names, columns, str(path))
            missing = [name for name in numbers if name not in names]
            if missing:
                raise ValueError(f"numbers must be columns of {path}, {names}, got {missing[0]!r}")
        mapping = chosen
        _keep(reading, where, lambda r=row, m=mapping: to_sample(r, m, numbers))
    if chosen is None:
        return "no rows"
    return "rows with " + ", ".join(f"{role} = {column}" for role, column in chosen.items())


def _read_harness(path: Path, rows: Iterable[tuple[str, Any]], reading: Reading) -> str:
    used, group = None, native.harness_group(path)
    for where, row in rows:
        try:
            if not native.is_harness(row):
                raise ValueError("a row must have resps and doc")
            filter_name, sample = native.harness_sample(row)
        except (ValueError, KeyError) as error:
            reading.fault(where, error)
            continue
        # Each filter scores the same responses again.
        used = used or filter_name
        if filter_name == used:
            sample.group = group
            reading.samples.append(sample)
    return f"lm-evaluation-harness samples, scored by its filter {used!r}"


def _read_benchmarks(contents: Iterable[tuple[str, Any]], reading: Reading) -> str:
    for place, (where, content) in enumerate(contents):
        if not native.is_benchmark(content):
            reading.fault(where, "a result must have output_lens")
            continue
        for number, found in native.benchmark_samples(content):
            if isinstance(found, Sample):
                found.sample = place
                reading.samples.append(found)
            else:
                reading.fault(f"{where} request {number}", found)
    return "serving benchmark, questions by their place in the data set"


def _keep(reading: Reading, where: str, read: Any) -> None:
    try:
        reading.samples.append(read())
    except ValueError as error:
        reading.fault(where, error)


def _chain(first: tuple[str, Any], rest: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    yield first
    yield from rest


def _json_lines(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError, ValueError) as error:
            reading.fault(where, f"a line must be a JSON object, but {error}")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            reading.fault(where, f"a line must be a JSON object, got a {type(row).__name__}")


def _whole_json(path: Path) -> Any:
    """The file's content where it is one JSON value; else None, as of JSONL."""
    lines = read_lines(path)
    first = next(lines, None)
    second = next(lines, None)
    if first is None:
        return None
    try:
        value = json.loads(first[1])
    except (json.JSONDecodeError, RecursionError, ValueError):
        value = None
    if value is not None or second is None:
        return value if second is None else None
    try:
        return json.loads("\n".join(line for _, line in read_lines(path)))
    except (json.JSONDecodeError, RecursionError, ValueError):
        return None
