"""The quick form of `make reliability` (docs/reliability.md): a trial of each fault, some of each format."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import damage
import faults
from faults import Bench
from subjects import preload

from ps_eval.demo import PREDICTOR

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork and mount as Linux has them"),
    pytest.mark.filterwarnings("ignore"),  # damaged files make libraries say much
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    preload()
    return Bench(tmp_path_factory.mktemp("reliability"), seed=5)


@pytest.fixture(scope="module")
def light(bench: Bench) -> Path:
    (subject,) = faults.by_name(["fit, light"])
    folder = bench.fresh()
    assert bench.work(subject, folder).code == 0
    return folder / "fit" / "predictor"


@pytest.mark.parametrize("name", ["import of samples", "trace", "answer", "run", "fit, light"])
def test_a_killed_command_loses_nothing(name: str, bench: Bench) -> None:
    (subject,) = faults.by_name([name])
    row = faults.kill(bench, subject, 1)
    assert not row.wrong
    assert row.kills >= 1


@pytest.mark.parametrize("name", ["import of samples", "answer"])
def test_a_full_or_read_only_disk_is_said_and_lived_through(name: str, bench: Bench) -> None:
    (subject,) = faults.by_name([name])
    assert not faults.full_disk(bench, subject, 1).wrong
    assert not faults.read_only(bench, subject, 1).wrong


def test_two_at_once_leave_one_result(bench: Bench) -> None:
    (subject,) = faults.by_name(["import of samples"])
    assert not faults.two_at_once(bench, subject, 2).wrong


def test_damaged_files_of_every_format_are_read_or_refused(light: Path, tmp_path: Path) -> None:
    for number, reader in enumerate(damage.readers(light, PREDICTOR)):
        trials = max(1, int(60 * reader.share))
        row = damage.damage(reader, tmp_path / str(number), trials, random.Random(number))
        assert not row.wrong, f"{reader.name}: {row.wrong[:2]}"
        assert row.refused or trials < 20


def test_calls_with_arguments_of_every_kind_keep_their_word() -> None:
    for fuzzed in (damage.fuzz_allocator, damage.fuzz_grader, damage.fuzz_pacer):
        row = fuzzed(200, random.Random(7))
        assert not row.wrong, row.wrong[:2]


def test_a_finding_is_seen(tmp_path: Path) -> None:
    """The harness itself: a reader that trips over damage, and one that is slow to see it."""
    path = tmp_path / "f"
    good = damage.Reader("naive", lambda folder: path, lambda p: p.read_bytes().decode("ascii")[40])
    path.write_text("x" * 50, encoding="ascii")
    row = damage.damage(good, tmp_path, 40, random.Random(1))
    assert any("IndexError" in fault for fault in row.wrong)
