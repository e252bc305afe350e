"""`ps-eval report`: folders of results to one self-contained HTML page and its Markdown twin."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from ps_alloc.files import atomic_path
from ps_eval.reporting.sections import MOST_ROWS, Section, read_section
from ps_eval.reporting.words import MEANINGS

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"


def report_command(runs: list[str], *, output: str = "runs/report") -> None:
    """Collect folders of results into one self-contained HTML page, and a Markdown file beside it.

    Args:
        runs: Outputs of `ps-eval run`, `replay`, `demo`, `experiment` and `ablate`, and of `ps-train sweep`.
        output: Folder to write `report.html` and `report.md` into.

    Raises:
        ValueError: If a folder holds none of their results, or is damaged.
    """
    Console().print(f"Written: {write_report(runs, output)}", highlight=False)


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write the report of some folders.

    Args:
        runs: At least one folder that `read_section` reads.
        output: The report's folder.

    Returns:
        The HTML page's path. Pictures are inside it; the Markdown file links to those of the runs.

    Raises:
        ValueError: If there is no run, or one cannot be read.
    """
    if not runs:
        raise ValueError("runs must be at least one folder, got none")
    sections = [read_section(Path(run)) for run in runs]
    output = Path(output)
    environment = Environment(
        loader=PackageLoader("ps_eval.reporting"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["relative"] = lambda path: Path(os.path.relpath(path, output)).as_posix()
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    content = {
        "sections": list(zip(_anchors(sections), sections, strict=True)),
        "claims": [claim for section in sections for claim in section.claims],
        "meanings": MEANINGS,
        "most_rows": MOST_ROWS,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    for name in (HTML_FILE, MARKDOWN_FILE):
        text = environment.get_template(f"{name}.j2").render(content)
        with atomic_path(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return output / HTML_FILE


def _anchors(sections: Sequence[Section]) -> list[str]:
    """One anchor a section: folders may have equal names."""
    anchors: list[str] = []
    for section in sections:
        base = re.sub(r"[^\w-]+", "-", section.title).strip("-") or "section"
        name, count = base, 1
        while name in anchors:
            count += 1
            name = f"{base}-{count}"
        anchors.append(name)
    return anchors


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
