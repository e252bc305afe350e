"""`make reliability`: every fault on every command and format, as the table of docs/reliability.md.

    python tests/reliability/measure.py --kills 24 --fuzz 4000 --output docs/reliability.md

Lines are printed as they are known; the page is written at the end, and the exit code is 1 where anything
was lost or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from subjects import preload

preload()

import damage  # noqa: E402
import faults  # noqa: E402
from faults import Bench, Row  # noqa: E402
from gateway_kills import kill_gateway  # noqa: E402

from ps_eval.demo import PREDICTOR  # noqa: E402

ON_DISKS = ("trace with features", "answer", "run", "import of samples", "fit, MLP", "fit, light")
AT_ONCE = ("trace", "answer", "run", "import of samples", "fit, light")
WITH_CLOCKS = ("trace", "answer", "run", "import of samples", "fit, MLP")
PAGE = Path(__file__).with_name("page.md").read_text(encoding="utf-8")


def rows(folder: Path, kills: int, fuzz: int, trials: int, seed: int) -> Iterator[Row]:
    """All lines, one after another."""
    bench, draw = Bench(folder / "bench", seed), random.Random(seed)
    (light_fit,) = faults.by_name(["fit, light"])
    learned = bench.fresh()
    assert light_fit.work(bench.inputs, learned) == 0
    predictor = learned / "fit" / "predictor"
    for subject in faults.by_name():
        yield faults.kill(bench, subject, kills)
    yield kill_gateway(folder / "gateway", predictor, kills, draw)
    done: tuple[tuple[Callable[[Bench, faults.Subject, int], Row], tuple[str, ...]], ...] = (
        (faults.full_disk, ON_DISKS),
        (faults.read_only, ON_DISKS),
        (faults.two_at_once, AT_ONCE),
        (faults.clock_jumps, WITH_CLOCKS),
    )
    for fault, names in done:
        for subject in faults.by_name(list(names)):
            row = fault(bench, subject, trials)
            if row.trials:
                yield row
    if not fuzz:
        return
    for number, reader in enumerate(damage.readers(predictor, PREDICTOR)):
        yield damage.damage(reader, folder / f"format-{number}", max(1, int(fuzz * reader.share)), draw)
    for fuzzed, share in ((damage.fuzz_allocator, 5), (damage.fuzz_grader, 3), (damage.fuzz_pacer, 3)):
        yield fuzzed(fuzz * share, draw)


def page(found: list[Row], options: str, seconds: float) -> str:
    """docs/reliability.md."""
    lines = [
        f"| {row.fault} | {row.subject} | {row.trials:,} | {row.refused:,} | **{len(row.wrong)}** |"
        if row.wrong
        else f"| {row.fault} | {row.subject} | {row.trials:,} | {row.refused:,} | 0 |"
        for row in (_kills_as_trials(row) for row in found)
    ]
    return PAGE.format(
        options=options,
        minutes=seconds / 60,
        cores=os.cpu_count(),
        kills=sum(row.kills for row in found),
        most=faults.MOST_KILLS,
        table="\n".join(lines),
    )


def _kills_as_trials(row: Row) -> Row:
    return Row(row.fault, row.subject, row.kills or row.trials, row.wrong, row.refused, row.kills)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="a command")
    parser.add_argument("--trials", type=int, default=6, help="of the other faults, a command")
    parser.add_argument("--fuzz", type=int, default=4000, help="damaged files a format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="page to write")
    parser.add_argument("--log", type=Path, help="file for what was lost or wrong")
    options = parser.parse_args()
    found, since = [], time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for row in rows(Path(folder), options.kills, options.fuzz, options.trials, options.seed):
            found.append(row)
            print(f"{row.fault:16} {row.subject:26} {row.trials:7,} trials {row.kills:4} kills", end=" ")
            print(f"{row.refused:7,} refused {len(row.wrong):4} wrong", flush=True)
            for fault in row.wrong[:3]:
                print(f"    {fault[:600]}", flush=True)
            if options.log:
                options.log.write_text(json.dumps([vars(one) for one in found], indent=1), encoding="utf-8")
    if options.output:
        said = (
            f"`--kills {options.kills} --trials {options.trials} --fuzz {options.fuzz} --seed {options.seed}`"
        )
        options.output.write_text(page(found, said, time.monotonic() - since), encoding="utf-8")
    return int(any(row.wrong for row in found))


if __name__ == "__main__":
    sys.exit(main())
