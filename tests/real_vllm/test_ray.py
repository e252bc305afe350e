"""Tracing over a Ray cluster: two workers on this machine, each with an engine of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import REASONER

from ps_alloc.predictions import uniform_budgets
from ps_eval.engines import load_engine, load_pool
from ps_eval.engines.base import Engine, Sampling
from ps_eval.engines.pool import EnginePool
from ps_eval.measuring.probing import measure_curves
from ps_eval.spending.live import run_live
from ps_eval.spending.policies import PolicyInputs
from ps_train.embedded.problem_families import make_problems
from ps_train.questions import Question, save_questions

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: make test-vllm")

SETTINGS = {"num_traces": 2, "num_windows": 8, "questions_per_chunk": 4, "sampling": Sampling(0.7, 1.0, 1)}
FILES = ("curves.parquet", "asked_questions.jsonl")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [p.as_question(f"diary-{i}") for i, p in enumerate(make_problems(16, seed=7))]


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    import ray

    # Workers cannot import this file: its functions travel whole.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield load_pool("ray", REASONER, batch_size=16, engine="transformers", workers=2)
    ray.shutdown()


def ps_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user runs it."""
    run = [sys.executable, "-c", "import sys; from ps_eval.cli import main; sys.exit(main(sys.argv[1:]))"]
    return subprocess.run([*run, *arguments], capture_output=True, text=True, timeout=500)


def process_of(engine: Engine, task: int) -> int:
    return os.getpid()


def die_once(engine: Engine, task: int, marker: Path) -> int:
    """The worker that gets task 2 is killed, once."""
    if task == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task * task


def refuse_three(engine: Engine, task: int) -> int:
    if task == 3:
        raise ValueError("three must be another number")
    return task


def test_both_workers_get_tasks_each_in_a_process_of_its_own(pool: EnginePool) -> None:
    found = dict(pool.map(process_of, list(range(24))))
    assert sorted(found) == list(range(24))
    assert os.getpid() not in found.values()
    assert len(set(found.values())) == 2


def test_a_killed_worker_is_replaced_and_its_task_done_again(pool: EnginePool, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    found = dict(pool.map(partial(die_once, marker=marker), list(range(6))))
    assert marker.exists()
    assert found == {task: task * task for task in range(6)}


def test_an_error_in_a_task_arrives_as_it_was_raised(pool: EnginePool) -> None:
    with pytest.raises(ValueError, match="three must be another number"):
        dict(pool.map(refuse_three, list(range(5))))


def test_an_interrupted_trace_keeps_its_chunks_and_ends_in_the_table_of_one_engine(
    pool: EnginePool, questions: list[Question], tmp_path: Path
) -> None:
    engine = load_engine("transformers", REASONER, batch_size=16)
    measure_curves(questions, engine, tmp_path / "one", **SETTINGS)

    def interrupt(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_curves(questions, pool, tmp_path / "many", progress=interrupt, **SETTINGS)
    kept = (tmp_path / "many" / "traces.jsonl").read_text().splitlines()
    assert len(kept) == SETTINGS["questions_per_chunk"]
    measure_curves(questions, pool, tmp_path / "many", **SETTINGS)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_two_vllm_workers_trace_as_one_vllm_engine_does(questions: list[Question], tmp_path: Path) -> None:
    """Each in its own process, as a user runs it: Ray's cluster is the command's own."""
    save_questions(tmp_path / "questions.jsonl", questions)
    ways = {
        "one": ["--engine", "vllm"],
        "many": ["--engine", "ray", "--engine-options.engine", "vllm", "--engine-options.workers", "2"],
    }
    for name, way in ways.items():
        command = ["trace", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(REASONER)]
        command += ["--num-traces", "2", "--num-windows", "8", "--questions-per-chunk", "8"]
        command += ["--temperature", "0.7", "--top-p", "1", "--output", str(tmp_path / name)]
        done = ps_eval(*command, *way, "--engine-options.dtype", "float32")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "16 curves" in done.stdout
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_a_run_and_answers_on_many_workers_are_those_of_one_engine(
    pool: EnginePool, questions: list[Question], tmp_path: Path
) -> None:
    sampling = Sampling(0.7, 1.0, 1)
    engines = {"one": load_engine("transformers", REASONER, batch_size=4), "many": pool}
    rows = {
        name: run_live(
            questions,
            engine,
            PolicyInputs(len(questions), uniform_budgets(16, 8)),
            budgets=[32, 64],
            policies=["uniform"],
            output=tmp_path / name,
            sampling=sampling,
        )
        for name, engine in engines.items()
    }
    assert rows["one"] == rows["many"]
    for cell in ("uniform-32", "uniform-64"):
        answers = [(tmp_path / name / "answers" / f"{cell}.jsonl").read_bytes() for name in engines]
        assert answers[0] == answers[1]

    save_questions(tmp_path / "questions.jsonl", questions)
    command = ["answer", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(REASONER)]
    command += ["--predictor", str(REASONER.parent / "tiny-predictor"), "--budget", "64", "--batch-size", "4"]
    many = ["--engine", "ray", "--engine-options.engine", "transformers", "--engine-options.workers", "2"]
    for name, way in {"one": [], "many": many}.items():
        done = ps_eval(*command, *way, "--output", str(tmp_path / f"{name}.jsonl"))
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()


def test_an_engine_that_a_worker_cannot_load_is_reported_in_one_sentence(
    pool: EnginePool, questions: list[Question], tmp_path: Path
) -> None:
    broken = load_pool("ray", tmp_path / "nothing", engine="transformers", workers=2)
    with pytest.raises(ValueError, match="model must be a folder or a model name transformers can load"):
        measure_curves(questions, broken, tmp_path / "table", **SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "abacus"}, r"engine must be one of \('transformers', .*, got 'abacus'"),
        ({"workers": 0}, "engine_options.workers must be at least 1, got 0"),
        ({"gpus": 1}, "a worker must find its 1 GPU in the cluster, which has 0"),
        ({"cpus": 64}, "a worker must find its 64 CPU in the cluster, which has 2"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(
    pool: EnginePool, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_pool("ray", REASONER, **options)


def test_an_address_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    """In a process of its own, which has no cluster yet."""
    save_questions(tmp_path / "questions.jsonl", [Question("a", "How many ?", "1")])
    command = ["trace", "--questions", str(tmp_path / "questions.jsonl"), "--model", str(REASONER)]
    command += ["--output", str(tmp_path / "table"), "--engine", "ray"]
    command += ["--engine-options.address", "nowhere"]
    done = ps_eval(*command)
    assert done.returncode != 0
    assert "engine_options.address must be a Ray cluster, got 'nowhere': Invalid address" in done.stderr
    assert "Traceback" not in done.stderr
