"""Texts from a command line and values from YAML files, as a function's parameters want them."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ps_alloc.errors import did_you_mean


def convert(value: Any, hint: Any) -> Any:
    """A text from the command line, or a value from a YAML file, as its parameter's type wants it.

    Raises:
        ValueError: Saying what it must be, and what it is.
    """
    if value is None or value == "null":
        if is_optional(hint):
            return None
        raise ValueError("given a value, got none")
    plain = plain_type(hint)
    if get_origin(plain) is Literal:
        if value not in get_args(plain):
            raise ValueError(f"one of {', '.join(map(str, get_args(plain)))}, got {value!r}")
        return value
    if is_dataclass(plain):
        return _as_dataclass(value, plain)  # type: ignore[arg-type]
    if is_list(hint):
        item = get_args(plain)[0]
        if is_dataclass(item):
            value = yaml_value(value) if isinstance(value, str) else value
            if not isinstance(value, list):
                raise ValueError(f"a list, got {value!r}")
            return get_origin(plain)(convert(part, item) for part in value)
        parts = value if isinstance(value, list | tuple) else _split(str(value))
        flat = [p for part in parts for p in (_split(part) if isinstance(part, str) else [part])]
        return get_origin(plain)(convert(part, item) for part in flat)
    if plain is dict:
        value = yaml_value(value) if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            raise ValueError(f"names with values, such as '{{dtype: bfloat16}}', got {value!r}")
        values = (get_args(without_none(hint)) or (str, Any))[1]
        return {str(k): v if values is Any else convert(v, values) for k, v in value.items()}
    if plain is bool:
        if not isinstance(value, bool):
            raise ValueError(f"true or false, got {value!r}")
        return value
    if plain is str:
        return str(value)
    try:
        number = plain(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool) or (plain is int and number != float(value)):
        raise ValueError(f"{'a whole number' if plain is int else 'a number'}, got {value!r}") from None
    return number


def _as_dataclass(value: Any, cls: type) -> Any:
    hints = get_type_hints(cls)
    if not isinstance(value, Mapping):
        raise ValueError(f"settings by name, got {value!r}")
    for name in value:
        if name not in hints:
            raise ValueError(f"settings of {cls.__name__}, got {name!r}{did_you_mean(str(name), hints)}")
    given = {}
    for name, content in value.items():
        try:
            given[name] = convert(content, hints[name])
        except ValueError as error:
            raise ValueError(f"settings of {cls.__name__}, whose {name} must be {error}") from error
    for one in fields(cls):
        if one.name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(
                f"settings of {cls.__name__} with a {one.name}, got {', '.join(given) or 'none'}"
            )
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"right and whole, but {error}") from error


def from_text(text: str, hint: Any) -> Any:
    """An environment variable's text: switches are true or false there, as in YAML."""
    return yaml_value(text) if plain_type(hint) is bool else text


def without_none(hint: Any) -> Any:
    """A type without `| None`."""
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not NoneType)
    return hint


def plain_type(hint: Any) -> Any:
    """A type without `| None`, and of `dict[str, Any]` the dict."""
    hint = without_none(hint)
    return dict if get_origin(hint) is dict else hint


def is_optional(hint: Any) -> bool:
    """Whether a type allows None."""
    return NoneType in get_args(hint)


def is_list(hint: Any) -> bool:
    """Whether a type is a list or tuple, or none."""
    return get_origin(plain_type(hint)) in (list, tuple)


def _split(text: str) -> list[str]:
    inner = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip().strip("'\"") for part in inner.split(",") if part.strip()]


def yaml_value(text: str) -> Any:
    """A text read as YAML; itself where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def grouped(function: Callable[..., object], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A function's arguments of settings by name, those of its dataclasses put together.

    Raises:
        ValueError: As a dataclass does.
    """
    arguments = dict(settings)
    for name, cls in groups_of(function).items():
        names = [field.name for field in fields(cls) if field.name in arguments]
        arguments[name] = cls(**{field: arguments.pop(field) for field in names})
    return arguments


def groups_of(function: Callable[..., object]) -> dict[str, type]:
    """The dataclasses among a function's parameters, by the parameters' names."""
    hints = get_type_hints(function)
    return {name: hints[name] for name in inspect.signature(function).parameters if is_dataclass(hints[name])}


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments by the names of their flags, groups taken apart: what its records keep."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if is_dataclass(value):
            flat |= {field.name: getattr(value, field.name) for field in fields(value)}
        else:
            flat[name] = value
    return flat


def as_flags(*groups: Any) -> str:
    """Groups of settings as they would be typed, without what has its default: for a command that follows."""
    words: list[str] = []
    for group in groups:
        for field in fields(group):
            value, flag = getattr(group, field.name), f"--{field.name.replace('_', '-')}"
            if value == field.default:
                continue
            if isinstance(value, Mapping):
                words += [word for key, one in value.items() for word in (f"{flag}.{key}", str(one))]
            else:
                words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
