import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ps_eval.reporting import summary as summary_module
from ps_eval.reporting.frontier import EqualUse
from ps_eval.reporting.summary import (
    PhaseTimer,
    RunInfo,
    Summary,
    SummaryRow,
    collect_run_info,
    load_summary,
    print_table,
)

ROW = SummaryRow(
    mode="live",
    policy="hull",
    budget=64,
    accuracy=0.72,
    low=0.67,
    high=0.77,
    mean_reasoning_tokens=58.25,
    mean_answer_tokens=4.0,
    forced=0.31,
    n=300,
    gain=0.29,
    gain_low=0.24,
    gain_high=0.34,
)
REPLAY_ROW = replace(ROW, mode="replay", mean_answer_tokens=None, forced=None)
RUN = RunInfo(
    {"python": "3.12"}, None, {"table": "runs/x"}, 0, {"cpu": "c", "cores": 2, "gpu": None}, {"a": 1.0}
)


def printed(rows: list[SummaryRow], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(rows, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_summary_read_back_equals_the_one_written(tmp_path: Path) -> None:
    compared = EqualUse("live", "hull", 48.0, 0.7, 0.6, 0.8, {"uniform": [0.1, 0.0, 0.2]})
    written = Summary([ROW, REPLAY_ROW], RUN, [compared])
    path = written.save(tmp_path / "new" / "folder")
    assert path.name == "summary.json"
    assert load_summary(path) == written
    assert load_summary(path.parent) == written


def test_summaries_written_before_use_was_kept_are_read(tmp_path: Path) -> None:
    path = Summary([ROW], RUN).save(tmp_path)
    content = json.loads(path.read_text())
    del content["equal_use"], content["remarks"], content["rows"][0]["mean_granted_tokens"]
    path.write_text(json.dumps(content))
    assert load_summary(path) == Summary([ROW], RUN)


def test_summary_json_has_the_documented_fields(tmp_path: Path) -> None:
    content = json.loads(Summary([ROW], RUN).save(tmp_path).read_text())
    assert set(content) == {"rows", "run", "equal_use", "remarks"}
    documented = {"mode", "policy", "budget", "accuracy", "low", "high", "mean_reasoning_tokens"}
    documented |= {
        "mean_answer_tokens",
        "mean_granted_tokens",
        "forced",
        "n",
        "gain",
        "gain_low",
        "gain_high",
    }
    assert set(content["rows"][0]) == documented
    assert set(content["run"]) == {"versions", "commit", "config", "seed", "hardware", "seconds"}


def test_a_summary_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    Summary([ROW], RUN).save(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Summary([replace(ROW, accuracy=float("nan"))], RUN).save(tmp_path)
    assert load_summary(tmp_path).rows == [ROW]
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a run summary with 'rows' and 'run', got list"),
        ({"rows": []}, r"with 'rows' and 'run', got \['rows'\]"),
        ({"rows": [{"mode": "live"}], "run": {}}, r"row 0 must have the fields .*, got \['mode'\]"),
        ({"rows": [], "run": 3}, "run must have the fields .*, got int"),
        ({"rows": [{**ROW.__dict__, "mode": "dream"}], "run": {}}, "mode must be one of .*, got 'dream'"),
    ],
)
def test_a_file_that_is_no_summary_is_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"summary.json.*{message}"):
        load_summary(path)


def test_a_missing_summary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"summary\.json must be an existing JSON file"):
        load_summary(tmp_path / "summary.json")


def test_run_info_names_versions_hardware_and_settings() -> None:
    info = collect_run_info({"table": Path("runs/table"), "budgets": [32]}, 7, {"replay": 0.5})
    assert info.versions["numpy"] == np.__version__
    assert "vllm" not in info.versions or info.versions["vllm"]
    assert info.config == {"table": "runs/table", "budgets": [32]}
    assert info.hardware["cores"] >= 1
    assert info.hardware["cpu"]
    assert (info.seed, info.seconds) == (7, {"replay": 0.5})
    json.dumps(info.__dict__)


def test_the_commit_is_that_of_the_repository_that_tracks_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    module = tmp_path / "summary.py"
    module.write_text("# code\n")
    git("init", "-q")
    monkeypatch.setattr(summary_module, "__file__", str(module))
    assert collect_run_info({}, 0, {}).commit is None  # in a repository, but not tracked by it
    git("add", "summary.py")
    git("commit", "-qm", "code")
    head = git("rev-parse", "HEAD")
    assert collect_run_info({}, 0, {}).commit == head
    module.write_text("# changed\n")
    assert collect_run_info({}, 0, {}).commit == f"{head}-dirty"


def test_a_phase_entered_twice_adds_up_and_a_failing_one_is_still_timed() -> None:
    timer = PhaseTimer()
    with timer.phase("trace"):
        pass
    first = timer.seconds["trace"]
    with pytest.raises(RuntimeError), timer.phase("trace"):
        raise RuntimeError
    assert timer.seconds["trace"] > first > 0


def test_the_table_shows_accuracy_gain_tokens_and_forced_answers_of_a_live_row() -> None:
    text = printed([ROW])
    for expected in (
        "72.0 [67.0, 77.0]",
        "+29.0 [24.0, 34.0]*",
        "58 + 4 t, 31% forced",
        "n = 300",
        "hull",
        "64",
    ):
        assert expected in text


def test_a_gain_is_starred_only_when_its_interval_is_clear_of_zero() -> None:
    assert "+29.0*" in printed([REPLAY_ROW])
    assert "-29.0*" in printed([replace(REPLAY_ROW, gain=-0.29, gain_low=-0.34, gain_high=-0.24)])
    unclear = printed([replace(REPLAY_ROW, gain_low=-0.01)])
    assert "+29.0" in unclear
    assert "+29.0*" not in unclear


def test_rows_without_a_gain_show_accuracy_alone() -> None:
    text = printed([replace(REPLAY_ROW, gain=None, gain_low=None, gain_high=None)])
    assert "72.0" in text
    assert "+29" not in text


def test_budgets_that_do_not_fit_the_width_go_into_further_grids_unbroken() -> None:
    rows = [
        replace(REPLAY_ROW, budget=budget, policy=p) for budget in range(16, 257, 16) for p in ("mix", "hull")
    ]
    text = printed(rows, width=60)
    assert max(len(line.rstrip()) for line in text.splitlines()[1:]) <= 60
    assert text.count("allowed") >= 3
    assert text.count("72.0") == len(rows)
    assert "…" not in text


def test_live_and_replay_rows_get_a_grid_each() -> None:
    text = printed([REPLAY_ROW, ROW])
    assert text.index("live:") < text.index("replay:")
