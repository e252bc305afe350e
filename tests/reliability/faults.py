"""Faults that are done to commands, and whether anything is lost or wrong when they have run to their end."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from forked import Ended, ended, run, start
from subjects import SUBJECTS, Seen, Subject, make_inputs, same

MOST_KILLS = 4
"""Of one folder before its command may run to the end."""


@dataclass
class Row:
    """A line of the table."""

    fault: str
    subject: str
    trials: int = 0
    wrong: list[str] = field(default_factory=list)
    """What was lost or wrong, a sentence each."""
    refused: int = 0
    """Trials in which the command said in one sentence why it cannot."""
    kills: int = 0


class Bench:
    """The subjects, their inputs and what each gives undisturbed."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.inputs = folder, folder / "inputs"
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.expected: dict[str, Seen] = {}
        self.seconds: dict[str, float] = {}
        self.sizes: dict[str, int] = {}
        self._count = 0
        make_inputs(self.inputs)

    def fresh(self) -> Path:
        self._count += 1
        folder = self.folder / f"trial-{self._count}"
        folder.mkdir()
        return folder

    def learn(self, subject: Subject) -> None:
        """Run it once undisturbed."""
        if subject.name in self.expected:
            return
        folder = self.fresh()
        how = self.work(subject, folder)
        assert how.code == 0, how.printed[-3000:]
        self.expected[subject.name] = subject.seen(folder)
        self.seconds[subject.name] = how.seconds
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        self.sizes[subject.name] = sum(files)
        shutil.rmtree(folder)

    def work(
        self,
        subject: Subject,
        folder: Path,
        kill_after: float | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> Ended:
        shutil.rmtree(self.inputs / "features", ignore_errors=True)  # a cache, as cold as the folder
        work = lambda: subject.work(self.inputs, folder)  # noqa: E731
        return run(work, self.folder / "log", kill_after=kill_after, before=before)

    def judge(self, row: Row, subject: Subject, folder: Path, how: Ended) -> None:
        """Say in `row` what is lost or wrong after the last run; the folder goes where nothing is."""
        row.trials += 1
        fault = None
        if how.code != 0:
            fault = f"ended with {how.code}: {how.printed[-400:]}"
        else:
            try:
                if not same(self.expected[subject.name], subject.seen(folder), subject.tolerance):
                    fault = "other results than undisturbed"
            except Exception as error:  # whatever reading the results raises is a finding
                fault = f"results cannot be read: {error!r:.300}"
        left = [path for path in folder.rglob(".*") if path.is_file() and path.suffix != ".lock"]
        if fault is None and left and row.fault != "kill -9":
            fault = f"temporary files stay: {[path.name for path in left[:3]]}"
        if fault:
            row.wrong.append(f"{folder.name}: {fault}")
        else:
            shutil.rmtree(folder)


def kill(bench: Bench, subject: Subject, kills: int) -> Row:
    """`kill -9` at random moments, several times over in one folder; then it may run to its end."""
    bench.learn(subject)
    row = Row("kill -9", subject.name)
    while row.kills < kills:
        folder = bench.fresh()
        how = None
        for _ in range(bench.random.randint(1, MOST_KILLS)):
            how = bench.work(subject, folder, bench.random.uniform(0, bench.seconds[subject.name]))
            if how.code is not None:  # it was faster
                break
            row.kills += 1
        if how is None or how.code != 0:
            how = bench.work(subject, folder)
        bench.judge(row, subject, folder, how)
    return row


def full_disk(bench: Bench, subject: Subject, trials: int) -> Row:
    """A file system with too little room, made larger later; where none can be mounted, a limit on files."""
    bench.learn(subject)
    row = Row("disk full", subject.name)
    for _ in range(trials):
        folder = bench.fresh()
        share = bench.random.uniform(0.02, 0.95)
        room = max(4096, int(bench.sizes[subject.name] * share))
        with small_disk(folder, room) as disk:
            how = bench.work(subject, folder, before=disk.limit)
            if how.code not in (0, 2) or "Traceback" in how.printed:
                row.wrong.append(f"{folder.name}: ended with {how.code}: {how.printed[-600:]}")
            row.refused += how.refused
            disk.enlarge()
            _judge_on_disk(bench, row, subject, folder)
    return row


def read_only(bench: Bench, subject: Subject, trials: int) -> Row:
    """A file system that lets nothing be written: refused in one sentence; writable again, it ends well."""
    bench.learn(subject)
    row = Row("read-only", subject.name)
    for _ in range(trials):
        folder = bench.fresh()
        with small_disk(folder, 64 << 20) as disk:
            if not disk.mounted:
                return row
            disk.remount("ro")
            how = bench.work(subject, folder)
            if not how.refused:
                row.wrong.append(f"{folder.name}: not refused but {how.code}: {how.printed[-600:]}")
            row.refused += how.refused
            disk.remount("rw")
            _judge_on_disk(bench, row, subject, folder)
    return row


def two_at_once(bench: Bench, subject: Subject, trials: int) -> Row:
    """The same command twice in one folder at one time: one result, or the second is refused."""
    bench.learn(subject)
    row = Row("two at once", subject.name)
    for _ in range(trials):
        folder = bench.fresh()
        logs = [bench.folder / "log-a", bench.folder / "log-b"]
        since = time.monotonic()
        children = [start(lambda: subject.work(bench.inputs, folder), log) for log in logs]  # noqa: B023
        found: list[Ended | None] = [None, None]
        while None in found:
            for k, (child, log) in enumerate(zip(children, logs, strict=True)):
                found[k] = found[k] or ended(child, log, since)
            if time.monotonic() - since > 300:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                raise TimeoutError(f"{subject.name}: two at once do not end")
            time.sleep(0.01)
        ends = [how for how in found if how is not None]
        if any(how.code not in (0, 2) or "Traceback" in how.printed for how in ends):
            row.wrong.append(f"{folder.name}: {[(how.code, how.printed[-500:]) for how in ends]}")
        row.refused += sum(how.refused for how in ends)
        bench.judge(row, subject, folder, bench.work(subject, folder))
    return row


def clock_jumps(bench: Bench, subject: Subject, trials: int) -> Row:
    """A wall clock that jumps by up to a year, forwards and backwards, at every reading."""
    bench.learn(subject)
    row = Row("clock jumps", subject.name)
    for number in range(trials):

        def jump(number: int = number) -> None:
            draw, real = random.Random(number), time.time
            time.time = lambda: real() + draw.uniform(-3e7, 3e7)

        folder = bench.fresh()
        bench.judge(row, subject, folder, bench.work(subject, folder, before=jump))
    return row


def _judge_on_disk(bench: Bench, row: Row, subject: Subject, folder: Path) -> None:
    """As `Bench.judge`, for a mounted folder, which is emptied instead of taken away."""
    how = bench.work(subject, folder)
    row.trials += 1
    if how.code != 0:
        row.wrong.append(f"{folder.name}: with room again {how.code}: {how.printed[-600:]}")
    elif not same(bench.expected[subject.name], subject.seen(folder), subject.tolerance):
        row.wrong.append(f"{folder.name}: other results than undisturbed")


@dataclass
class Disk:
    """A small file system, or a limit that acts like one."""

    folder: Path
    room: int
    mounted: bool

    def limit(self) -> None:
        """In the child: where nothing is mounted, no file may grow beyond the room."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))

    def enlarge(self) -> None:
        if self.mounted:
            self.remount("size=256m")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[Disk]:
    """A tmpfs of `room` bytes over an empty folder."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # no such command here
        mounted = False
    try:
        yield Disk(folder, room, mounted)
    finally:
        if mounted:
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def by_name(names: list[str] | None = None) -> list[Subject]:
    """Subjects of these names, or all."""
    return [subject for subject in SUBJECTS if names is None or subject.name in names]
