"""The public names and their signatures, as stubs: `python tests/public_api.py` renews tests/api_snapshot/.

What is public is what the packages export (docs/versioning.md). The stubs are those of the last release, or
of the last change that was meant; griffe compares them with the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).parent / "api_snapshot"
PACKAGES = ("ps_alloc", "ps_train", "ps_eval")
HEAD = "# Made by tests/public_api.py: the public names of {}. A change here is one that users see.\n"


def load(package: str, folder: Path = ROOT) -> Any:
    """A package as griffe sees it, nothing of it imported."""
    loader = griffe.GriffeLoader(search_paths=[folder], allow_inspection=False)
    loaded = loader.load(package, try_relative_path=False)
    for below in PACKAGES:  # signatures may name classes of a lower floor
        if below != package and folder == ROOT:
            loader.load(below)
    loader.resolve_aliases(implicit=True)
    return loaded


def stubs(package: str) -> str:
    """The stub file of a package's exports."""
    loaded = load(package)
    lines = [HEAD.format(package), "from typing import Any\n"]
    for name in sorted(str(export) for export in loaded.exports):
        found = loaded[name]
        target = found.final_target if found.is_alias else found
        target = target[name] if target.is_module else target  # `ps_alloc.allocate` is both
        lines += _class(target) if target.is_class else [_function(target)]
    return "\n".join(lines) + "\n"


def breaking_changes(package: str, folder: Path, before: Path = SNAPSHOT) -> list[str]:
    """What users of the stubs in `before` would trip over, one sentence each; `folder` is scratch."""
    target = folder / package / "__init__.pyi"
    target.parent.mkdir(parents=True)
    target.write_text(stubs(package), encoding="utf-8")
    found = griffe.find_breaking_changes(load(package, before), load(package, folder))
    return [change.explain(griffe.ExplanationStyle.ONE_LINE) for change in found]


def _class(cls: Any) -> list[str]:
    lines = [f"\nclass {cls.name}:"]
    for name, member in sorted(cls.all_members.items()):
        if (name.startswith("_") and name != "__init__") or (member.is_alias and not member.inherited):
            continue
        target = member.final_target if member.is_alias else member
        if target.is_function:
            lines.append(_function(target, indent="    "))
        elif target.is_attribute:
            lines.append(f"    {name}: Any")
    return [*lines, "    ..."] if len(lines) == 1 else lines


def _function(function: Any, indent: str = "") -> str:
    parts, star = [], False
    positional_only = [p.name for p in function.parameters if p.kind.value == "positional-only"]
    for parameter in function.parameters:
        kind, name = parameter.kind.value, parameter.name
        if kind == "keyword-only" and not star:
            parts.append("*")
            star = True
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        star = star or kind == "variadic positional"
        default = "" if parameter.default is None or prefix else f"={parameter.default}"
        parts.append(f"{prefix}{name}{default}")
        if positional_only and name == positional_only[-1]:
            parts.append("/")
    decorator = ""
    for label in ("classmethod", "staticmethod"):
        if label in function.labels:
            decorator = f"{indent}@{label}\n"
    return f"{decorator}{indent}def {function.name}({', '.join(parts)}): ..."


def main() -> int:
    """Write the stubs of all packages."""
    for package in PACKAGES:
        target = SNAPSHOT / package / "__init__.pyi"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(stubs(package), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
