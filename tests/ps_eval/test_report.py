from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ps_eval.cli import main
from ps_eval.experiments.record import Claim, ExperimentRecord, Outcome, ResultTable, line_plot
from ps_eval.reporting.report import write_report
from ps_eval.reporting.summary import RunInfo
from ps_train.curve_table import CurveTable

HARDWARE = {"cpu": "a <fast> one", "cores": 2}
RUN = RunInfo({"python": "3.11"}, "abc123", {"budgets": [32]}, 7, HARDWARE, {"x": 1.5})


class Page(HTMLParser):
    """Collects what a page refers to and how its tables are shaped."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "src" in values:
            self.sources.append(values["src"] or "")
        if "href" in values:
            self.links.append(values["href"] or "")
        if "id" in values:
            self.ids.append(values["id"] or "")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    outcome = Outcome(
        [ResultTable("Gains <b>", ["policy | x", "32"], [["a|b & c", "+1.0"]])],
        "It <script>alert(1)</script> gains.",
        {"gain": line_plot({"x": [1.0, 2.0]}, [1, 2], xlabel="", ylabel="")},
        [Claim("cats > dogs", "a paper", "1 of 2", "holds only if")],
    )
    ExperimentRecord.write(
        tmp_path / "one", outcome, name="one", question="Why?", command="ps-eval experiment one", run=RUN
    )
    return tmp_path / "one"


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    table = CurveTable(
        ids=[str(i) for i in range(20)],
        questions=["?"] * 20,
        answers=["1"] * 20,
        curves=np.sort(rng.random((20, 4)), axis=1).astype(np.float32),
        n_traces=np.full(20, 10, np.int32),
        budgets=16,
    )
    table.save(tmp_path / "table")
    flags = ["--budgets", "32,48", "--policies", "uniform,oracle", "--n-resamples", "20"]
    assert main(["replay", "--table", f"{tmp_path}/table", "--output", f"{tmp_path}/replayed", *flags]) == 0
    return tmp_path / "replayed"


def test_the_page_needs_nothing_but_itself(experiment: Path, replayed: Path, tmp_path: Path) -> None:
    text = write_report([experiment, replayed], tmp_path / "out").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert page.links == ["#one", "#replayed"] == [f"#{i}" for i in page.ids]
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)


def test_text_is_shown_and_not_run(experiment: Path, tmp_path: Path) -> None:
    text = write_report([experiment], tmp_path / "out").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "It &lt;script&gt;" in text
    assert "a &lt;fast&gt; one" in text


def test_claims_settings_and_commands_are_there(experiment: Path, replayed: Path, tmp_path: Path) -> None:
    write_report([experiment, replayed], tmp_path / "out")
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        for expected in ("holds only if", "ps-eval experiment one", "abc123", "seed 7", "Why?"):
            assert expected in text, (name, expected)
        assert f"ps-eval replay --table {tmp_path}/table --output {tmp_path}/replayed --budgets 32,48" in text


def test_markdown_tables_keep_their_columns_and_links_lead_somewhere(
    experiment: Path, replayed: Path, tmp_path: Path
) -> None:
    write_report([experiment, replayed], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| policy \\| x | 32 |\n|---|---|\n| a\\|b & c | +1.0 |\n" in text
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 2
    assert all((tmp_path / "out" / picture).is_file() for picture in pictures)


def test_the_command_takes_several_folders(
    experiment: Path, replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(experiment), str(replayed), "--output", f"{tmp_path}/out"]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(["report", str(tmp_path / "table"), "--output", f"{tmp_path}/other"]) == 2
    assert "a run must be a folder with summary.json or experiment.json, got" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs must be at least one folder, got none"):
        write_report([], tmp_path)
