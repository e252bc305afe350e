"""What docstrings say of arguments and fields: the help of their flags."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from itertools import pairwise


def field_docstrings(cls: type) -> dict[str, str]:
    """What stands below each field of a dataclass, as one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = (
                below.value.value
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                else ""
            )
            found[field.target.id] = " ".join(str(text).split())
    return found


def read_docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """What a docstring says before its sections, and of each argument."""
    text = inspect.getdoc(function) or ""
    before, _, rest = text.partition("\nArgs:\n")
    summary = re.split(r"\n(?:Returns|Raises|Yields):\n", before)[0]
    explained: dict[str, str] = {}
    name = ""
    for line in rest.split("\n\n")[0].splitlines():
        if match := re.match(r" {4}(\w+): (.*)", line):
            name, explained[match[1]] = match[1], match[2]
        elif name:
            explained[name] += " " + line.strip()
    return summary.strip(), explained
