"""Imports and class paths of before the rooms go on working for one version, and say the new name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pkgutil import resolve_name

import pytest

import ps_eval
import ps_train
from ps_alloc.moved import MovedModules, keep_former_names
from ps_train.curve_table import CurveTable

FORMER = {**ps_train.FORMER_NAMES, **ps_eval.FORMER_NAMES}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """A former module that was imported once stays in `sys.modules`."""
    yield
    for name in FORMER:
        sys.modules.pop(name, None)


def test_a_former_name_gives_the_same_object_and_says_the_new_one() -> None:
    message = r"ps_train.data.curve_table.CurveTable is now ps_train.curve_table.CurveTable; .* with 0[.]3"
    with pytest.warns(FutureWarning, match=message):
        from ps_train.data.curve_table import CurveTable as Former  # type: ignore[import-not-found]
    assert Former is CurveTable


@pytest.mark.parametrize("former", [name for name, homes in FORMER.items() if homes])
def test_every_former_module_leads_to_modules_that_exist(former: str) -> None:
    assert importlib.import_module(former).__name__ == former
    for home in FORMER[former]:
        assert importlib.util.find_spec(home) is not None, home


def test_a_class_path_of_a_former_config_is_still_found() -> None:
    with pytest.warns(FutureWarning, match="is now ps_train.curve.mlp.CurveMLP"):
        assert resolve_name("ps_train.modules.curve_mlp:CurveMLP").__name__ == "CurveMLP"


def test_what_is_in_none_of_the_new_modules_is_an_error() -> None:
    module = importlib.import_module("ps_train.data.questions")
    with pytest.raises(
        AttributeError, match=r"'ps_train.data.questions' has no attribute 'nothing', nor have"
    ):
        _ = module.nothing


def test_names_are_registered_once() -> None:
    finders = [finder for finder in sys.meta_path if isinstance(finder, MovedModules)]
    keep_former_names(ps_train.FORMER_NAMES)
    assert [finder for finder in sys.meta_path if isinstance(finder, MovedModules)] == finders
