"""A function's signature as a command's flags, and its docstring as their help: argparse, nothing else.

`min_windows: int = 1` is `--min-windows 1`; a list is `--budgets 32,48`, or given in parts; a bool is
`--quick` or `--no-quick`; a dict is `--engine-options.dtype bfloat16`; a dataclass (`ps_eval.flag_groups`) is
a flag a field; what may be given by position (`NAME`, `RUNS …`) is. `--config FILE.yaml` brings any of them,
and flags win over it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml

from ps_alloc.errors import did_you_mean
from ps_eval.docstrings import field_docstrings, read_docstring
from ps_eval.flag_values import (
    convert,
    from_text,
    grouped,
    groups_of,
    is_list,
    plain_type,
    yaml_value,
)

ABSENT: Any = inspect.Parameter.empty
EXAMPLE_WIDTH = 76
"""Columns of a line of an example, without the backslash at its end."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Paragraphs and examples as they are; of a switch that is off by default, the flag that turns it on."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction) and action.metavar:
            return str(action.metavar)
        return super()._format_action_invocation(action)


class CommandParser(argparse.ArgumentParser):
    """The flags of one command; what is wrong with them is said with its own usage and exit code 2."""

    def __init__(
        self,
        prog: str,
        function: Callable[..., object],
        fields_of: type | None = None,
        environment: str | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        """Make the flags.

        Args:
            prog: How the command is called.
            function: What it runs. Its parameters have types and, under `Args:`, a line each; a dataclass is
                one flag a field, each with a docstring.
            fields_of: A dataclass whose fields are the flags, instead of the function's parameters; each has
                a docstring. Its `SECTIONS`, where it has them, are titles by the first field below each.
            environment: Prefix of the variables that a setting may also come from.
            examples: What may be typed behind `prog`; shown at the end of the help.
        """
        text, explained = read_docstring(function)
        explained = explained if fields_of is None else field_docstrings(fields_of)
        source = function if fields_of is None else fields_of
        self._environment = environment
        super().__init__(
            prog=prog,
            usage=f"{prog} [flags]",
            description=_wrapped(text),
            epilog=_as_examples(prog, examples),
            formatter_class=_Formatter,
            allow_abbrev=False,
            argument_default=ABSENT,
        )
        self._hints: dict[str, Any] = {}
        self._parameters: dict[str, inspect.Parameter] = {}
        self._function, self._fields_of = function, fields_of
        groups = {} if fields_of else groups_of(function)
        hints = get_type_hints(source)
        section: argparse._ActionsContainer = self
        titles = getattr(fields_of, "SECTIONS", {})
        for name, parameter in inspect.signature(source).parameters.items():
            if name in groups:
                self._add_group(groups[name])
                continue
            if name in titles:
                section = self.add_argument_group(titles[name])
            self._add(section, name, parameter, hints[name], explained.get(name, ""))
        self.add_argument("--config", metavar="FILE", help="YAML file with any of these settings")
        width = max(20, shutil.get_terminal_size().columns - len("usage: "))
        self.usage = textwrap.fill(
            str(self.usage), width, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False
        )

    def _add_group(self, group: type) -> None:
        """A flag a field, under the class's own title."""
        section = self.add_argument_group((inspect.getdoc(group) or "").partition(".")[0])
        hints, explained = get_type_hints(group), field_docstrings(group)
        for name, parameter in inspect.signature(group).parameters.items():
            # A field without a default may stand by position in Python; on the command line it is a flag.
            named = parameter.replace(kind=parameter.KEYWORD_ONLY)
            self._add(section, name, named, hints[name], explained.get(name, ""))

    def _add(
        self,
        section: argparse._ActionsContainer,
        name: str,
        parameter: inspect.Parameter,
        hint: Any,
        explained: str,
    ) -> None:
        self._parameters[name], self._hints[name] = parameter, hint
        required = parameter.default is ABSENT
        text = explained.replace("%", "%%")
        if not required and parameter.default not in (None, "", (), []) and parameter.default is not False:
            text += f" (default: {_shown(parameter.default)})"
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            many = is_list(hint)
            metavar = f"{name.upper()} …" if many else name.upper()
            section.add_argument(name, nargs="*" if many else "?", metavar=metavar, help=text)
        elif plain_type(hint) is bool:
            switch = section.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
            if parameter.default is False:  # `--no-…` only says what is so anyway
                switch.metavar = _flag(name)
        else:
            # A list may be given in parts: `--columns a=b --columns c=d`.
            plain = is_list(hint) and not is_dataclass(get_args(plain_type(hint))[0])
            parts: dict[str, Any] = {"action": "append", "default": None} if plain else {}
            section.add_argument(_flag(name), metavar=_metavar(hint), help=text, **parts)
        self.usage = f"{self.usage}{' ' + _usage(name, parameter, hint) if required else ''}"

    def settings(self, args: Sequence[str]) -> dict[str, Any]:
        """The arguments that `args` give the function.

        Raises:
            SystemExit: After `--help` (0), or after a sentence about what is wrong (2).
        """
        rest, given = self._take_nested(args)
        self._refuse_unknown(rest)
        found = {k: v for k, v in vars(self.parse_args(rest)).items() if v not in (ABSENT, [], None)}
        settings = self._from_environment()
        if path := found.pop("config", None):
            settings |= self._from_file(path)
        for name, value in found.items():
            settings[name] = self._converted(name, "null" if value == ["null"] else value)
        for name, value in given.items():
            settings[name] = self._converted(name, {**(settings.get(name) or {}), **value})
        missing = [n for n, p in self._parameters.items() if p.default is ABSENT and n not in settings]
        if missing:
            names = [n.upper() if self._by_position(n) else _flag(n) for n in missing]
            self.error(f"{', '.join(names)} must be given")
        try:
            return settings if self._fields_of else grouped(self._function, settings)
        except ValueError as error:
            self.error(str(error))

    def _by_position(self, name: str) -> bool:
        return self._parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD

    def _take_nested(self, args: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Split off `--engine-options.dtype bfloat16`; and write `--quick true` as what argparse knows."""
        rest: list[str] = []
        nested: dict[str, dict[str, Any]] = {}
        words = iter(args)
        for word in words:
            flag, equals, value = word.partition("=")
            name, dot, key = flag.removeprefix("--").partition(".")
            name = name.replace("-", "_")
            hint = plain_type(self._hints.get(name, str))
            if not word.startswith("--"):
                switch = rest[-1].removeprefix("--").replace("-", "_") if rest else ""
                if word in ("true", "false") and self._hints.get(switch) is bool:
                    rest[-1] = rest[-1] if word == "true" else f"--no-{rest[-1].removeprefix('--')}"
                else:
                    rest.append(word)
            elif dot and hint is dict:
                content = value if equals else next(words, None)
                if content is None:
                    self.error(f"{flag} must have a value")
                nested.setdefault(name, {})[key] = yaml_value(content)
            elif hint is bool and value in ("true", "false"):
                rest.append(f"--{'' if value == 'true' else 'no-'}{name.replace('_', '-')}")
            else:
                rest.append(_flag(flag.removeprefix("--")) + equals + value)
        return rest, nested

    def _refuse_unknown(self, args: Sequence[str]) -> None:
        """Before anything else: a misspelt flag is not a missing one."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in args:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag != "--" and flag not in known:
                self.error(f"there is no {flag}{did_you_mean(flag, known)}")

    def _from_environment(self) -> dict[str, Any]:
        if self._environment is None:
            return {}
        texts = {name: os.environ.get(self._environment + name.upper()) for name in self._parameters}
        found = {name: text for name, text in texts.items() if text is not None}
        return {
            name: self._converted(name, from_text(text, self._hints[name])) for name, text in found.items()
        }

    def _from_file(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as file:  # YAML finds out by itself whether it is UTF-8 or UTF-16
                content = yaml.safe_load(file)
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.error(f"--config must be a readable YAML file, got {path}: {' '.join(str(error).split())}")
        if not isinstance(content, Mapping):
            self.error(f"--config must hold settings by name, got {path}")
        settings = {str(name).replace("-", "_"): value for name, value in content.items()}
        for name in settings:
            if name not in self._parameters:
                self.error(f"{path}: there is no setting {name!r}{did_you_mean(name, self._parameters)}")
        return {name: self._converted(name, value) for name, value in settings.items()}

    def _converted(self, name: str, value: Any) -> Any:
        try:
            return convert(value, self._hints[name])
        except ValueError as error:
            self.error(f"{name.upper() if self._by_position(name) else _flag(name)} must be {error}")

    def error(self, message: str) -> NoReturn:
        """End with the command's usage, a sentence and exit code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n{self.prog} --help explains each.\n")


def _wrapped(text: str) -> str:
    """Paragraphs, each as wide as the terminal."""
    width = max(20, shutil.get_terminal_size().columns - 2)
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))


def _as_examples(prog: str, examples: Sequence[str]) -> str | None:
    """Examples under each other; a long one goes on below, before a flag."""
    lines: list[str] = []
    for example in examples:
        first, *flags = re.split(r" (?=--)", f"  {prog} {example}".rstrip())
        lines.append(first)
        for flag in flags:
            if len(lines[-1]) + len(flag) > EXAMPLE_WIDTH:
                lines[-1] += " \\"
                lines.append(f"      {flag}")
            else:
                lines[-1] += f" {flag}"
    return "\n".join(["examples:" if len(examples) > 1 else "example:", *lines]) if lines else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _usage(name: str, parameter: inspect.Parameter, hint: Any) -> str:
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
        return f"{name.upper()} …" if is_list(hint) else name.upper()
    return f"{_flag(name)} {_metavar(hint)}"


def _metavar(hint: Any) -> str:
    plain = plain_type(hint)
    if is_list(hint):
        item = get_args(plain)[0]
        return "N,N,…" if item in (int, float) else "A,B,…"
    if get_origin(plain) is Literal:
        return "|".join(map(str, get_args(plain)))
    return {int: "N", float: "X", dict: "{…}"}.get(plain, "TEXT")


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
