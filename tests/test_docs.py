"""The documentation: its Python blocks run, its links lead somewhere, the site builds without a network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# A comment before a block says why it is not run here, and what is.
NOT_RUN = re.compile(r"<!-- not run: [^>]{5,} -->\s*\Z")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block without a language right behind a Python block is what it prints.
PRINTED = re.compile(r"^```python\n(?:(?!^```).)*?^```\n+```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [m.group(1) for m in BLOCK.finditer(text) if not NOT_RUN.search(text[: m.start()])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if python_blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_python_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    """As one program, from a checkout's root, with the warnings that a user would see."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(python_blocks(page)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for printed in PRINTED.findall(page.read_text(encoding="utf-8")) if page.name == "README.md" else ():
        assert " ".join(printed.split()) in " ".join(done.stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    generated = ROOT / "docs" / "reference", ROOT / "docs" / "changelog.md"
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / link).resolve() for link in links]
    missing = [
        t for t in targets if not t.exists() and not any(t == g or t.is_relative_to(g) for g in generated)
    ]
    assert not missing


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in titles]
    return {slugify(title, "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*\.md)?#([^)]+)\)", page.read_text(encoding="utf-8"))
    targets = [((page.parent / name).resolve() if name else page, anchor) for name, anchor in links]
    known = [(p, a) for p, a in targets if p.exists() and "reference" not in p.parts]
    assert not [f"{p.name}#{a}" for p, a in known if a not in anchors(p)]


def test_the_twenty_tasks_name_commands_and_pages_that_are_there() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.+?) \| (.+?) \| (.+) \|$", (ROOT / "docs/tasks.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number, *_ in rows] == list(range(1, 21))
    for _, task, page, short in rows:
        assert re.search(r"\]\([\w/]+\.md", page), task
        for tool, command in re.findall(r"`(ps-\w+) ([a-z-]+)", short):
            module = importlib.import_module(f"{tool.replace('-', '_')}.cli")
            if tool == "ps-alloc":  # the one without a table of its commands
                with pytest.raises(SystemExit, match=r"^0$"):
                    module.main([command, "--help"])
                continue
            known = {**module.COMMANDS, **getattr(module, "LIGHTNING", {})}
            assert command in known, f"{task}: {tool} {command}"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "reference/cli/ps-eval/index.html", "reference/api/ps_alloc/index.html"):
        assert (tmp_path / page).is_file()
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in text
