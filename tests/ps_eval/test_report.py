from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ps_alloc.files import write_json
from ps_eval.cli import main, settings_of
from ps_eval.reporting.record import Claim, ExperimentRecord, Outcome, ResultTable, line_plot
from ps_eval.reporting.report import write_report
from ps_eval.reporting.sections import headline, read_section
from ps_eval.reporting.summary import RunInfo, SummaryRow
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
    assert page.links == ["#one", "#replayed"]
    assert page.ids == ["claims-of-the-sources", "one", "replayed"]
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


def test_the_command_of_a_run_can_be_typed_again(replayed: Path) -> None:
    section = read_section(replayed)
    name, *flags = shlex.split(section.command)[1:]
    again = settings_of([name, *flags])
    assert list(again["budgets"]) == [32, 48]
    assert "False" not in section.command


def test_policies_at_equal_tokens_used_come_before_those_allowed_the_same(replayed: Path) -> None:
    content = json.loads((replayed / "summary.json").read_text())
    row = {"mode": "replay", "policy": "uniform", "used": 32.0, "accuracy": 0.4, "low": 0.3, "high": 0.5}
    better = {**row, "policy": "use", "accuracy": 0.5, "gains": {"uniform": [0.1, 0.05, 0.15]}}
    mix, greedy = (
        {**better, "policy": policy, "accuracy": accuracy}
        for policy, accuracy in (("mix", 0.43), ("myopic", 0.45))
    )
    write_json(replayed / "summary.json", {**content, "equal_use": [row, better, mix, greedy]})
    section = read_section(replayed)
    assert section.headline == (
        "At 32 tokens really used a question (replay): priced by use (ours) is right on 50.0%, uniform on "
        "40.0% and myopic greedy (the paper's) on 45.0%; +10.0 points over uniform [+5.0, +15.0]."
    )
    first = section.grids[0]
    assert first.columns == ["32"]
    assert [(cell.value, cell.note, cell.clear) for _, _, (cell,) in first.rows] == [
        ("40.0", "", False),
        ("50.0", "+10.0", True),
        ("43.0", "+10.0", True),
        ("45.0", "+10.0", True),
    ]
    assert "allowed" in section.grids[1].corner


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
    said = capsys.readouterr().err
    assert "a run must be a folder with experiment.json, summary.json, sweep.json, " in said
    assert "or assessment.json, got" in said
    assert not (tmp_path / "other").exists()


def test_the_finding_comes_first_and_says_by_how_much() -> None:
    measured = SummaryRow("replay", "hull", 48, 0.538, 0.49, 0.58, 41.0, None, None, 320)
    row = replace(measured, gain=0.216, gain_low=0.166, gain_high=0.266)
    text = headline(
        [replace(row, policy="uniform", accuracy=0.322, gain=0.0, gain_low=0.0, gain_high=0.0), row]
    )
    assert text == (
        "At 48 mean tokens allowed (replay, 320 questions): hull greedy (granted) is right on 53.8% instead "
        "of 32.2% under an even spread, +21.6 points [+16.6, +26.6]."
    )
    weak = headline([replace(row, gain_low=-0.01)])
    assert weak.startswith("No policy's gain is clear of 0. The best: at 48 mean tokens")
    assert headline([replace(row, policy="honest_oracle")]) == ""  # an oracle is no finding


def test_folders_of_equal_names_have_anchors_of_their_own(experiment: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(experiment, tmp_path / "other" / "one")
    page = Page(write_report([experiment, copied], tmp_path / "out").read_text(encoding="utf-8"))
    assert page.links == ["#one", "#one-2"]
    assert page.ids[1:] == ["one", "one-2"]


def test_sweeps_and_ablations_are_reported_too(tmp_path: Path) -> None:
    score = {
        "window_pearson": 0.5,
        "window_pearson_std": 0.01,
        "flattened_pearson": 0.7,
        "flattened_pearson_std": 0.02,
    }
    scores = [{**score, "layer": 2}, {**score, "layer": 4, "window_pearson": 0.6}]
    write_json(tmp_path / "layers" / "sweep.json", {"settings": {"seed": 3}, "scores": scores})
    rows = [
        {"schedule": "a", "accuracy": 0.5, "gain": None, "nfe": [1.25, 3]},
        {"schedule": "b", "accuracy": 0.75},
    ]
    write_json(tmp_path / "ablated" / "ablation.json", {"rows": rows, "schedules": {}, "run": RUN.__dict__})
    text = write_report([tmp_path / "layers", tmp_path / "ablated"], tmp_path / "out").read_text(
        encoding="utf-8"
    )
    assert "Layer 4 of 2 tried predicts best: a correlation of 0.600 per budget" in text
    assert "Most accurate is b, with 75.0%." in text
    write_json(tmp_path / "layers" / "sweep.json", {"settings": {}, "scores": [{"layer": 1}]})
    with pytest.raises(
        ValueError, match=r"sweep.json must be as its command wrote it, but KeyError\('window_pearson'\)"
    ):
        write_report([tmp_path / "layers"], tmp_path / "out")


WIDTHS = (390, 800, 1280)
# Written into a copy of the page: how far anything reaches beyond the window, or a cell beyond its table.
MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const wide = document.documentElement.clientWidth, cut = [];
  document.querySelectorAll("td, th, p, h2, caption, img").forEach(e => {
    const box = e.getBoundingClientRect();
    const inner = e.clientWidth && e.scrollWidth > e.clientWidth + 1;
    if (box.width && (box.right > wide + 1 || box.left < -1 || inner)) {
      cut.push(e.tagName + " " + e.textContent.slice(0, 30));
    }
  });
  document.title = "CUT " + JSON.stringify({wide, page: document.documentElement.scrollWidth, cut});
});</script>"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_column_is_cut_in_a_real_browser(
    experiment: Path, replayed: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    page = write_report([experiment, replayed], tmp_path / "out")
    # A window of a headless browser has its least width; a frame has any.
    (tmp_path / "measured.html").write_text(page.read_text(encoding="utf-8") + MEASURE, encoding="utf-8")
    frame = f'<iframe src="measured.html" width="{width}" height="4000" style="border:0"></iframe>'
    show = "setTimeout(() => document.body.append(frames[0].document.title), 300)"
    read = f"<script>addEventListener('load', () => {show})</script>"
    (tmp_path / "frame.html").write_text(frame + read, encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=4000", "--window-size=1400,900"]
    command += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", "--dump-dom"]
    shown = subprocess.run(
        [*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"CUT (\{.*\})", html.unescape(shown.stdout))
    assert found, shown.stderr
    measured = json.loads(found.group(1))
    assert measured["cut"] == []
    assert measured["page"] <= measured["wide"] <= width


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs must be at least one folder, got none"):
        write_report([], tmp_path)
