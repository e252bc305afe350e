"""Files of samples, of whatever kind, to `Sample`s; every row that cannot be read is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ps_eval.logs import native
from ps_eval.logs.columns import all_columns, choose_columns, to_sample
from ps_eval.logs.decisions import Decisions, cap_of, is_decision
from ps_eval.logs.inspect_log import (
    grade_of,
    inspect_sample,
    is_inspect,
    log_samples,
    read_eval_archive,
    scorer_of,
    scores_of,
)
from ps_eval.logs.sample import Sample, as_mapping, read_name
from ps_train.questions import read_rows
from ps_train.text_files import read_lines

MAX_NAMED = 10
"""Faults that are told one by one; the rest are counted."""
HEAD = 1000
"""Rows whose columns are looked at."""
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
    n_unnamed: int = 0
    """Files that do not name the model of all their samples."""
    decisions: Decisions = field(default_factory=Decisions)
    """Those of the gateway among the samples."""
    uuids: set[str] = field(default_factory=set)
    """Of Inspect's samples: a retried log holds again what the failed one had finished."""

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
        read = reading.samples[before:]
        reading.said.append(f"{path}: {kind}; {len(read)} samples")
        reading.n_unnamed += any("model" not in dict(sample.group) for sample in read)
    reading.decisions.grade()
    if not reading.samples:
        reasons = "; ".join(reading.faults) or "there are no rows"
        raise ValueError(f"{', '.join(map(str, files))} must hold samples, but none can be read: {reasons}")
    return reading


def _read_file(path: Path, reading: Reading, columns: Mapping[str, str], numbers: Sequence[str]) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _read_inspect(read_eval_archive(path), reading)
    rows: Iterable[tuple[str, Any]]
    if path.suffix.lower() in TABLE_SUFFIXES or start == b"PAR1":
        rows = ((where, row) for where, _, row in read_rows(path))
    else:
        content = _whole_json(path)
        if is_inspect(content):
            return _read_inspect(log_samples(path, content), reading)
        if isinstance(content, list):
            rows = ((f"{path} entry {n}", row) for n, row in enumerate(content, start=1))
        else:
            rows = _json_lines(path, reading) if content is None else [(str(path), content)]
    objects = _objects(rows, reading)
    first = next(objects, None)
    if first is None:
        return "no rows"
    everything, row = chain([first], objects), first[1]
    if native.is_harness(row):
        return _read_harness(path, everything, reading)
    if native.is_batch(row):
        for where, each in everything:
            _keep(reading, where, partial(native.batch_sample, each))
        return "batch output"
    if native.is_benchmark(row):
        return _read_benchmarks(everything, reading)
    if is_decision(row):
        return _read_decisions(everything, reading)
    return _read_plain(path, everything, reading, columns, numbers)


def _objects(rows: Iterable[tuple[str, Any]], reading: Reading) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, row in rows:
        if isinstance(row, Mapping):
            yield where, row
        else:
            reading.fault(where, f"a row must be a JSON object, got a {type(row).__name__}")


def _read_inspect(samples: Iterable[tuple[str, Mapping[str, Any], Any]], reading: Reading) -> str:
    read, again = [], 0
    for where, head, sample in samples:
        try:
            name = read_name(as_mapping(sample).get("uuid"))
            if name and name in reading.uuids:
                again += 1
                continue
            read.append((where, inspect_sample(head, sample), scores_of(sample)))
            reading.uuids.add(name)
        except ValueError as error:
            reading.fault(where, error)
    scorer = scorer_of(scores for *_, scores in read)
    for where, one, scores in read:
        try:
            one.correct = grade_of(scores, scorer)
            reading.samples.append(one)
        except ValueError as error:
            reading.fault(where, error)
    kind = "Inspect log" if scorer is None else f"Inspect log, scored by {scorer!r}"
    return f"{kind}, {again} samples of a log read before left out" if again else kind


def _read_decisions(rows: Iterable[tuple[str, Mapping[str, Any]]], reading: Reading) -> str:
    before = len(reading.decisions.found)
    for where, row in rows:
        try:
            reading.decisions.read(row)
        except ValueError as error:
            reading.fault(where, error)
    mine = reading.decisions.found[before:]
    reading.samples.extend(sample for sample, _ in mine)
    enforced = any(cap_of(row) is not None for _, row in mine)
    return "the gateway's decisions, " + ("budgets enforced" if enforced else "only observed")


def _read_plain(
    path: Path,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    reading: Reading,
    columns: Mapping[str, str],
    numbers: Sequence[str],
) -> str:
    rows = iter(rows)
    head = list(islice(rows, HEAD))  # a row that failed, or has nothing to say, may lack what the next has
    names = list(dict.fromkeys(name for _, row in head for name in all_columns(row)))
    chosen = choose_columns(names, columns, str(path))
    missing = [name for name in numbers if name not in names]
    if missing:
        raise ValueError(f"numbers must be columns of {path}, {names}, got {missing[0]!r}")
    for where, row in chain(head, rows):
        _keep(reading, where, partial(to_sample, row, chosen, numbers))
    return "rows with " + ", ".join(f"{role} = {column}" for role, column in chosen.items())


def _read_harness(path: Path, rows: Iterable[tuple[str, Mapping[str, Any]]], reading: Reading) -> str:
    used, group = None, native.harness_group(path)
    for where, row in rows:
        try:
            if not native.is_harness(row):
                raise ValueError("a row must have resps and doc")
            filter_name, sample = native.harness_sample(row)
        except ValueError as error:
            reading.fault(where, error)
            continue
        # Each filter scores the same responses again.
        used = used or filter_name
        if filter_name == used:
            sample.group = group
            reading.samples.append(sample)
    return f"lm-evaluation-harness samples, scored by its filter {used!r}"


def _read_benchmarks(contents: Iterable[tuple[str, Mapping[str, Any]]], reading: Reading) -> str:
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


def _keep(reading: Reading, where: str, read: Callable[[], Sample]) -> None:
    try:
        reading.samples.append(read())
    except ValueError as error:
        reading.fault(where, error)


def _json_lines(path: Path, reading: Reading) -> Iterator[tuple[str, Any]]:
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            reading.fault(where, f"a line must be a JSON object, but {error}")


def _whole_json(path: Path) -> Any:
    """The file's content where it is one JSON value; else None, as of JSONL."""
    lines = read_lines(path)
    first = next(lines, None)
    second = next(lines, None)
    if first is None:
        return None
    try:
        value = json.loads(first[1])
    except (ValueError, RecursionError):
        value = None
    if value is not None or second is None:
        return value if second is None else None
    try:
        return json.loads("\n".join(line for _, line in read_lines(path)))
    except (ValueError, RecursionError):
        return None
