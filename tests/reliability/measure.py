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
from dataclasses import dataclass
from pathlib import Path

from subjects import Subject, preload

preload()

import damage  # noqa: E402
import faults  # noqa: E402
from faults import Bench, Row  # noqa: E402
from gateway_kills import kill_gateway  # noqa: E402

from ps_eval.demo import PREDICTOR  # noqa: E402

ON_DISKS = ("trace with features", "answer", "run", "import of samples", "fit, MLP", "fit, light")
AT_ONCE = ("trace", "answer", "run", "import of samples", "fit, light")
WITH_CLOCKS = ("trace", "answer", "run", "import of samples", "fit, MLP")
OTHERS: tuple[tuple[Callable[[Bench, Subject, int], Row], tuple[str, ...]], ...] = (
    (faults.full_disk, ON_DISKS),
    (faults.read_only, ON_DISKS),
    (faults.two_at_once, AT_ONCE),
    (faults.clock_jumps, WITH_CLOCKS),
)
QUICK_SECONDS = 1.0
"""What takes less is killed four times as often; the gateway, which is killed at work, six times."""
PARTS = ("kills", "others", "fuzz")
PAGE = Path(__file__).with_name("page.md").read_text(encoding="utf-8")


@dataclass
class Options:
    kills: int
    """A command."""
    trials: int
    """Of the other faults, a command."""
    fuzz: int
    """Damaged files a format."""
    seed: int
    parts: list[str]


def rows(folder: Path, options: Options) -> Iterator[Row]:
    """All lines of the parts that are asked for, one after another."""
    bench, draw = Bench(folder / "bench", options.seed), random.Random(options.seed)
    (light_fit,) = faults.by_name(["fit, light"])
    learned = bench.fresh()
    assert bench.work(light_fit, learned).code == 0
    predictor = learned / "fit" / "predictor"
    if "kills" in options.parts:
        for subject in faults.by_name():
            bench.learn(subject)
            quick = bench.seconds[subject.name] < QUICK_SECONDS
            yield faults.kill(bench, subject, options.kills * (4 if quick else 1))
        yield kill_gateway(folder / "gateway", predictor, 6 * options.kills, draw)
    for fault, names in OTHERS if "others" in options.parts else ():
        for subject in faults.by_name(list(names)):
            row = fault(bench, subject, options.trials)
            if row.trials:  # none where no file system can be mounted
                yield row
    if "fuzz" in options.parts:
        for number, reader in enumerate(damage.readers(predictor, PREDICTOR)):
            trials = max(1, int(options.fuzz * reader.share))
            yield damage.damage(reader, folder / f"format-{number}", trials, draw)
        for fuzzed, share in ((damage.fuzz_allocator, 5), (damage.fuzz_grader, 3), (damage.fuzz_pacer, 3)):
            yield fuzzed(options.fuzz * share, draw)


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
    parser.add_argument("--kills", type=int, default=10, help="a command")
    parser.add_argument("--trials", type=int, default=3, help="of the other faults, a command")
    parser.add_argument("--fuzz", type=int, default=4000, help="damaged files a format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=PARTS, help="where not all at once"
    )
    parser.add_argument("--rows", type=Path, help="JSON file of the lines, for --together")
    parser.add_argument(
        "--together", type=Path, nargs="+", help="files of earlier --rows: only the page is made"
    )
    parser.add_argument("--output", type=Path, help="page to write")
    given = parser.parse_args()
    options = Options(given.kills, given.trials, given.fuzz, given.seed, given.parts)
    found: list[Row] = []
    seconds = 0.0
    for path in given.together or ():
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [Row(**row) for row in content["rows"]]
        seconds += content["seconds"]
    if not given.together:
        since = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for row in rows(Path(folder), options):
                found.append(row)
                print(f"{row.fault:16} {row.subject:26} {row.trials:7,} trials {row.kills:4} kills", end=" ")
                print(f"{row.refused:7,} refused {len(row.wrong):4} wrong", flush=True)
                for fault in row.wrong[:3]:
                    print(f"    {fault[:600]}", flush=True)
                seconds = time.monotonic() - since
                if given.rows:
                    content = {"rows": [vars(one) for one in found], "seconds": seconds}
                    given.rows.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if given.output:
        said = f"`--kills {given.kills} --trials {given.trials} --fuzz {given.fuzz} --seed {given.seed}`"
        given.output.write_text(page(found, said, seconds), encoding="utf-8")
    return int(any(row.wrong for row in found))


if __name__ == "__main__":
    sys.exit(main())
