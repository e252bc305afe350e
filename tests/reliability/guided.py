"""Inputs found by coverage: every reader is tried with bytes that reach lines which no input reached before.

    python tests/reliability/guided.py --seconds 20 --output guided.json

atheris (libFuzzer; `pip install atheris`, Linux) begins with a good file of each format. As in `damage`,
`ValueError` is the refusal; whatever else is raised, and what takes more than 5 s, is a finding. Returns 1
where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import atheris

os.environ["NUMBA_DISABLE_JIT"] = "1"  # what is watched cannot be compiled
with atheris.instrument_imports(include=["ps_alloc", "ps_train", "ps_eval"]):
    import damage
    import faults

from pydantic import ValidationError

from ps_eval.demo import PREDICTOR


def fuzz(reader: damage.Reader, folder: Path, seconds: int) -> dict[str, Any]:
    """Fuzz one reader in a forked child, which libFuzzer ends."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    path = reader.make(folder)
    reader.read(path)
    (corpus / "good").write_bytes(path.read_bytes())
    refused = folder / "refused"
    child = os.fork()
    if not child:
        _fuzz_for_ever(reader, path, corpus, refused, seconds)
    _, status = os.waitpid(child, 0)
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    trials = re.search(r"stat::number_of_executed_units: (\d+)", log)
    reached = re.findall(r"cov: (\d+)", log)
    return {
        "format": reader.name,
        "trials": int(trials[1]) if trials else 0,
        "refused": refused.stat().st_size if refused.is_file() else 0,
        "reached": int(reached[-1]) if reached else 0,
        "finding": None if os.waitstatus_to_exitcode(status) == 0 else log[-3000:],
    }


def _fuzz_for_ever(reader: damage.Reader, path: Path, corpus: Path, refused: Path, seconds: int) -> None:
    output = os.open(path.parent / "log", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    count = os.open(refused, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            reader.read(path)
        except (ValueError, ValidationError):
            os.write(count, b".")
        except BaseException:
            traceback.print_exc()
            raise

    flags = [f"-max_total_time={seconds}", f"-timeout={damage.SECONDS:.0f}", "-print_final_stats=1"]
    try:
        atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={path.parent}/", str(corpus)], read)
        atheris.Fuzz()
    finally:
        os._exit(70)  # libFuzzer ends the process itself


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="a format")
    parser.add_argument("--formats", nargs="+", help="all by default")
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        bench = faults.Bench(Path(temporary) / "bench")
        (light,) = faults.by_name(["fit, light"])
        learned = bench.fresh()
        assert bench.work(light, learned).code == 0
        for number, reader in enumerate(damage.readers(learned / "fit" / "predictor", PREDICTOR)):
            if given.formats and reader.name not in given.formats:
                continue
            row = fuzz(reader, Path(temporary) / str(number), given.seconds)
            found.append(row)
            print("{format:26} {trials:8,} inputs {refused:8,} refused {reached:5,} places".format(**row))
            if row["finding"]:
                print(row["finding"], flush=True)
            if given.output:
                given.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    findings = sum(row["finding"] is not None for row in found)
    print(f"{sum(row['trials'] for row in found):,} inputs, {findings} findings")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
