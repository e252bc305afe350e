"""What the site needs beyond the pages: generated references, and links that lead into the repository."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
COMMANDS = {"ps-eval": "ps_eval.cli", "ps-train": "ps_train.cli", "ps-alloc": "ps_alloc.cli"}
LIGHTNING = ("fit", "validate", "test", "predict")  # hundreds of flags each: `--help` shows them
_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#]*)(?:#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    pages = {
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "reference/configs.md": configs_page(),
    }
    for command, module in COMMANDS.items():
        pages[f"reference/cli/{command}.md"] = cli_page(command, module)
    for package in ("ps_alloc", "ps_train", "ps_eval"):
        pages[f"reference/api/{package}.md"] = api_page(package)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to files outside docs/ become their paths: the site does not hold them.

    Raises:
        ValueError: If there is no such file.
    """

    def shown(match: re.Match[str]) -> str:
        target = (ROOT / "docs" / page.file.src_uri).parent / match.group(2)
        resolved = Path(os.path.normpath(target))
        if resolved.is_relative_to(ROOT / "docs"):
            return match.group()
        if not resolved.exists():
            raise ValueError(f"{page.file.src_uri} must link to what exists, but {match.group(2)} does not")
        path = resolved.relative_to(ROOT).as_posix()
        return f"{match.group(1)} (`{path}`)" if match.group(1).strip("`") != path else f"`{path}`"

    return _LINK.sub(shown, markdown)


def cli_page(command: str, module: str) -> str:
    """Every subcommand's `--help`, as the parsers print it."""
    main = import_module(module).main
    names = [name for name in subcommands(module) if name not in LIGHTNING]
    parts = [f"# {command}", "", "```text", printed(main, []), "```", ""]
    for name in names:
        parts += [f"## {command} {name}", "", "```text", printed(main, [name, "--help"]), "```", ""]
    return "\n".join(parts)


def subcommands(module: str) -> list[str]:
    """The names of a command's subcommands."""
    loaded = import_module(module)
    if hasattr(loaded, "COMMANDS"):
        return list(loaded.COMMANDS)
    return re.findall(r"^  ([a-z-]+)  +[a-z]", loaded.OVERVIEW, flags=re.MULTILINE)


def printed(main: Any, arguments: list[str]) -> str:
    """What a command prints when called in this process."""
    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
        main(arguments)
    return out.getvalue().rstrip().replace(str(Path.home()), "~")


def api_page(package: str) -> str:
    """One mkdocstrings block a public name."""
    names = sorted(import_module(package).__all__)
    blocks = "\n\n".join(f"::: {package}.{name}" for name in names)
    return f"# {package}\n\n{import_module(package).__doc__}\n\n{blocks}\n"


def configs_page() -> str:
    """Each shipped config with its first comment."""
    lines = ["# Configs", "", "Shipped settings; any of them can be overridden on the command line.", ""]
    lines += ["| file | what it is for |", "|---|---|"]
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        comment = " ".join(line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#"))
        yaml.safe_load(text)  # a config that cannot be read must not be documented
        first = comment.split(". ")[0].rstrip(".:").replace("|", "\\|") if comment else "–"
        lines.append(f"| `{path.relative_to(ROOT).as_posix()}` | {first} |")
    return "\n".join(lines) + "\n"
