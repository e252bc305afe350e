"""Modules under their former names, for one version: imports and class paths of before 0.2 go on working."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class MovedModules(MetaPathFinder, Loader):
    """Finds modules by the names they had; each use of one says the new name in a `FutureWarning`."""

    def __init__(self, moved: Mapping[str, Sequence[str]]) -> None:
        """Former module name to the modules that hold its contents now; none for a former package."""
        self.moved = moved

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a former name; None for every other."""
        if fullname not in self.moved:
            return None
        return ModuleSpec(fullname, self, is_package=not self.moved[fullname])

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that looks its names up where they are now."""
        return _Former(spec.name, self.moved[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: names are looked up when they are asked for."""


class _Former(ModuleType):
    def __init__(self, name: str, homes: Sequence[str]) -> None:
        super().__init__(name)
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system and inspect ask every module
            raise AttributeError(name)
        for home in self._homes:
            module = importlib.import_module(home)
            if hasattr(module, name):
                said = f"{self.__name__}.{name} is now {home}.{name}; the former name goes with 0.3"
                warnings.warn(said, FutureWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"{self.__name__!r} has no attribute {name!r}, nor have {list(self._homes)}")


def keep_former_names(moved: Mapping[str, Sequence[str]]) -> None:
    """Let former module names be imported; calling it again with the same names changes nothing."""
    if not any(isinstance(finder, MovedModules) and finder.moved == moved for finder in sys.meta_path):
        sys.meta_path.append(MovedModules(moved))
